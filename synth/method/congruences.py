r"""Residues as answers: `x \equiv 3 \pmod 7`, `3 (mod 7)`."""

from __future__ import annotations

import re

_MODULUS = re.compile(
    r"\s*(?:\\pmod\s*\{?\s*(?P<tex>[0-9]{1,18})\s*\}?|\(\s*\\?(?:text|b)?mod\s*\{?\s*(?P<bare>[0-9]{1,18})\s*\}?\s*\))\s*\Z"
)
_NAME = re.compile(r"[A-Za-z]\s*(?:\\equiv(?![A-Za-z])|≡)\s*")


def same_residue(ours: str, theirs: str) -> bool | tuple[str, str] | None:
    """Whether two residues are the same, or what is to be compared without their modulus; none if neither has one."""
    first, second = _taken_apart(ours), _taken_apart(theirs)
    if first[1] is None and second[1] is None:
        return None
    if first[1] is None or second[1] is None:
        return first[0], second[0]
    if first[1] != second[1]:
        return False
    if first[0].lstrip("-").isdecimal() and second[0].lstrip("-").isdecimal() and len(first[0] + second[0]) < 1000:
        return (int(first[0]) - int(second[0])) % first[1] == 0
    return first[0], second[0]


def _taken_apart(text: str) -> tuple[str, int | None]:
    match = _MODULUS.search(text)
    if match is None:
        return text, None
    modulus = int(match["tex"] or match["bare"])
    return (_NAME.sub("", text[: match.start()], count=1).strip(), modulus) if modulus else (text, None)
