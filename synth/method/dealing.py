"""What an item is given of the other items of its batch: another problem's solution and waypoints, a wrong answer.

    items = dealt(items, Synthesis(contexts=("wrong_hint", "other_solution")))
    items[0].dealt.problem_text, items[0].wrong_answer

Who is given what follows from the seed and the contents of the batch, not from order or ids, so `dail synth` and the
API deal alike. Where no problem is that of half the items, each solution is dealt once: the solutions are shuffled
among the problems. What an item brings stands. It is part of the item from then on, and so of its units' ids.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

from dail.synth.core.config import canonical
from dail.synth.core.errors import InputError, InputFault, few
from dail.synth.data.overlap import normal
from dail.synth.method.answers import compare
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import resolve
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import item_content

_T = TypeVar("_T")
Faults = list[InputFault]
_NUMBER, _LETTER = re.compile(r"[-+−]?[0-9][0-9,.]*+"), re.compile(r"\(?[A-Ja-j]\)?")
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox)\s?\{[^{}]*\}|\\[A-Za-z]+")
_LONGEST = 512  # characters of `ExpertSolution.wrong_answer`
_TRIED = 50  # other answers, for one that is another for certain
_ENOUGH = 100  # items without one, behind which no more are looked for


def dealt(items: Sequence[ExpertSolution], synthesis: Synthesis) -> list[ExpertSolution]:
    """The items with whatever these settings take from others; the same items if they take nothing.

    Raises:
        InputError: there is no other problem or no wrong answer for some, or no answer where a context shows one; with
            a pointer to each.
    """
    found, faults = list(items), Faults()
    if "answer_only" in synthesis.contexts or synthesis.shown == "answer":
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
    shows = "shown=answer" if synthesis.shown == "answer" else "the context answer_only"
    return [
        InputFault(f"/items/{number}", "no_answer", f"{shows} shows the answer, and {_why_none(item, synthesis)}")
        for number, item in enumerate(items)
        if shown_answer(item, synthesis) is None
    ]


def _why_none(item: ExpertSolution, synthesis: Synthesis) -> str:
    if resolve(item, synthesis.lone_box).answer is None:
        return "this item has none; leave out the item, or what shows it"
    return "this item is a proof, whose answer is shown with proof_answers=true only"


def _with_others(items: Sequence[ExpertSolution], seed: int) -> tuple[list[ExpertSolution], Faults]:
    """A shift round the contents, those of one problem side by side, by as many as the commonest problem has."""
    contents = [canonical(item_content(item)) for item in items]
    by_content = dict(sorted(zip(contents, items, strict=True), key=lambda pair: str(pair[1].id)))
    problem = {content: normal(item.problem_text) for content, item in by_content.items()}
    order = sorted(by_content, key=lambda content: (_place(seed, problem[content]), _place(seed, content)))
    sizes = Counter(problem[content] for content in order)
    shift, place = max(sizes.values(), default=0), {content: number for number, content in enumerate(order)}
    behind = {problem[content]: (number + 1) % len(order) for number, content in enumerate(order)}  # its last one
    found, faults = list[ExpertSolution](), Faults()
    for number, (content, item) in enumerate(zip(contents, items, strict=True)):
        other: bytes | None = None
        if item.dealt is None and len(sizes) > 1:
            other = order[(place[content] + shift) % len(order)]
            other = order[behind[problem[content]]] if problem[other] == problem[content] else other
        if item.dealt is not None and normal(item.dealt.problem_text) == problem[content]:
            faults.append(
                InputFault(f"/items/{number}", "same_problem", "what it brings as dealt is of the same problem")
            )
        if item.dealt is None and other is None:
            why = "there is no other problem in the batch to deal from; add items, or bring dealt"
            faults.append(InputFault(f"/items/{number}", "no_other_problem", why))
        found.append(item if other is None else item.model_copy(update={"dealt": _bare(by_content[other])}))
    return found, faults


def _with_wrong_answers(items: Sequence[ExpertSolution], synthesis: Synthesis) -> tuple[list[ExpertSolution], Faults]:
    """Items of one answer are given one wrong answer."""
    answers = [shown_answer(item, synthesis) for item in items]
    order = sorted(
        {answer for answer in answers if answer and len(answer) <= _LONGEST},
        key=lambda answer: _place(synthesis.seed, answer.encode()),
    )
    found, faults = list[ExpertSolution](), Faults()
    wrong: dict[str, str | None] = {}
    for number, (right, item) in enumerate(zip(answers, items, strict=True)):
        where = f"/items/{number}"
        if item.wrong_answer is not None:
            if right is not None and compare(item.wrong_answer, right) is True:
                faults.append(InputFault(where, "not_wrong", "what it brings as wrong_answer is its answer"))
            found.append(item)
            continue
        if right is None:
            why = f"wrong_hint is wrong about the answer, and {_why_none(item, synthesis)}, or bring wrong_answer"
            faults.append(InputFault(where, "no_answer", why))
        elif right not in wrong:
            wrong[right] = _another(right, order, synthesis.seed)
        if right is not None and wrong[right] is None:
            why = "no other item's answer is another one for certain; add items, or bring wrong_answer"
            faults.append(InputFault(where, "no_wrong_answer", why))
            if len(faults) >= _ENOUGH:
                break
        found.append(item if right is None else item.model_copy(update={"wrong_answer": wrong[right]}))
    return found, faults


def _another(right: str, order: Sequence[str], seed: int) -> str | None:
    """The next one in this order that is another for certain, of the same look (a number, a letter) if there is one.

    What only algebra could compare is not taken: the API has none, and both must deal alike.
    """
    start = bisect_right(order, _place(seed, right.encode()), key=lambda answer: _place(seed, answer.encode()))
    for is_alike in (True, False):
        alike = (one for one in _turn(order, start) if (_look(one) == _look(right)) is is_alike)
        for _, other in zip(range(_TRIED), alike, strict=False):
            decided = compare(other, right)
            if decided is False or (decided is not True and (_is_formula(other, right) or _is_formula(right, other))):
                return other
    return None


def _is_formula(answer: str, other: str) -> bool:
    """A letter stands in it, and the other one is a number that does not: `12 apples` may be 12."""
    has_letter = re.search(r"[A-Za-z]", _COMMAND.sub("", answer)) is not None
    return _look(other) == "number" and has_letter and other.strip("-+−") not in answer


def _look(answer: str) -> str:
    return "number" if _NUMBER.fullmatch(answer) else "letter" if _LETTER.fullmatch(answer) else "text"


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
