"""What expert solutions contradict or repeat before a run is paid for: nothing here stops one.

    from dail.synth.method.data_check import check_data
    check = check_data(items, Synthesis())
    check.told()          "2 answers contradict the box (lock-003, lock-011); 1 item without waypoints (lock-040)"

It needs no tokenizer and no model. Without math-verify, answers that only algebra can compare are left undecided.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from dail.synth.core.config import Frozen
from dail.synth.core.errors import ExtensionError, InputError, InputFault, ItemError
from dail.synth.data.overlap import Problems, repeated
from dail.synth.data.reader import Reading, Source, read_items
from dail.synth.data.texts import item_notes
from dail.synth.method.answers import compare
from dail.synth.method.grading import Grader
from dail.synth.method.waypoints import waypoints_of
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import LoneBox, resolve, stated_answer
from dail.synth.schema.synthesis import Synthesis

_TIMEOUT_S = 2.0  # of a comparison by algebra; one that takes longer is left undecided
_SHOWN_IDS = 3

FindingKind = Literal["contradiction", "undecided", "no_waypoints", "repeated", "evaluation", "near_evaluation", "text"]
_TOLD: dict[FindingKind, tuple[str, str]] = {
    "contradiction": ("answer contradicts the box", "answers contradict the box"),
    "undecided": ("answer could not be compared with the box", "answers could not be compared with the box"),
    "no_waypoints": ("item without waypoints", "items without waypoints"),
    "repeated": ("repeated problem", "repeated problems"),
    "evaluation": ("problem of the evaluation set", "problems of the evaluation set"),
    "near_evaluation": ("problem near to one of the evaluation set", "problems near to one of the evaluation set"),
    "text": ("item with signs of damage in its text", "items with signs of damage in their text"),
}
Equal = Callable[[str, str], bool | None]


class Finding(Frozen):
    """One thing to look at, in the item of this id."""

    kind: FindingKind
    item_id: str
    detail: str


class DataCheck(Frozen):
    """All findings, by kind in the order of `FindingKind`, then by item."""

    items: int
    findings: tuple[Finding, ...]

    def ids(self) -> dict[FindingKind, list[str]]:
        """By kind, the items that it was found in, each once."""
        found: dict[FindingKind, dict[str, None]] = {}
        for finding in self.findings:
            found.setdefault(finding.kind, {})[finding.item_id] = None
        return {kind: list(ids) for kind, ids in found.items()}

    def told(self) -> str:
        """In one line: how many of what, with the first ids; `nothing found` if there is nothing."""
        parts = []
        for kind, ids in self.ids().items():
            more = f", and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
            parts.append(f"{len(ids)} {_TOLD[kind][len(ids) > 1]} ({', '.join(ids[:_SHOWN_IDS])}{more})")
        return "; ".join(parts) or "nothing found"


def check_data(
    items: Sequence[ExpertSolution], synthesis: Synthesis, against: Mapping[str, str] | None = None
) -> DataCheck:
    """Looks at every item.

    Args:
        items: as `check_items` gives them, with ids.
        synthesis: whose extractor finds the waypoints.
        against: the problems of an evaluation set, by name.
    """
    with equal_answers() as equal:
        contradictions = list(_contradictions(items, synthesis.lone_box, equal))
    findings = [*contradictions, *_without_waypoints(items, synthesis), *_repeated(items)]
    if against:
        findings += _of_evaluation(items, Problems(against))
    findings += _damaged(items)
    order = list(_TOLD)
    return DataCheck(items=len(items), findings=tuple(sorted(findings, key=lambda one: order.index(one.kind))))


class _Asked(Frozen):
    """A problem of an evaluation, whatever else stands beside it."""

    id: str
    problem: str


def problems_of(source: Source) -> dict[str, str]:
    """The problems of an evaluation set, by id or else by place; read as `dail eval` reads them.

    Raises:
        UsageError, InputError: it cannot be read, or has no problems.
    """
    reading = Reading(keep_rest=True)
    return {one.id: one.problem for one in read_items(source, reading, _asked_alone, ("problem",), ("problem",)).items}


def _asked_alone(values: list[dict[str, Any]]) -> list[_Asked]:
    found: list[_Asked] = []
    faults: list[InputFault] = []
    for number, value in enumerate(values):
        problem = value.get("problem")
        if isinstance(problem, list):
            problem = "\n".join(str(one.get("content")) for one in problem if isinstance(one, dict))
        if isinstance(problem, str):
            found.append(_Asked(id=str(value.get("id", f"problem {number + 1}")), problem=problem))
        else:
            faults.append(InputFault(f"/items/{number}/problem", "no_text", "it has no text"))
    if faults:
        raise InputError(f"{len(faults)} problems without a text", faults)
    return found


@contextmanager
def equal_answers() -> Iterator[Equal]:
    """A function: are two answers equal? None where that takes algebra and math-verify is missing or gives up."""
    if importlib.util.find_spec("math_verify") is None:
        yield _exactly
        return
    with Grader(_TIMEOUT_S) as grader:

        def equal(given: str, wanted: str) -> bool | None:
            verdict = grader.grade(rf"\boxed{{{given}}}", wanted)
            return None if verdict.method == "timeout" else verdict.correct

        yield equal


def _exactly(given: str, wanted: str) -> bool | None:
    decided = compare(given, wanted)
    return decided if isinstance(decided, bool) else None


def _contradictions(items: Iterable[ExpertSolution], lone_box: LoneBox, equal: Equal) -> Iterator[Finding]:
    """Of verifiable items: the answer that was given and the box of each solution, or the boxes among themselves."""
    for item in items:
        if resolve(item, lone_box).kind != "verifiable":
            continue
        solutions = [item.solution] if isinstance(item.solution, str) else list(item.solution)
        found = {number: stated_answer(final_answer(one)) for number, one in enumerate(solutions)}
        boxes = {number: box for number, box in found.items() if box is not None}
        whose, answer = "the answer is", stated_answer(item.answer)
        if answer is None and boxes:
            last = max(boxes)
            whose, answer = f"solution {last} says", boxes.pop(last)
        for number, box in boxes.items():
            if answer is None or (verdict := equal(box, answer)):
                continue
            where = f"solution {number}" if len(solutions) > 1 else "the solution"
            detail = f"{whose} {_short(answer)}, the box of {where} says {_short(box)}"
            yield _finding("undecided" if verdict is None else "contradiction", item, detail)


def _without_waypoints(items: Iterable[ExpertSolution], synthesis: Synthesis) -> Iterator[Finding]:
    for item in items:
        try:
            found = waypoints_of(item, synthesis)
        except (ItemError, ExtensionError):  # told of each item, and of the setting, where they are used
            continue
        if not found:
            yield _finding("no_waypoints", item, "the negative reference is told no intermediate result")


def _repeated(items: Iterable[ExpertSolution]) -> Iterator[Finding]:
    by_id = {str(item.id): item for item in items}
    for name, first in repeated({name: _asked(item) for name, item in by_id.items()}).items():
        yield _finding("repeated", by_id[name], f"its problem is that of {first}")


def _of_evaluation(items: Iterable[ExpertSolution], evaluation: Problems) -> Iterator[Finding]:
    for item in items:
        if (same := evaluation.equal(_asked(item))) is not None:
            yield _finding("evaluation", item, f"its problem is {same} of the evaluation set")
        elif (near := evaluation.near(_asked(item))) is not None:
            yield _finding("near_evaluation", item, f"it has {near[1]:.0%} of the wording of {near[0]}")


def _damaged(items: Iterable[ExpertSolution]) -> Iterator[Finding]:
    for item in items:
        for where, note in item_notes(item):
            times = "" if note.count == 1 else f" ({note.count} times)"
            yield _finding("text", item, f"{where}: {note.kind}: {note.detail}{times}")


def _asked(item: ExpertSolution) -> str:
    """All that the student is shown: of a conversation, all its messages."""
    return "\n".join(message.content for message in item.messages)


def _finding(kind: FindingKind, item: ExpertSolution, detail: str) -> Finding:
    return Finding(kind=kind, item_id=str(item.id), detail=detail)


def _short(answer: str) -> str:
    return answer if len(answer) <= 80 else answer[:79] + "…"
