"""The problems of an evaluation: a JSONL file with one `{"id", "problem", "answer", "metadata"}` a line, or the same
as objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError, field_validator

from dail.synth.core.config import Frozen, canonical
from dail.synth.core.errors import InputError, UsageError, describe
from dail.synth.schema.items import ItemId, Problem, Solution, strict_json

# A file of expert solutions is a file of problems too; these of its columns play no part here.
_EXPERT_COLUMNS = ("solution", "kind", "source", "license")
_MATH_CHARS = 512  # of an answer that is a number or an expression; a longer one is meant for another grader

Answer = Solution  # any text that an expert solution may be: an own grader's may be a file of tests


class EvalProblem(Frozen):
    """A problem with a checkable answer. `metadata.group` names the part of the set it is reported under."""

    id: ItemId
    problem: Problem
    answer: Answer
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("answer", mode="before")
    @classmethod
    def _number_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("metadata")
    @classmethod
    def _storable(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            canonical(value)
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair, which is not text; remove it") from None
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
    return _checked(str(path), "line", ((n, line) for n, line in enumerate(lines, 1) if line.strip()), strict_json)


def check_problems(values: Iterable[EvalProblem | Mapping[str, Any]]) -> list[EvalProblem]:
    """Raises InputError (names each that cannot be used, counted from 1 like the lines of a file)."""
    return _checked(
        "the list", "problem", enumerate(values, 1), lambda value: dict(value) if isinstance(value, Mapping) else value
    )


def check_for_math(problems: Iterable[EvalProblem]) -> None:
    """Raises InputError if an answer is too long for the grader `math`: nobody writes a text into a box."""
    for problem in problems:
        if len(problem.answer) > _MATH_CHARS:
            raise InputError(
                f"problem {problem.id}: its answer has {len(problem.answer)} characters; math and official take at "
                f"most {_MATH_CHARS}; name the grader that is meant, --set eval.grader=FILE.py:NAME, or shorten the "
                "answer"
            )


def _checked(
    source: str, part: str, numbered: Iterable[tuple[int, Any]], read: Callable[[Any], Any]
) -> list[EvalProblem]:
    problems: list[EvalProblem] = []
    faults: list[tuple[str, str, str]] = []
    first_with: dict[str, int] = {}
    for number, given in numbered:
        where = f"{part} {number}"
        try:
            problem = _problem(read(given), f"problem-{number:05d}")
        except ValidationError as error:
            faults.append((where, "invalid", describe(error)))
        except ValueError as error:
            faults.append((where, "not_json", str(error)))
        else:
            if problem.id in first_with:
                detail = f"id {problem.id!r} is also on {part} {first_with[problem.id]}"
                faults.append((where, "duplicate_id", detail))
            first_with[problem.id] = number
            problems.append(problem)
    if faults:
        shown = "; ".join(f"{where}: {detail}" for where, _, detail in faults[:5])
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise InputError(f"{source} holds problems that cannot be used: {shown}{more}", faults)
    if not problems:
        raise InputError(f"{source} holds no problem; wanted an object with id, problem and answer a {part}")
    return problems


def _problem(value: Any, default_id: str) -> EvalProblem:
    if isinstance(value, dict):
        value = {"id": default_id} | {key: part for key, part in value.items() if key not in _EXPERT_COLUMNS}
    return EvalProblem.model_validate(value)
