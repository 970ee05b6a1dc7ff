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


class Problems:
    """A set of problems to look others up in.

    Args:
        problems: by name.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        self._equal = {normal(problem): name for name, problem in reversed(list(problems.items()))}
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
        return self._equal.get(normal(problem))

    def near(self, problem: str, among: Container[str] | None = None) -> tuple[str, float] | None:
        """The name of the nearest problem and the share of its runs of words that are here too, or none.

        Args:
            problem: its text.
            among: names of the problems that count; all of them if left out.
        """
        shared = Counter[int](number for run in _runs(problem) for number in self._having.get(run, ()))
        if among is not None:
            shared = Counter({number: count for number, count in shared.items() if self._names[number] in among})
        share, number = max(((count / self._num_runs[one], one) for one, count in shared.items()), default=(0.0, 0))
        return (self._names[number], share) if share >= _NEAR else None


def _runs(problem: str) -> set[int]:
    words = _WORD.findall(_plain(problem))
    return {hash(tuple(words[place : place + _WORDS])) for place in range(len(words) - _WORDS + 1)}
