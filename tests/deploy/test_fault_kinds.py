"""deploy/docs/errors.md has a table of the kinds of faults that pydantic tells of our bodies and rows: all of them."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from dail.serve.batch_in import BatchIn
from dail.serve.bodies import RetryIn
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Beat, Commit, Fail, Heartbeat, Hello, LeaseRequest
from dail.train.evals.problems import EvalProblem
from dail.train.studies.pool import PoolRow
from tests.conftest import ROOT

PAGE = ROOT / "deploy" / "docs" / "errors.md"
BODIES = (BatchIn, RetryIn, Hello, LeaseRequest, Heartbeat, Commit, Fail, ExpertSolution, EvalProblem, PoolRow)
ITEM = {"problem": "1 + 1?", "solution": "It is 2."}
FAIL = {"worker": "w", "epoch": 1, "code": "c", "detail": "d", "retryable": True}
HELLO = {"worker": "w", "wire": 1, "tool_version": "1", "schema_version": 1, "model": 3, "time": 1}
HEADED = {"list_type", "bool_type"}  # kinds that are codes of our own too, with a paragraph
# What each node of pydantic's schemas may say of a value.
SAYS = {
    "str": ("string_type",),
    "int": ("int_type", "int_parsing", "int_from_float", "int_parsing_size", "finite_number"),
    "float": ("float_type", "float_parsing", "finite_number"),
    "bool": ("bool_type", "bool_parsing"),
    "date": ("date_type", "date_from_datetime_parsing", "date_from_datetime_inexact"),
    "dict": ("dict_type",),
    "list": ("list_type",),
    "tuple": ("tuple_type",),
    "literal": ("literal_error",),
    "model": ("model_type",),
    "model-fields": ("missing", "extra_forbidden"),
    "dataclass": ("dataclass_type",),
    "dataclass-args": ("missing",),
    "function-before": ("value_error",),
    "function-after": ("value_error", "too_short", "too_long"),  # length of what a function has checked, too
    "max_length": ("string_too_long", "too_long"),
    "min_length": ("string_too_short", "too_short"),
    "pattern": ("string_pattern_mismatch",),
    "gt": ("greater_than",),
    "ge": ("greater_than_equal",),
    "lt": ("less_than",),
    "le": ("less_than_equal",),
    "custom_error_type": ("invalid-json-value",),
}
SAY_NOTHING = {
    "any", "dataclass-field", "default", "definition-ref", "definitions", "json-or-python", "model-field", "no-info",
    "none", "nullable", "tagged-union", "union",
}  # fmt: skip
BOUNDS = ("max_length", "min_length", "pattern", "gt", "ge", "lt", "le", "custom_error_type")
SHOWN: dict[str, tuple[type[BaseModel], Any]] = {
    "missing": (ExpertSolution, {"problem": "1 + 1?"}),
    "extra_forbidden": (ExpertSolution, ITEM | {"answr": "2"}),
    "value_error": (ExpertSolution, ITEM | {"solution": " "}),
    "string_type": (ExpertSolution, ITEM | {"answer": 2}),
    "int_type": (Fail, FAIL | {"epoch": []}),
    "int_parsing": (Fail, FAIL | {"epoch": "one"}),
    "int_from_float": (Fail, FAIL | {"epoch": 1.5}),
    "int_parsing_size": (Fail, FAIL | {"epoch": "9" * 5000}),
    "finite_number": (ExpertSolution, ITEM | {"metadata": {"score": float("nan")}}),
    "float_type": (Synthesis, {"tau": []}),
    "float_parsing": (Synthesis, {"tau": "high"}),
    "bool_type": (Fail, FAIL | {"retryable": []}),
    "bool_parsing": (Fail, FAIL | {"retryable": "perhaps"}),
    "date_type": (Synthesis, {"date": []}),
    "date_from_datetime_parsing": (Synthesis, {"date": "today"}),
    "date_from_datetime_inexact": (Synthesis, {"date": "2026-11-26T10:00:00"}),
    "dict_type": (ExpertSolution, ITEM | {"metadata": 3}),
    "list_type": (Beat, {"checkpoint": {"ids": 3}}),
    "tuple_type": (ExpertSolution, ITEM | {"waypoints": 3}),
    "literal_error": (ExpertSolution, ITEM | {"kind": "joke"}),
    "model_type": (ExpertSolution, 3),
    "dataclass_type": (Beat, {"checkpoint": 3}),
    "string_too_long": (Hello, HELLO | {"worker": "w" * 257}),
    "too_long": (ExpertSolution, ITEM | {"answer": "2" * 513}),
    "string_too_short": (Hello, HELLO | {"worker": ""}),
    "too_short": (Synthesis, {"stop": [""]}),
    "string_pattern_mismatch": (ExpertSolution, ITEM | {"id": "no. 1"}),
    "greater_than": (Synthesis, {"exposure": 0}),
    "greater_than_equal": (Synthesis, {"samples_per_item": 0}),
    "less_than": (Synthesis, {"seed": 2**64}),
    "less_than_equal": (Synthesis, {"tau": 2}),
    "invalid-json-value": (ExpertSolution, ITEM | {"metadata": {"when": object()}}),
}


def nodes(schema: Any) -> Iterator[str]:
    """The types of a core schema's nodes, and the bounds that they have."""
    if isinstance(schema, dict):
        yield from (value for key, value in schema.items() if key == "type" and isinstance(value, str))
        yield from (bound for bound in BOUNDS if schema.get(bound) is not None)
        schema = [value for key, value in schema.items() if key not in ("serialization", "metadata")]
    if isinstance(schema, list | tuple):
        for value in schema:
            yield from nodes(value)


def test_every_kind_of_a_single_value_is_in_the_table() -> None:
    section = PAGE.read_text().partition("## Kinds of faults of single values")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    there = {code for row in rows for code in re.findall("`([^`]+)`", row)} | HEADED
    told = {kind for body in BODIES for kind in nodes(body.__pydantic_core_schema__)} - SAY_NOTHING
    assert there == {kind for node in told for kind in SAYS[node]}


@pytest.mark.parametrize("kind", SHOWN)
def test_a_kind_is_told(kind: str) -> None:
    model, value = SHOWN[kind]
    with pytest.raises(ValidationError) as refused:
        model.model_validate(value)
    assert kind in [fault["type"] for fault in refused.value.errors()]


def test_every_kind_that_may_be_told_is_shown() -> None:
    assert SHOWN.keys() == {kind for kinds in SAYS.values() for kind in kinds}
