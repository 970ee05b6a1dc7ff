"""What an item is given of the other items of its batch: another problem's solution and waypoints, a wrong answer.

    items = dealt(items, Synthesis(contexts=("wrong_hint", "other_solution")))
    items[0].dealt.problem_text, items[0].wrong_answer

Who is given what follows from the seed and the contents of the batch, not from order or ids, so `dail synth` and the
API deal alike. Where no problem is that of half the items, each solution is dealt once: the solutions are shuffled
among the problems. What an item brings stands. It is part of the item from then on, and so of its units' ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from dail.synth.core.config import canonical
from dail.synth.core.errors import InputError, few
from dail.synth.data.overlap import normal
from dail.synth.method.answers import compare
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import resolve
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import item_content

_T = TypeVar("_T")
Faults = list[tuple[str, str, str]]
_LONGEST = 512  # characters of `ExpertSolution.wrong_answer`
_TRIED = 200  # other answers, for one that is another for certain


def dealt(items: Sequence[ExpertSolution], synthesis: Synthesis) -> list[ExpertSolution]:
    """The items with whatever these settings take from others; the same items if they take nothing.

    Raises:
        InputError: there is no other problem or no wrong answer for some, or no answer where a context shows one; with
            a pointer to each.
    """
    found, faults = list(items), Faults()
    if "answer_only" in synthesis.contexts:
        faults += _without_answer(found, synthesis)
    if synthesis.takes_another:
        found, missing = _with_others(found, synthesis.seed)
        faults += missing
    if "wrong_hint" in synthesis.contexts:
        found, missing = _with_wrong_answers(found, synthesis)
        faults += missing
    if faults:
        names = [f"{items[int(where.rpartition('/')[2])].id} ({detail})" for where, _, detail in faults]
        raise InputError(f"nothing was taken: {few(names)}", faults)
    return found


def shown_answer(item: ExpertSolution, synthesis: Synthesis) -> str | None:
    """What the negative reference is told as the answer: of a proof none, unless `proof_answers` is set."""
    resolved = resolve(item, synthesis.lone_box)
    return resolved.answer if resolved.kind == "verifiable" or synthesis.proof_answers else None


def _without_answer(items: Sequence[ExpertSolution], synthesis: Synthesis) -> Faults:
    return [
        (f"/items/{number}", "no_answer", f"{_why_none(item, synthesis)}, which the context answer_only shows")
        for number, item in enumerate(items)
        if shown_answer(item, synthesis) is None
    ]


def _why_none(item: ExpertSolution, synthesis: Synthesis) -> str:
    if resolve(item, synthesis.lone_box).answer is None:
        return "it has no answer; leave it out, or the context"
    return "it is a proof, whose answer is shown with proof_answers=true only"


def _with_others(items: Sequence[ExpertSolution], seed: int) -> tuple[list[ExpertSolution], Faults]:
    """A shift round the contents, those of one problem side by side, by as many as the commonest problem has."""
    by_content = {canonical(item_content(item)): item for item in sorted(items, key=lambda item: str(item.id))}
    problem = {content: normal(item.problem_text) for content, item in by_content.items()}
    order = sorted(by_content, key=lambda content: (_place(seed, problem[content]), _place(seed, content)))
    sizes = [0] * len(order)
    for number, content in enumerate(order):
        sizes[number] = 1 + (sizes[number - 1] if number and problem[order[number - 1]] == problem[content] else 0)
    shift, place = max(sizes, default=0), {content: number for number, content in enumerate(order)}
    found, faults = list[ExpertSolution](), Faults()
    for number, item in enumerate(items):
        content = canonical(item_content(item))
        turn = _turn(order, place[content] + shift)
        other = next((one for one in turn if problem[one] != problem[content]), None) if item.dealt is None else None
        if item.dealt is not None and normal(item.dealt.problem_text) == problem[content]:
            faults.append((f"/items/{number}", "same_problem", "what it brings as dealt is of the same problem"))
        if item.dealt is None and other is None:
            why = "there is no other problem in the batch to deal from; add items, or bring dealt"
            faults.append((f"/items/{number}", "no_other_problem", why))
        found.append(item if other is None else item.model_copy(update={"dealt": _bare(by_content[other])}))
    return found, faults


def _with_wrong_answers(items: Sequence[ExpertSolution], synthesis: Synthesis) -> tuple[list[ExpertSolution], Faults]:
    """From an item's own place round the answers of all items: the first that is another one for certain."""
    answers = {answer for item in items if (answer := shown_answer(item, synthesis)) and len(answer) <= _LONGEST}
    order = sorted(answers, key=lambda answer: _place(synthesis.seed, answer.encode()))
    place = {answer: number for number, answer in enumerate(order)}
    found, faults = list[ExpertSolution](), Faults()
    wrong: dict[str, str | None] = {}
    for number, item in enumerate(items):
        right, where = shown_answer(item, synthesis), f"/items/{number}"
        if item.wrong_answer is not None:
            if right is not None and compare(item.wrong_answer, right) is True:
                faults.append((where, "not_wrong", "what it brings as wrong_answer is its answer"))
            found.append(item)
            continue
        if right is None:
            why = f"{_why_none(item, synthesis)}; wrong_hint has nothing to be wrong about; bring wrong_answer"
            faults.append((where, "no_answer", why))
        elif right not in wrong:
            wrong[right] = _another(right, _turn(order, place.get(right, 0) + 1))
        if right is not None and wrong[right] is None:
            why = "no other item's answer is another one for certain; add items, or bring wrong_answer"
            faults.append((where, "no_wrong_answer", why))
        found.append(item if right is None else item.model_copy(update={"wrong_answer": wrong[right]}))
    return found, faults


def _another(right: str, others: Iterable[str]) -> str | None:
    """What only algebra could compare is not taken: the API has none, and both must deal alike."""
    for _, other in zip(range(_TRIED), others, strict=False):
        if compare(other, right) is False:
            return other
    return None


def _turn(order: Sequence[_T], start: int) -> Iterator[_T]:
    return (order[(start + step) % len(order)] for step in range(len(order)))


def _place(seed: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(f"dealt {seed} ".encode() + data).digest()


def _bare(item: ExpertSolution) -> ExpertSolution:
    """With its name and what shapes a trace alone."""
    return item.model_copy(
        update={"dealt": None, "wrong_answer": None, "source": None, "license": None, "metadata": {}}
    )
