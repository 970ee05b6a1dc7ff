"""deploy/docs/errors.md has a paragraph for every error code, and none for a code that is nowhere.

Codes are found by reading the source. What has a parameter or a field `code: str` tells codes (`ItemError`, `problem`,
`InputFault`, which mypy wants for every fault), and each call of it must show there which one: a text, the name of a
text, or what another such call has told.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from pydantic import BaseModel, ValidationError
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.batch_in import BatchIn
from dail.serve.bodies import RetryIn, WaitingFor
from dail.serve.metrics import REASONS
from dail.serve.settings import Settings
from dail.synth.method.data_check import FindingKind
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import BLAMELESS, Beat, Commit, Fail, Heartbeat, Hello, LeaseRequest
from dail.train.evals.problems import EvalProblem
from dail.train.studies.pool import PoolRow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy" / "docs" / "errors.md"
CODE = re.compile(r"[a-z][a-z0-9-]*(_[a-z0-9]+)*")
NO_CODES = {"none", "other"}  # labels of the metrics that name no code
ITEM = {"problem": "1 + 1?", "solution": "It is 2."}
FAIL = {"worker": "w", "epoch": 1, "code": "c", "detail": "d", "retryable": True}
HELLO = {"worker": "w", "wire": 1, "tool_version": "1", "schema_version": 1, "model": 3, "time": 1}
BODIES = (BatchIn, RetryIn, Hello, LeaseRequest, Heartbeat, Commit, Fail, ExpertSolution, EvalProblem, PoolRow)


class Module(NamedTuple):
    """`names`: of what is imported, where it is from; `texts`: constants that are a text."""

    path: str
    tree: ast.Module
    names: dict[str, tuple[str, str]]
    texts: dict[str, str]


class Teller(NamedTuple):
    """What is called with a code: at which place of its arguments, itself aside."""

    module: str
    name: str
    place: int


def module_of(path: Path, text: str) -> Module:
    tree = ast.parse(text)
    names = {
        one.asname or one.name: (node.module, one.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for one in node.names
    }
    texts = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return Module(str(path), tree, names, texts)


def dotted(path: Path) -> str:
    return ".".join(("dail", *path.with_suffix("").parts)).removesuffix(".__init__")


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    paths = (path.relative_to(ROOT) for room in ("synth", "serve", "train") for path in (ROOT / room).rglob("*.py"))
    return {dotted(path): module_of(path, (ROOT / path).read_text()) for path in sorted(paths)}


def is_code(name: str, annotation: ast.expr | None) -> bool:
    return name == "code" and isinstance(annotation, ast.Name) and annotation.id == "str"


def tellers(modules: dict[str, Module]) -> Iterator[Teller]:
    for name, module in modules.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                fields = [
                    one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                ]
                for place, one in enumerate(fields):
                    if is_code(ast.unparse(one.target), one.annotation):
                        yield Teller(name, node.name, place)
                for one in node.body:
                    if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                        yield from (Teller(name, node.name, place) for place in places(one))
            elif isinstance(node, ast.FunctionDef) and node.name != "__init__":
                yield from (Teller(name, node.name, place) for place in places(node))


def places(function: ast.FunctionDef) -> Iterator[int]:
    given = [one for one in function.args.args if one.arg != "self"]
    return (place for place, one in enumerate(given) if is_code(one.arg, one.annotation))


def teller_of(call: ast.Call, where: str, module: Module, known: dict[str, list[Teller]]) -> Teller | None:
    """Whom a call means: what this file defines or imports, or a method by its name."""
    is_name = isinstance(call.func, ast.Name)
    if not is_name and not isinstance(call.func, ast.Attribute):
        return None
    local = call.func.id if is_name else call.func.attr
    home, name = module.names.get(local, (where, local)) if is_name else (where, local)
    meant = [one for one in known.get(name, ()) if one.module == home or not (is_name or name.startswith("_"))]
    return meant[0] if meant else None


def told(value: ast.expr, module: Module, modules: dict[str, Module], function: ast.AST) -> list[str]:
    """The codes that an argument may be; none where it hands on what was told before. ValueError: who knows."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return [value.value]
    if isinstance(value, ast.IfExp):
        return told(value.body, module, modules, function) + told(value.orelse, module, modules, function)
    if isinstance(value, ast.Name):
        home, name = module.names.get(value.id, ("", value.id))
        text = modules[home].texts.get(name) if home in modules else module.texts.get(name)
        if text is not None:
            return [text]
        if not any(
            isinstance(one, ast.Assign) and value.id in map(ast.unparse, one.targets) for one in ast.walk(function)
        ):
            return []  # a parameter, or of a loop
    if isinstance(value, ast.Attribute) and value.attr in ("code", "error_code"):
        return []
    if ast.unparse(value).endswith("['type']") or ast.unparse(value) == "_code_of(status)":
        return []  # one of pydantic's kinds, or the framework's
    raise ValueError(f"{module.path}:{value.lineno}: {ast.unparse(value)} hides a code; write it in the call")


def called(modules: dict[str, Module]) -> Iterator[tuple[str, str]]:
    """(code, place) of every call that tells one."""
    known = defaultdict[str, list[Teller]](list)
    for one in tellers(modules):
        known[one.name].append(one)
    for where, module in modules.items():
        functions = [one for one in ast.walk(module.tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        within = {
            call: one for one in [module.tree, *functions] for call in ast.walk(one) if isinstance(call, ast.Call)
        }
        for call, function in within.items():  # outer functions come first, so that each call is of its innermost
            teller = teller_of(call, where, module, known)
            given = {one.arg: one.value for one in call.keywords}
            if teller and (value := given.get("code") or dict(enumerate(call.args)).get(teller.place)):
                yield from ((code, f"{module.path}:{call.lineno}") for code in told(value, module, modules, function))


def written(modules: dict[str, Module]) -> Iterator[tuple[str, str]]:
    """(code, place) of codes that stand there without a call: of error classes, defaults, what a verb prints."""
    for module in modules.values():
        for node in ast.walk(module.tree):
            values = list[ast.expr | None]()
            if isinstance(node, ast.ClassDef):
                values = [one.value for one in node.body if isinstance(one, ast.Assign) and sets_code(one)]
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute) and sets_code(node):
                values = [node.value]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) == 3:
                values = [node.args[2]] if ast.unparse(node.args[1]) == "'code'" else []
            elif isinstance(node, ast.Dict):
                values = [
                    value
                    for key, value in zip(node.keys, node.values, strict=True)
                    if key and ast.unparse(key) == "'error'"
                ]
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and CODE.fullmatch(value.value):
                    yield value.value, f"{module.path}:{node.lineno}"


def sets_code(node: ast.Assign) -> bool:
    return ast.unparse(node.targets[0]).rpartition(".")[2] == "code"


def of_the_framework(folder: Path) -> Iterator[tuple[str, str]]:
    settings = Settings(data_dir=folder, models={}, token=None, worker_token=None)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as api:
        for method, path in (("GET", "/nowhere"), ("PUT", "/v1/batches")):
            yield api.request(method, path).json()["code"], f"{method} {path}"


@pytest.fixture(scope="module")
def codes(modules: dict[str, Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every code, with one of the places where it is told."""
    waiting = get_args(WaitingFor.model_fields["reason"].annotation)
    named = [
        *((code, "WaitingFor of serve/bodies.py") for code in waiting),
        *((code, "FindingKind of synth/method/data_check.py") for code in get_args(FindingKind)),
        *((code, "BLAMELESS of synth/schema/units.py") for code in BLAMELESS),
        *((code, "REASONS of serve/metrics.py") for code in set(REASONS) - NO_CODES),
        *of_the_framework(tmp_path_factory.mktemp("api")),
    ]
    return dict(named) | dict(written(modules)) | dict(called(modules))


def paragraphs(page: str) -> dict[str, str]:
    """By heading, what stands below it up to the next heading of any rank."""
    parts = re.split(r"^(#{1,3} .+)\n", page, flags=re.MULTILINE)
    return {head[4:]: text.strip() for head, text in zip(parts[1::2], parts[2::2], strict=True) if head[:4] == "### "}


def differences(codes: dict[str, str], page: str) -> list[str]:
    """What the page lacks, and what it has too much."""
    there = {head.strip("`"): text for head, text in paragraphs(page).items()}
    missing = [f"`{code}` ({place}) has no paragraph" for code, place in codes.items() if not there.get(code)]
    return missing + [f"`{code}` is told nowhere" for code in there if code not in codes]


def test_every_code_has_its_paragraph_and_every_paragraph_its_code(codes: dict[str, str]) -> None:
    assert differences(codes, PAGE.read_text()) == []


def test_a_page_without_a_paragraph_or_with_one_too_many_is_refused(codes: dict[str, str]) -> None:
    page = PAGE.read_text()
    blank = re.sub(r"(### `fenced`\n).+?(?=\n### )", r"\1", page, flags=re.DOTALL)
    without = page.replace("### `fenced`", "### `fence`")
    assert differences(codes, blank) == [f"`fenced` ({codes['fenced']}) has no paragraph"]
    assert differences(codes, without) == [f"`fenced` ({codes['fenced']}) has no paragraph", "`fence` is told nowhere"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise ItemError("a_b", "words")', ["a_b"]),
        ('raise ItemError(code="a_b", message="words")', ["a_b"]),
        ('raise ItemError("a" if empty else "b", "words")', ["a", "b"]),
        ('WHY = "a_b"\nraise ItemError(WHY, "words")', ["a_b"]),
        ("def f(error):\n    raise ItemError(error.code, str(error))", []),
        ('class Own(DailError):\n    code = "a_b"', ["a_b"]),
        ('tell({"error": "a_b", "exit_code": 2})', ["a_b"]),
        ('print("a_b", other("a_b", "words"))', []),
    ],
)
def test_what_tells_a_code_is_found(modules: dict[str, Module], source: str, found: list[str]) -> None:
    own = module_of(Path("own.py"), "from dail.synth.core.errors import DailError, ItemError\n" + source)
    home = "dail.synth.core.errors"
    codes = [*called({home: modules[home], "own": own}), *written({"own": own})]
    assert [code for code, place in codes if place.startswith("own.py")] == found


def test_a_code_that_a_call_hides_is_refused(modules: dict[str, Module]) -> None:
    home = "dail.synth.core.errors"
    source = f"from {home} import ItemError\ndef f():\n    why = made_up()\n    raise ItemError(why, 'words')"
    with pytest.raises(ValueError, match=r"own\.py:4: why hides a code"):
        list(called({home: modules[home], "own": module_of(Path("own.py"), source)}))


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
    there = {code for row in rows for code in re.findall("`([^`]+)`", row)} | {"list_type", "bool_type"}
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
