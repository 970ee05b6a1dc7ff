r"""Which problems are the same: repeated in a file, or in an evaluation set too.

Problems are compared without case, spacing and LaTeX that says nothing: dollars, `\,`, `\left`, `\dfrac` for `\frac`.

A problem is near to another one if it has 70 % of its runs of eight words, the measure of contamination of the PaLM
report (Chowdhery et al. 2022, section 8). A number that differs breaks eight runs, so short problems that differ in one
number are not near, and long ones made from one template may be.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Mapping
from typing import NamedTuple

_WORDS = 8
_NEAR = 0.7
_SAYS_NOTHING = re.compile(
    r"\\[,;:!> ]|\\(?:q?quad|left|right|displaystyle|textstyle|limits|[bB]igg?[lr]?)(?![A-Za-z])|\\[()\[\]]|[$~{}\s]"
)
_SAME = ((r"\dfrac", r"\frac"), (r"\tfrac", r"\frac"), (r"\leq", r"\le"), (r"\geq", r"\ge"), (r"\neq", r"\ne"))
_WORD = re.compile(r"\w+|[^\w\s]")


def normal(problem: str) -> str:
    r"""Equal for problems that differ in case, spacing or LaTeX that says nothing.

    normal("Find $x$ if  $\\dfrac{x}{2} \\leq 3$.")      "findxif\\fracx2\\le3"
    """
    return "".join(_plain(problem).split()).rstrip(".?!:")


def _plain(problem: str) -> str:
    text = unicodedata.normalize("NFKC", problem)
    for written, meant in _SAME:
        text = re.sub(rf"{re.escape(written)}(?![A-Za-z])", lambda _, meant=meant: meant, text)  # type: ignore[misc]
    return _SAYS_NOTHING.sub(" ", text).casefold().strip()


def repeated(problems: Mapping[str, str]) -> dict[str, str]:
    """By the name of each problem that came before, the name under which it came first."""
    first: dict[str, str] = {}
    again: dict[str, str] = {}
    for name, problem in problems.items():
        known = first.setdefault(normal(problem), name)
        if known != name:
            again[name] = known
    return again


class Alike(NamedTuple):
    """A problem of a set that another one is, or is near to. `share`: of its runs of words, 1 if the two are equal."""

    name: str
    is_equal: bool
    share: float


class Problems:
    """A set of problems to look others up in.

    Args:
        problems: by name.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        self._equal = defaultdict[str, list[str]](list)
        for name, problem in problems.items():
            self._equal[normal(problem)].append(name)
        self._names = list(problems)
        self._num_runs = list[int]()
        self._having = defaultdict[int, list[int]](list)  # which problems have a run of words, by its hash
        for number, problem in enumerate(problems.values()):
            runs = _runs(problem)
            self._num_runs.append(len(runs))
            for run in runs:
                self._having[run].append(number)

    def equal(self, problem: str) -> str | None:
        """The name of the same problem in the set, or none."""
        return next(iter(self._equal.get(normal(problem), ())), None)

    def near(self, problem: str, among: Container[str] | None = None) -> tuple[str, float] | None:
        """The name of the nearest problem and the share of its runs of words that are here too, or none.

        Args:
            problem: its text.
            among: names of the problems that count; all of them if left out.
        """
        found = [one for one in self._near(problem) if among is None or self._names[one[0]] in among]
        near = max(found, key=lambda one: (one[1], one[0]), default=None)
        return near and (self._names[near[0]], near[1])

    def alike(self, problem: str) -> list[Alike]:
        """All problems of the set that are the same, and then all others that are near."""
        equal = self._equal.get(normal(problem), [])
        near = {self._names[number]: share for number, share in self._near(problem)}
        return [Alike(name, True, 1.0) for name in equal] + [
            Alike(name, False, share) for name, share in near.items() if name not in equal
        ]

    def _near(self, problem: str) -> list[tuple[int, float]]:
        shared = Counter[int](number for run in _runs(problem) for number in self._having.get(run, ()))
        shares = ((number, count / self._num_runs[number]) for number, count in shared.items())
        return [(number, share) for number, share in shares if share >= _NEAR]


def _runs(problem: str) -> set[int]:
    words = _WORD.findall(_plain(problem))
    return {hash(tuple(words[place : place + _WORDS])) for place in range(len(words) - _WORDS + 1)}
