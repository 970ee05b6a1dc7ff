"""The problems of an evaluation: `{"id", "problem", "answer", "metadata"}`, of files and objects in many shapes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue, ValidationError, field_validator

from dail.synth.core.config import Frozen, storable
from dail.synth.core.errors import InputError, plainly, pointer
from dail.synth.data.reader import Read, Reading, Source, read_items
from dail.synth.data.values import text_of
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.items import ItemId, Problem, Solution
from dail.synth.schema.kinds import stated_answer

_log = logging.getLogger(__name__)

_SAME = ("problem", "answer", "solution", "metadata")
_MATH_CHARS = 512  # of an answer that is a number or an expression; a longer one is meant for another grader

Answer = Solution  # any text that an expert solution may be: an own grader's may be a file of tests


class EvalProblem(Frozen):
    """A problem with a checkable answer. `metadata.group` names the part of the set it is reported under."""

    id: ItemId
    problem: Problem
    answer: Answer
    metadata: Annotated[dict[str, JsonValue], AfterValidator(storable)] = Field(default_factory=dict)

    @field_validator("problem", mode="before")
    @classmethod
    def _is_asked_alone(cls, value: Any) -> Any:
        """A conversation of one message, the user's, is its text; an evaluation's prompts have no place for more."""
        if not isinstance(value, list | tuple):
            return value
        if len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "user":
            return value[0].get("content")
        raise ValueError(f"it is a list of {len(value)} messages; wanted a text, or one message of the user")

    @field_validator("answer", mode="before")
    @classmethod
    def _number_is_text(cls, value: Any) -> Any:
        return text_of(value)

    @property
    def group(self) -> str | None:
        group = self.metadata.get("group")
        return None if group is None else str(group)


def read_problems(source: Source, reading: Reading | None = None) -> Read[EvalProblem]:
    """Reads problems as expert solutions are read: files, folders, hub sets, or the objects themselves.

    Args:
        source: as for `dail.synth.data.reader.read_solutions`. What belongs to solutions alone plays no part.
        reading: as there.

    Raises:
        UsageError: a source cannot be read.
        ColumnsRefused: nobody knows what its columns mean.
        RowsRefused: rows cannot be used; every fault is in it.
    """
    return read_items(source, reading or Reading(), _checked, ("problem", "answer|solution"), _SAME)


def check_for_math(problems: Iterable[EvalProblem]) -> None:
    """Raises InputError if an answer is none, or too long for the grader `math`: nobody writes a text into a box."""
    for problem in problems:
        if stated_answer(problem.answer) is None:
            raise InputError(
                f"problem {problem.id}: its answer is {problem.answer!r}, which says that there is none, so that every "
                "completion would be wrong; leave the problem out, or name the grader that is meant, --set "
                "eval.grader=FILE.py:NAME"
            )
        if len(problem.answer) > _MATH_CHARS:
            raise InputError(
                f"problem {problem.id}: its answer has {len(problem.answer)} characters; math and official take at "
                f"most {_MATH_CHARS}; name the grader that is meant, --set eval.grader=FILE.py:NAME, or shorten the "
                "answer"
            )


def _checked(values: list[dict[str, Any]]) -> list[EvalProblem]:
    problems: list[EvalProblem] = []
    faults: list[tuple[str, str, str]] = []
    num_boxes = 0
    given = {value["id"] for value in values if isinstance(value.get("id"), str)}
    for number, value in enumerate(values):
        name = f"problem-{number + 1:05d}"
        while name in given:
            name += "_"
        of_problems = {key: part for key, part in value.items() if key in EvalProblem.model_fields}
        if _says_none(value.get("answer")) and (box := _box(value.get("solution"))):
            of_problems["answer"] = box
            num_boxes += 1
        try:
            problems.append(EvalProblem.model_validate({"id": name, **of_problems}))
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_input=False):
                faults.append((pointer(["items", number, *fault["loc"]]), fault["type"], plainly(fault)))
    if faults:
        raise InputError(f"{len(faults)} faults in the problems", faults)
    if num_boxes:
        _log.info(f"{num_boxes} of {len(problems)} problems have no answer but a solution, whose last box is taken")
    return problems


def _says_none(answer: Any) -> bool:
    """Whether there is no answer, or a word that means so."""
    return answer is None or (isinstance(answer, str) and stated_answer(answer) is None)


def _box(solution: Any) -> str | None:
    """The last box of the first solution that has one."""
    parts = solution if isinstance(solution, list) else [solution]
    return next((box for part in parts if isinstance(part, str) and (box := final_answer(part))), None)
