"""Shortcuts in this world's answers: results that are stated without their sums, for `dail eval` to count and mark.

dail eval … --set eval.marks=deploy/world/jumps.py:jumps
"""

import re

from dail.train.evals import EvalProblem

_JUMP = re.compile(r"(?<=\s)[A-Z]+=[0-9]+")


def jumps(completion: str, problem: EvalProblem) -> list[tuple[int, int]]:
    """Where blocks of turns are jumped; `A+293=600` is none.

    >>> text = "417 ABC=554 D+501=055\\nThe lock shows 055."
    >>> [text[begin:end] for begin, end in jumps(text, None)]
    ['ABC=554']
    """
    return [found.span() for found in _JUMP.finditer(completion)]
