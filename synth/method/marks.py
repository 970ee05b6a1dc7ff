"""Where waypoints stand in a solution, to show them beside it. Extractors give texts; only `paper` knows its places.

Of another extractor's text every place is taken where it stands as a whole, whatever the spacing: `2k-1` is found in
`2k - 1` and not in `12k-1`. What an extractor has written anew is found nowhere, and said to be so.
"""

from __future__ import annotations

import re
from typing import Literal

from dail.synth.method.expressions import key, tidy
from dail.synth.method.waypoints import places
from dail.synth.schema.synthesis import PAPER

_BY_PLACE = (PAPER, "paper-sorted")
_GAP = r"(?:[\s~$]|\\[,;:! ]|\{,\}|,(?=(?:\\!)?[0-9]{3}(?![0-9])))*+"
_BEFORE_DIGIT, _AFTER_DIGIT = r"(?<![0-9_])(?<![0-9]\.)", r"(?![0-9])(?!\.[0-9])"
_NO_WORD_BEFORE, _NO_WORD_AFTER = r"(?<![^\W_])", r"(?![^\W_])"
_BEFORE_SIGN = r"(?<![\w)}\]])(?<![\w)}\]] )"
_LONGEST = 400  # a longer text is compared as it stands

Span = tuple[int, int]


def located(
    solution: str, kind: Literal["verifiable", "proof"], extractor: str, waypoints: list[str]
) -> tuple[list[Span], list[str]]:
    """Where the waypoints stand, as (first character, behind the last), in order and apart; and those found nowhere."""
    if extractor in _BY_PLACE:
        wanted = {key(text) for text in waypoints}
        return _apart([span for span in places(solution, kind) if key(tidy(solution[slice(*span)])) in wanted]), []
    spans, nowhere = list[Span](), list[str]()
    for text in filter(str.strip, waypoints):
        found = _found(text, solution)
        spans += found
        if not found:
            nowhere.append(text)
    return _apart(spans), nowhere


def _found(text: str, solution: str) -> list[Span]:
    ink = [re.escape(character) for character in text if not character.isspace()]
    body = _GAP.join(ink) if len(ink) <= _LONGEST else re.escape(text)
    first, last = text.lstrip()[0], text.rstrip()[-1]
    after = _AFTER_DIGIT if last.isdigit() else _NO_WORD_AFTER if last.isalnum() else ""
    before = _BEFORE_DIGIT if first.isdigit() else _NO_WORD_BEFORE if first.isalnum() else ""
    if first in "+-":
        before = _BEFORE_SIGN
    spans = [match.span() for match in re.finditer(before + body + after, solution)]
    if spans or first not in "+-":
        return spans
    return [match.span() for match in re.finditer(body + after, solution)]  # a sum, which the extractor reads as a sign


def _apart(spans: list[Span]) -> list[Span]:
    """Sorted; those that overlap become one."""
    apart = list[Span]()
    for start, end in sorted(spans):
        if apart and start < apart[-1][1]:
            apart[-1] = apart[-1][0], max(end, apart[-1][1])
        else:
            apart.append((start, end))
    return apart
