r"""Equality of two final answers, decided exactly where that needs no algebra.

`compare` cleans both texts and reads what it can: rational numbers with units, choices, tuples, sets and lists,
intervals and inequalities, matrices and words. What it reads on both sides it decides; else it gives the cleaned texts
back for a computer algebra. These are our conventions, for answers as keys publish them:

* A number equals another only exactly: 0.333 is not 1/3, `0.\overline{3}` is.
* A number without a unit equals one with a unit; two units are converted: 1 m is 100 cm, 5 cm is not 5 m, nor 5 s.
* 50 % equals 1/2, and 50 too.
* A choice with its text, `\text{(B) } 42`, equals `B` and equals 42. Without one, `B` equals no number.
* A name before the equals sign is dropped, unless the other side has another name.
* Order matters in tuples, not in sets, `or` lists and bare lists; a bare list also equals a tuple in its own order.
* `(1,234)` is a pair, `1,234` a number.

Everything is linear in the text, but for nesting, which is bounded. Nothing is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from dail.synth.data.choices import LETTERS
from dail.synth.method.answer_text import END, OR, START, clean, encloses, latex, split, unmarked, unwrapped
from dail.synth.method.answer_values import (
    PLUS_MINUS,
    Matrix,
    Quantity,
    Several,
    Value,
    Words,
    name_of,
    read,
    without_name,
)
from dail.synth.method.clocks import same_time
from dail.synth.method.congruences import same_residue
from dail.synth.method.regions import Region, as_interval, interval, is_inequality, union
from dail.synth.method.units import DEGREE, NO_UNIT, PERCENT, Unit, is_known, unit

_LABEL = re.compile(
    r"(?:(?i:(?:the\s++)?(?:correct\s++|final\s++|right\s++)?(?:option|choice|answer|letter)(?:\s++is)?)\s*+:?\s*+)?(?:\(\s*+([A-Ja-j])\s*+\)|([A-J])(?:\s*+[).:](?![0-9])|$))[.:]?\s*+"
)

_DOTS = re.compile(r"\.\.\.|…|\\dots[bcmio]?(?![A-Za-z])")
_BARE_UNIT = re.compile(r"(?<=[0-9A-Za-z})\]])\s+([A-Za-z]{2,}(?:/[A-Za-z]+)?(?:\^[23])?)\Z")
_DEGREES = re.compile(r"([0-9]++(?:\.[0-9]++)?)\s*+°(?!\s?[CF])")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


@dataclass(frozen=True)
class Choice:
    """One of several given answers, by its letter, and its text behind the letter if it was repeated."""

    letter: str
    text: str


def compare(given: str, wanted: str) -> bool | tuple[str, str]:
    r"""Whether two answers are equal, or both cleaned, given first, where that takes algebra.

    compare(r"12 \text{ km/h}.", "12")          True
    compare(r"2\le x<3", "[2,3)")               True
    compare("0.333", r"\frac13")                False
    compare(r"\sqrt{8}", r"$2\sqrt{2}$.")       (r"\sqrt{8}", r"2\sqrt{2}")
    """
    ours, theirs = clean(given), clean(wanted)
    if ours == theirs or (START in ours + theirs and _ink(ours) == _ink(theirs)):
        return True
    listed = _tight(ours)
    if r"\dots" in listed and listed == _tight(theirs):
        return True
    timed = same_time(unmarked(ours), unmarked(theirs))
    if timed is not None:
        return timed
    residues = same_residue(ours, theirs)
    if isinstance(residues, bool):
        return residues
    ours, theirs = residues or (ours, theirs)
    labelled = _choice(ours), _choice(theirs)
    decided = _choices(labelled, ours, theirs)
    if decided is not None:
        return decided
    first, second = labelled
    return _compare(first.text or ours if first else ours, second.text or theirs if second else theirs)


def chosen(given: str, choices: Sequence[str]) -> str | None:
    r"""The letter of the one choice whose text an answer is; none if it names a letter itself, or fits none or several.

    chosen(r"12\text{ cm}", ["11", "12"])     "B"
    """
    if _choice(clean(given)) is not None:
        return None
    same = [place for place, text in enumerate(choices) if compare(given, text) is True]
    return LETTERS[same[0]] if len(same) == 1 and same[0] < len(LETTERS) else None


def _tight(text: str) -> str:
    r"""Of a list with dots in it, `1, 2, \dots, n`, what says something; a set of it is the list."""
    tight = re.sub(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])", "", _DOTS.sub(r"\\dots", text))
    return tight[2:-2] if encloses(tight, r"\{", r"\}") else tight


def _ink(text: str) -> str:
    return "".join(unmarked(text).split())


def _compare(ours: str, theirs: str) -> bool | tuple[str, str]:
    values = read(ours), read(theirs)
    if values[0] is not None and values[1] is not None:
        equal = same(values[0], values[1])
        named = any(isinstance(value, Several) and value.names for value in values)
        is_open = (_is_equation(ours) and _is_equation(theirs)) or _named_apart(ours, theirs)
        if equal is not None and (named or not is_open):
            return equal
    return _for_algebra(ours, theirs)


def _named_apart(ours: str, theirs: str) -> bool:
    """x = 5 and y = 5 are not decided here; a name in words is a remark, and y may be f(x)."""
    names = name_of(ours), name_of(theirs)
    if "y" in names and any(re.fullmatch(r"[a-zA-Z]\(x\)", name) for name in names):
        return False
    return "" not in names and names[0] != names[1] and not any(name.startswith(START) for name in names)


def _is_equation(text: str) -> bool:
    """Whether its left side is no name, so that it says more than its right side: 2x + 3y = 6, not x = 6."""
    left, *right = text.split("=")
    return len(right) == 1 and not name_of(text) and re.search(r"(?<!\\)[A-Za-z]", unmarked(left)) is not None


def _choice(text: str) -> Choice | None:
    bare = unmarked(text)
    match = _LABEL.match(bare)
    if match is None:
        return None
    letter, rest = (match[1] or match[2]), bare[match.end() :]
    marked = text.startswith(START)
    if rest and not marked:
        # (b)(c) and (A) + 1 are products and sums
        if letter.islower() or rest[0] in "+*/^_=<>(!|" or (rest[0] == "-" and rest[1:2] == " "):
            return None
        if bare[match.end() - 1] not in " .:)":
            return None
    if re.search(r"\([A-Ja-j]\)", rest):
        return None  # several parts, (a) 5 (b) 7
    return Choice(letter.upper(), unwrapped(text[_tail(text, rest) :]) if rest else "")


def _tail(text: str, rest: str) -> int:
    """Where `rest`, which lacks the marks of words, begins in `text`: counted in ink from the end."""
    wanted = len(rest.replace(" ", ""))
    for place in range(len(text) - 1, -1, -1):
        wanted -= text[place] not in (" ", START, END)
        if wanted == 0:
            return place - (place > 0 and text[place - 1] == START)
    return 0


def _choices(labelled: tuple[Choice | None, Choice | None], ours: str, theirs: str) -> bool | None:
    first, second = labelled
    if first and second:
        if first.letter != second.letter:
            return False
        return not (first.text and second.text) or _compare(first.text, second.text) is not False
    one, other = (first, theirs) if first else (second, ours)
    if one is None or one.text:
        return None
    return None if read(other) is None else False


def same(ours: Value, theirs: Value) -> bool | None:
    """Whether two values are equal; none where the conventions leave it open. The order of the two says nothing."""
    if isinstance(ours, Quantity) and isinstance(theirs, Quantity):
        return _same_quantity(ours, theirs)
    if isinstance(ours, Region) or isinstance(theirs, Region):
        return _same_region(ours, theirs)
    if isinstance(ours, Several) and isinstance(theirs, Several):
        return _same_several(ours, theirs)
    if isinstance(ours, Several) or isinstance(theirs, Several):
        return _single(ours, theirs)
    if isinstance(ours, Matrix) and isinstance(theirs, Matrix):
        if [len(row) for row in ours.rows] != [len(row) for row in theirs.rows]:
            return False
        cells = zip(sum(ours.rows, ()), sum(theirs.rows, ()), strict=True)
        return _all(same(one, other) for one, other in cells)
    if isinstance(ours, Words) and isinstance(theirs, Words):
        return ours == theirs
    return None if Matrix in (type(ours), type(theirs)) else False


def _same_quantity(ours: Quantity, theirs: Quantity) -> bool:
    for one, other in ((ours, theirs), (theirs, ours)):
        if one.unit == PERCENT and not other.unit.powers:
            return other.number in (one.number, one.number / 100)
        if one.unit in (PERCENT, DEGREE) and other.unit.powers and _begins(other.unit, one.unit):
            return ours.number == theirs.number
    if not ours.unit.powers or not theirs.unit.powers:
        return ours.number == theirs.number
    return ours.unit.powers == theirs.unit.powers and (
        ours.number * ours.unit.factor == theirs.number * theirs.unit.factor
    )


def _begins(unit: Unit, plain: Unit) -> bool:
    """Whether a unit only says more: a 5 % increase is 5 %, and 20 °C may be written 20°."""
    if plain == DEGREE:
        return unit.powers in ((("celsius", 1),), (("fahrenheit", 1),))
    return ("%", 1) in unit.powers and all(name == "%" or name.startswith("of ") for name, _ in unit.powers)


def _same_region(ours: Value, theirs: Value) -> bool | None:
    regions = [one if isinstance(one, Region) else _as_region(one) for one in (ours, theirs)]
    if regions[0] is None or regions[1] is None:
        return None if Words in (type(ours), type(theirs)) else False
    names = {regions[0].name, regions[1].name} - {""}
    return len(names) < 2 and regions[0].spans == regions[1].spans


def _as_region(value: Value) -> Region | None:
    if not isinstance(value, Several) or value.kind not in ("(", "[") or len(value.items) != 2:
        return None
    low, high = value.items
    if not isinstance(low, Quantity) or not isinstance(high, Quantity):
        return None
    closing = ")" if value.kind == "(" else "]"
    return union([interval(value.kind, str(low.number), str(high.number), closing)])


def _single(ours: Value, theirs: Value) -> bool | None:
    """A set of one is its member."""
    several, other = (ours, theirs) if isinstance(ours, Several) else (theirs, ours)
    assert isinstance(several, Several), "one of the two is"
    if isinstance(other, Matrix):
        return None
    return len(several.items) == 1 and same(several.items[0], other)


def _same_several(ours: Several, theirs: Several) -> bool | None:
    kinds = {ours.kind, theirs.kind}
    if (kinds == {"(", "["} and len(ours.items) == 2) or kinds in ({"(", "{"}, {"[", "{"}):
        return False
    if len(ours.items) != len(theirs.items) and "{" not in kinds and kinds != {""}:
        return False
    if ours.names and theirs.names:
        first, second = (
            dict(zip(ours.names, ours.items, strict=True)),
            dict(zip(theirs.names, theirs.items, strict=True)),
        )
        return first.keys() == second.keys() and _all(same(first[name], second[name]) for name in first)
    if kinds & {"(", "["} or ours.names or theirs.names:
        if len(ours.items) != len(theirs.items):
            return False
        return _all(same(one, other) for one, other in zip(ours.items, theirs.items, strict=True))
    members = set(ours.items), set(theirs.items)
    if all(isinstance(one, Quantity) and one.unit == NO_UNIT for one in (*ours.items, *theirs.items)):
        return members[0] == members[1]  # a long list against another would take minutes pair by pair
    covered = [[same(one, other) for other in members[1]] for one in members[0]]
    return all(any(row) for row in covered) and all(any(column) for column in zip(*covered, strict=True))


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    return False if False in found else None if None in found else True


def _for_algebra(ours: str, theirs: str) -> bool | tuple[str, str]:
    texts = [unwrapped(ours), unwrapped(theirs)]
    are_equations = ours.count("=") == 1 == theirs.count("=") and (_is_equation(ours) or _is_equation(theirs))
    if not (are_equations or _named_apart(*texts)):
        texts = [unwrapped(without_name(text)) for text in texts]
    texts = _in_radians(texts)
    (first, first_unit), (second, second_unit) = (_without_unit(text) for text in texts)
    if first_unit.powers and second_unit.powers and first_unit != second_unit:
        if first_unit.powers != second_unit.powers:
            return False
        first = rf"({first}) \cdot {_ratio(first_unit.factor)}"
        second = rf"({second}) \cdot {_ratio(second_unit.factor)}"
    first, second = _as_set(first), _as_set(second)
    if is_inequality(first) != is_inequality(second):
        first, second = as_interval(first), as_interval(second)
    if first == second:
        return True
    return latex(first), latex(second)


def _in_radians(texts: list[str]) -> list[str]:
    """Degrees become radians inside functions, and beside an angle in radians."""
    of_pi = [r"\pi" in text and "°" not in text for text in texts]
    return [
        _DEGREES.sub(r"\\frac{\1 \\pi}{180}", text) if of_pi[not place] or _TRIGONOMETRY.search(text) else text
        for place, text in enumerate(texts)
    ]


def _ratio(value: Fraction) -> str:
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _without_unit(text: str) -> tuple[str, Unit]:
    """`2\\sqrt{3}\\text{ cm}` and `2\\pi cm` are cut before their units; a lone letter, or letters that are no unit,
    are variables where no \\text{} marks them."""
    if text.endswith("°"):
        return text[:-1].strip(), Unit(Fraction(1), (("angle", 1),))
    place = text.find(START)
    if place < 0 and (bare := _BARE_UNIT.search(text)) and is_known(bare[1]):
        return text[: bare.start()].strip(), unit(bare[1]) or NO_UNIT
    if place < 1:
        return text, NO_UNIT
    head, behind = text[:place].strip(), unmarked(text[place:].replace("{", "").replace("}", ""))
    measure = unit(behind)
    return (text, NO_UNIT) if measure is None or not head or head[-1] in "=<>,;([{^_+-*/" else (head, measure)


def _as_set(text: str) -> str:
    """`a \\pm b` and `a or b` as sets; chains and lists as they are."""
    parts = split(text, OR)
    if len(parts) > 1:
        parts = [without_name(part.strip(" ,;")) for part in parts]
    pairs = [
        PLUS_MINUS.sub(sign, part).strip().removeprefix("+").strip()
        for part in parts
        for sign in ("+-" if len(PLUS_MINUS.findall(part)) == 1 else " ")
    ]
    return rf"\{{{', '.join(pairs)}\}}" if len(pairs) > 1 else text
