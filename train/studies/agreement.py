"""Whether the answers that several rows give to one problem are the same answer, by the grader of `dail eval`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dail.synth.method.data_check import Equal


class Disagreement(NamedTuple):
    """Two answers to one problem that differ; `is_decided` is false where nobody could say, and they may be equal."""

    first: str
    other: str
    is_decided: bool


def disagreement(answers: Iterable[str], equal: Equal) -> Disagreement | None:
    """The first answer and the first of the others that is not the same; none if all are.

    Args:
        answers: to one problem, each as its row states it.
        equal: of `dail.synth.method.data_check.equal_answers`.
    """
    first, *others = dict.fromkeys(answers)
    for other in others:
        if not (verdict := equal(other, first)):
            return Disagreement(first, other, verdict is not None)
    return None
