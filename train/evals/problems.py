"""The problems of an evaluation: a JSONL file with one `{"id", "problem", "answer", "metadata"}` a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError, field_validator

from dail.synth.core.config import Frozen
from dail.synth.core.errors import InputError, UsageError, describe
from dail.synth.schema.items import ItemId, Problem, Short, strict_json

# A file of expert solutions is a file of problems too; these of its columns play no part here.
_EXPERT_COLUMNS = ("solution", "kind", "source", "license")


class EvalProblem(Frozen):
    """A problem with a checkable answer. `metadata.group` names the part of the set it is reported under."""

    id: ItemId
    problem: Problem
    answer: Short
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("answer", mode="before")
    @classmethod
    def _number_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("answer")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the answer is blank")
        return value

    @property
    def group(self) -> str | None:
        group = self.metadata.get("group")
        return None if group is None else str(group)


def load_problems(path: Path) -> list[EvalProblem]:
    """Raises UsageError (cannot be read) or InputError (names each line that cannot be used)."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"problems file {path} cannot be read: {error.strerror}; give a .jsonl file") from None
    problems: list[EvalProblem] = []
    faults: list[tuple[str, str, str]] = []
    line_of_id: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            problem = _problem(strict_json(line), f"problem-{number:05d}")
        except ValidationError as error:
            faults.append((f"line {number}", "invalid", describe(error)))
        except ValueError as error:
            faults.append((f"line {number}", "not_json", str(error)))
        else:
            if problem.id in line_of_id:
                detail = f"id {problem.id!r} is also on line {line_of_id[problem.id]}"
                faults.append((f"line {number}", "duplicate_id", detail))
            line_of_id[problem.id] = number
            problems.append(problem)
    if faults:
        shown = "; ".join(f"{where}: {detail}" for where, _, detail in faults[:5])
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise InputError(f"{path} holds problems that cannot be used: {shown}{more}", faults)
    if not problems:
        raise InputError(f"{path} holds no problem; wanted one JSON object with id, problem and answer a line")
    return problems


def _problem(value: Any, default_id: str) -> EvalProblem:
    if isinstance(value, dict):
        value = {"id": default_id} | {key: part for key, part in value.items() if key not in _EXPERT_COLUMNS}
    return EvalProblem.model_validate(value)
