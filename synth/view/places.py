"""Where texts stand in another: waypoints in a solution and a trace, and phrases that give a shown solution away.

A text is taken at every place where it stands as a whole, whatever the spacing: `2k-1` is found in `2k - 1` and not in
`12k-1`. What has been written anew is found nowhere.
"""

from __future__ import annotations

import re

from dail.synth.schema.mentions import mentions

_GAP = r"(?:[\s~$]|\\[,;:! ]|\{,\}|,(?=(?:\\!)?[0-9]{3}(?![0-9])))*+"
_BEFORE_DIGIT, _AFTER_DIGIT = r"(?<![0-9_])(?<![0-9]\.)", r"(?![0-9])(?!\.[0-9])"
_NO_WORD_BEFORE, _NO_WORD_AFTER = r"(?<![^\W_])", r"(?![^\W_])"
_BEFORE_SIGN = r"(?<![\w)}\]])(?<![\w)}\]] )"
_LONGEST = 400  # a longer text is compared as it stands

Span = tuple[int, int]  # first character, and the one behind the last


def places_of(text: str, within: str) -> list[Span]:
    """All places of one text, which has ink."""
    ink = [re.escape(character) for character in text if not character.isspace()]
    body = _GAP.join(ink) if len(ink) <= _LONGEST else re.escape(text)
    first, last = text.lstrip()[0], text.rstrip()[-1]
    after = _AFTER_DIGIT if last.isdigit() else _NO_WORD_AFTER if last.isalnum() else ""
    before = _BEFORE_DIGIT if first.isdigit() else _NO_WORD_BEFORE if first.isalnum() else ""
    if first in "+-":
        before = _BEFORE_SIGN
    spans = [match.span() for match in re.finditer(before + body + after, within)]
    if spans or first not in "+-":
        return spans
    return [match.span() for match in re.finditer(body + after, within)]  # a sum, which the extractor reads as a sign


def cited_places(text: str, problem: str) -> list[Span]:
    """Where `mentions` finds that a solution, an answer or a hint was shown."""
    phrases = dict.fromkeys(mentions(text, problem))
    patterns = (r"[\s*_`]+".join(map(re.escape, phrase.split())) for phrase in phrases)
    return apart([match.span() for one in patterns for match in re.finditer(one, text, re.IGNORECASE)])


def apart(spans: list[Span]) -> list[Span]:
    """Sorted; those that overlap become one."""
    found = list[Span]()
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
