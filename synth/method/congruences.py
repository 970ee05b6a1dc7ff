r"""Residues as answers: `x \equiv 3 \pmod 7`, `3 (mod 7)`, `n \equiv \pm 1 \bmod 8`, `n = 4k + 3`.

A computer algebra drops the modulus, or what stands before it, so everything with one is decided here. Classes of whole
numbers are compared as sets: 1 or 3 modulo 4 is 1 modulo 2. A name of one letter is dropped, as before an equals sign.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from dail.synth.method.answer_text import unmarked
from dail.synth.method.exact_numbers import rational

_MODULUS = re.compile(
    r"\s*(?:(?P<open>\()\s*)?(?:\\p?mod|\\bmod|(?<![A-Za-z\\])mod(?:ulo)?)(?![A-Za-z])\.?\s*"
    r"(?:\{\s*(?P<braced>[^{}]{1,40}?)\s*\}|(?P<number>[0-9]{1,18})|(?P<letter>[A-Za-z](?![A-Za-z])))(?(open)\s*\))"
)
_RELATION = re.compile(
    r"(?P<no>\\not\s*(?:\\equiv(?![A-Za-z])|=|≡)|\\n(?:equiv|e)(?![A-Za-z])|≢)|\\equiv(?![A-Za-z])|≡|="
)
_BUILDER = re.compile(r"\\\{\s*[A-Za-z](?:\s*\\in[^|:]{1,30}?)?\s*(?:\\mid|\||:)(.*)\\\}", re.DOTALL)
_JOINT = re.compile(r"[,;]|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}(?![A-Za-z])")
_LINEAR = re.compile(
    r"(?:[A-Za-z]\s*=)?\s*(?:(?P<b1>-?[0-9]{1,18})\s*(?P<s1>[+-])\s*)?(?P<a>[0-9]{1,18})\s*(?:\\cdot|\*)?\s*[A-Za-z]"
    r"(?:\s*(?P<s2>[+-])\s*(?P<b2>[0-9]{1,18}))?"
    r"(?:\s*,?\s*(?:(?:for|where|with)(?![A-Za-z])|\(?[A-Za-z]\s*\\in(?![A-Za-z]))(?!.*(?:\\ge|>|\\le|<)).*)?"
)
_MOST_CLASSES = 10_000


@dataclass(frozen=True)
class _Classes:
    """`residues` are none where one is no whole number, or the modulus none; `right` is what was written."""

    left: str
    modulus: str
    is_not: bool
    residues: frozenset[int] | None
    right: str

    @property
    def m(self) -> int:
        return int(self.modulus)


@dataclass(frozen=True)
class _System:
    parts: tuple[_Classes, ...]
    tail: str  # conditions behind the last modulus


def same_residue(ours: str, theirs: str) -> bool | tuple[str, str] | None:
    """Whether two residues are the same, or what is to be compared without their modulus; none if neither has one."""
    first, second = _system(ours), _system(theirs)
    if first is None and second is None:
        return None
    if first is not None and second is not None:
        return _same(first, second)
    system, plain = (first, theirs) if first is not None else (second, ours)
    assert system is not None, "one of the two is"
    if (linear := _linear(plain)) is not None and system.parts[0].modulus.isdecimal():
        return _same(system, linear)
    if (number := _whole(unmarked(plain))) is not None and system.parts[0].residues == frozenset([number]):
        return True  # 2^{10} mod 7 is 2
    said = ", ".join(part.right for part in system.parts)
    return (said, plain) if first is not None else (plain, said)


def _same(first: _System, second: _System) -> bool | tuple[str, str]:
    if first.tail != second.tail or len(first.parts) != len(second.parts):
        return False
    if len(first.parts) > 1:
        return set(map(_plain, first.parts)) == set(map(_plain, second.parts))
    (ours,), (theirs,) = first.parts, second.parts
    if ours.left and theirs.left and ours.left != theirs.left:
        return False
    if ours.residues is not None and theirs.residues is not None:
        return _same_classes(ours, theirs)
    if (ours.modulus, ours.is_not) != (theirs.modulus, theirs.is_not):
        return False
    return ours.right == theirs.right or (ours.right, theirs.right)


def _plain(part: _Classes) -> tuple[object, ...]:
    return part.left, part.modulus, part.is_not, part.residues or part.right


def _same_classes(ours: _Classes, theirs: _Classes) -> bool:
    common = math.lcm(ours.m, theirs.m)
    if common > _MOST_CLASSES:
        return (ours.m, ours.is_not, ours.residues) == (theirs.m, theirs.is_not, theirs.residues)
    return _members(ours, common) == _members(theirs, common)


def _members(part: _Classes, common: int) -> set[int]:
    residues = part.residues or frozenset()
    return {number for number in range(common) if (number % part.m in residues) != part.is_not}


def _system(text: str) -> _System | None:
    """None if there is no modulus, or it belongs to an operation: `2^{10} \\bmod 7 = 2`."""
    bare = unmarked(text)
    if (builder := _BUILDER.fullmatch(bare)) is not None:
        bare = builder[1].strip()
    found = list(_MODULUS.finditer(bare))
    if not found or (behind := bare[found[-1].end() :].strip())[:1] in tuple("=+-*/^"):
        return None
    parts, done = list[_Classes](), 0
    for match in found:
        modulus = match["braced"] or match["number"] or match["letter"]
        parts.append(_classes(bare[done : match.start()], str(int(modulus)) if modulus.isdecimal() else _ink(modulus)))
        done = match.end()
    if any(part.modulus == "0" for part in parts):
        return None
    return _System(tuple(_merged(parts)), _ink(_WORD.sub("", behind)))


def _classes(text: str, modulus: str) -> _Classes:
    text = re.sub(rf"^\s*(?:{_JOINT.pattern})", "", text)
    relations = list(_RELATION.finditer(text))
    left, right = (text[: relations[0].start()], text[relations[-1].end() :]) if relations else ("", text)
    left = _ink(_WORD.sub("", left))
    is_not = any(relation["no"] for relation in relations)
    residues = None
    if modulus.isdecimal():
        values = [_whole(part) for piece in _JOINT.split(right) if piece.strip() for part in _signed(piece)]
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            residues = frozenset(value % int(modulus) for value in known)
    return _Classes("" if len(left) == 1 else left, modulus, is_not, residues, right.strip())


def _signed(text: str) -> list[str]:
    return [text.replace(r"\pm", sign) for sign in "+-"] if text.count(r"\pm") == 1 else [text]


def _whole(text: str) -> int | None:
    value = rational(text)
    return int(value) if value is not None and value.denominator == 1 else None


def _merged(parts: Iterable[_Classes]) -> list[_Classes]:
    """Two classes of one modulus are never meant at once, so they are alternatives."""
    found: dict[tuple[str, str, bool], _Classes] = {}
    for part in parts:
        key = (part.left, part.modulus, part.is_not)
        other = found.get(key)
        if other is None or other.residues is None or part.residues is None:
            found[key if other is None else (*key[:1], f"{part.modulus} {len(found)}", part.is_not)] = part
        else:
            found[key] = _Classes(*key, other.residues | part.residues, f"{other.right}, {part.right}")
    return list(found.values())


def _linear(text: str) -> _System | None:
    """`n = 4k + 3` beside a residue is one; beside another formula it stays a formula."""
    match = _LINEAR.fullmatch(unmarked(text))
    if match is None or int(match["a"]) == 0 or (match["b1"] and (match["b2"] or match["s1"] == "-")):
        return None
    rest = int(match["b1"] or 0) + int(f"{match['s2'] or '+'}{match['b2'] or 0}")
    modulus = int(match["a"])
    return _System((_Classes("", str(modulus), False, frozenset([rest % modulus]), str(rest)),), "")


def _ink(text: str) -> str:
    return "".join(text.split()).strip(".,;:")
