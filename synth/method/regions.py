r"""Sets of real numbers with rational ends: `[2,3)` and `2\le x<3` are the same one.

A region is kept as sorted intervals that neither touch nor overlap, so equal regions are equal values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dail.synth.method.exact_numbers import rational

_RELATION = re.compile(r"(\\le|\\ge|\\ne)(?![A-Za-z])|([<>])")
_MIRRORED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}
_VARIABLE = re.compile(r"[A-Za-z]|\\(?!infty)[A-Za-z]{2,8}")
_INFINITY = re.compile(r"([-+]?)\s*\\infty")


@dataclass(frozen=True, order=True)
class End:
    """An end of an interval on the line: side -1 is just below the number, +1 just above; infinite if `far`."""

    far: int
    number: Fraction
    side: int


@dataclass(frozen=True)
class Region:
    spans: tuple[tuple[End, End], ...]
    name: str = ""  # of the variable, where an inequality says it


_LOWEST, _HIGHEST = End(-1, Fraction(0), 0), End(1, Fraction(0), 0)


def interval(opening: str, low: str, high: str, closing: str) -> Region | None:
    """None if an end is no rational number and not infinite, or nothing lies between the ends."""
    ends = _end(low, -1 if opening == "[" else 1), _end(high, 1 if closing == "]" else -1)
    if ends[0] is None or ends[1] is None or ends[0] >= ends[1]:
        return None
    return Region(((ends[0], ends[1]),))


def inequality(text: str) -> Region | None:
    r"""`x > 2`, `2 < x`, `2 \le x < 3`, `x \ne 2`."""
    pieces = _RELATION.split(text)
    if len(pieces) not in (4, 7):
        return None
    sides = [piece.strip() for piece in pieces[::3]]
    relations = [pieces[place] or pieces[place + 1] for place in range(1, len(pieces), 3)]
    if len(sides) == 2:
        if not _VARIABLE.fullmatch(sides[0]):
            sides.reverse()
            relations = [_MIRRORED[relations[0]]]
        return _half(sides[0], relations[0], sides[1])
    if relations[0] in (">", r"\ge"):
        sides.reverse()
        relations = [_MIRRORED[relation] for relation in reversed(relations)]
    if not _VARIABLE.fullmatch(sides[1]) or not set(relations) <= {"<", r"\le"}:
        return None
    found = interval("[" if relations[0] == r"\le" else "(", sides[0], sides[2], "]" if relations[1] == r"\le" else ")")
    return found and Region(found.spans, sides[1])


def is_inequality(text: str) -> bool:
    return _RELATION.search(text) is not None


def as_interval(text: str) -> str:
    r"""An inequality of one variable in brackets, whatever its ends: `1 \le x < \pi` is `[1, \pi)`; other text as it
    is."""
    pieces = _RELATION.split(text)
    sides = [piece.strip() for piece in pieces[::3]]
    relations = [pieces[place] or pieces[place + 1] for place in range(1, len(pieces), 3)]
    if len(sides) == 2 and r"\ne" not in relations:
        if _VARIABLE.fullmatch(sides[1]):
            sides, relations = sides[::-1], [_MIRRORED[relations[0]]]
        upper = relations[0] in ("<", r"\le")
        sides = [r"-\infty", *sides] if upper else [sides[1], sides[0], r"\infty"]
        relations = ["<", *relations] if upper else [_MIRRORED[relations[0]], "<"]
    elif len(sides) == 3 and relations[0] in (">", r"\ge"):
        sides, relations = sides[::-1], [_MIRRORED[relation] for relation in reversed(relations)]
    if len(sides) != 3 or not _VARIABLE.fullmatch(sides[1]) or not set(relations) <= {"<", r"\le"}:
        return text
    brackets = "[" if relations[0] == r"\le" else "(", "]" if relations[1] == r"\le" else ")"
    return f"{brackets[0]}{sides[0]}, {sides[2]}{brackets[1]}"


def _half(variable: str, relation: str, number: str) -> Region | None:
    if not _VARIABLE.fullmatch(variable):
        return None
    below, above = _end(number, -1), _end(number, 1)
    if below is None or above is None or below.far:
        return None
    spans = {
        "<": ((_LOWEST, below),),
        r"\le": ((_LOWEST, above),),
        ">": ((above, _HIGHEST),),
        r"\ge": ((below, _HIGHEST),),
        r"\ne": ((_LOWEST, below), (above, _HIGHEST)),
    }[relation]
    return Region(spans, variable)


def union(regions: Sequence[Region | None]) -> Region | None:
    """None if one is none, or they are of different variables."""
    found = [region for region in regions if region is not None]
    names = {region.name for region in found} - {""}
    if len(found) < len(regions) or not found or len(names) > 1:
        return None
    merged = list[tuple[End, End]]()
    for low, high in sorted(span for region in found for span in region.spans):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return Region(tuple(merged), "".join(names))


def _end(text: str, side: int) -> End | None:
    if (infinite := _INFINITY.fullmatch(text.strip())) is not None:
        return _LOWEST if infinite[1] == "-" else _HIGHEST
    number = rational(text)
    return None if number is None else End(0, number, side)
