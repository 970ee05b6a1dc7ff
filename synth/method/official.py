"""Waypoints as the authors' released code finds them, for their figures: `synthesis.extractor=official`.

Five expressions, for proofs and verifiable problems alike: numbers that stand alone, a base with an exponent, `2k`,
`n+1`, `2k-1`. They overlap: of `2k-1` there are `2k` and `2k-1`. The order is that of the texts, which says nothing of
the way a solution takes; equal numbers that are written differently are two.
"""

from __future__ import annotations

import re

_FIVE = tuple(
    map(
        re.compile,
        (
            r"(?<![\w.])[-+]?[0-9]++(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+(?!\w|\.[0-9])",
            r"(?<![A-Za-z0-9])[A-Za-z0-9]++\^(?:\{[^{}]*+\}|[A-Za-z0-9]++)",
            r"(?<!\w)[0-9]++[A-Za-z](?!\w)",
            r"(?<!\w)[A-Za-z][-+][0-9]++(?!\w)",
            r"(?<!\w)[0-9]++[A-Za-z][-+][0-9]++(?!\w)",
        ),
    )
)


def official(solution: str, kind: str, answer: str | None) -> list[str]:
    """What the five expressions match, sorted as text, without the answer as it is written but for spaces.

    official("2k - 1 = 7, so k = 4", "proof", "4")      ["1", "2k", "7"]
    """
    found = {match for expression in _FIVE for match in expression.findall(solution)}
    hidden = None if answer is None else "".join(answer.split())
    return sorted(one for one in found if "".join(one.split()) != hidden)
