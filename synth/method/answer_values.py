r"""What a cleaned answer means, where that takes no algebra: numbers with units, tuples, sets and lists, intervals and
inequalities, matrices and words. Nothing is evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from dail.synth.method.answer_text import END, MOST_NESTED, OR, START, encloses, split, unmarked, unwrapped
from dail.synth.method.exact_numbers import rational
from dail.synth.method.regions import Region, inequality, interval, union
from dail.synth.method.units import NO_UNIT, Unit, is_known, unit

_NAME = r"(?:[A-Za-z]|[A-Z]{2,3}|\\(?!frac|sqrt)[A-Za-z]++(?:\s*+[A-Z]{1,3}(?![A-Za-z]))?+)"
_ASSIGNED = re.compile(
    rf"\s*+(?:{START}[^{END}=]{{1,60}}{END}|\|[A-Z]{{2}}\||{_NAME}(?:_(?:[A-Za-z0-9]|\{{[^{{}}]{{1,20}}\}}))?+"
    r"'?+(?:\([A-Za-z0-9, ]{1,8}\))?+)\s*+="
)
_BUILDER = re.compile(
    r"\\\{\s*+(?:[A-Za-z](?:\s*+\\in\s*+\\?[A-Za-z{}]++)?)\s*+(?:\\mid|\||:)(.*+)(?<=\\\})", re.DOTALL
)
_MEMBER = re.compile(r"\s*+[A-Za-z]\s*+\\in(?![A-Za-z])")
_NUMBER_HEAD = re.compile(
    r"(?:[0-9.\s+\-*/^(){}!]|\\(?:frac|times|cdot|div|sqrt|overline)(?![A-Za-z])|(?<=[0-9])[eE](?=[-+]?[0-9]))*+"
)
_BASE = re.compile(r"([0-9]++)_(?:\{\s*+([0-9]{1,3})\s*+\}|([0-9]{1,2}))")
_MATRIX = re.compile(r"\\begin\{([pbBv]?matrix|array)\}(?:\{[lcr| ]*+\})?+(.*)\\end\{\1\}", re.DOTALL)
_TEXT = re.compile(r"[A-Za-z][A-Za-z'\- ]*+\.?")
_ARTICLE = re.compile(r"\b(?:the|a|an)\s+")
_UP_TO_NINETEEN = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBERS = [*_UP_TO_NINETEEN, *(f"{ten} {one}".removesuffix(" zero") for ten in _TENS for one in _UP_TO_NINETEEN[:10])]
_NOTHING = {"no solutions": "no solution", "empty set": "no solution", "no real solutions": "no real solution",
            "dne": "does not exist"}  # fmt: skip
PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_FUNCTION_WORDS = re.compile(r"\s*+\b(?:or|and)\b\s*+")


@dataclass(frozen=True)
class Quantity:
    number: Fraction
    unit: Unit = NO_UNIT


@dataclass(frozen=True)
class Several:
    """`kind`: ( or [ for tuples, { for sets and `or` lists, nothing for bare lists, whose items may have names."""

    kind: str
    items: tuple[Value, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Words:
    text: str


Value = Quantity | Several | Matrix | Words | Region


def read(text: str, depth: int = 0) -> Value | None:
    """What a cleaned text means, or none where that takes algebra."""
    text = unwrapped(text)
    if not text or depth > MOST_NESTED:
        return None
    found = _members(text) or _matrix(text, depth) or _several(text, depth)
    if found is not None:
        return found
    text = without_name(text)
    parts = text.split("=")
    if len(parts) == 1:
        return _one(text, depth)
    values = {value for part in parts if (value := _one(unwrapped(part), depth)) is not None}
    return values.pop() if len(values) == 1 and _one(unwrapped(parts[-1]), depth) is not None else None


def _one(text: str, depth: int) -> Value | None:
    return _quantity(text) or _sign_pair(text) or _several(text, depth) or _matrix(text, depth) or _words(text)


def name_of(text: str) -> str:
    match = _ASSIGNED.match(text)
    return "" if match is None else match[0].rstrip("= ").strip()


def without_name(text: str) -> str:
    match = _ASSIGNED.match(text)
    return text if match is None else text[match.end() :].strip()


def _members(text: str) -> Region | None:
    """The set of reals that an inequality, an interval, or a union of them says."""
    bare = unmarked(text)
    if re.sub(r"[\s\\{}]", "", bare) in ("R", "mathbbR", "mathbfR") or bare.lower() in (
        "all real numbers",
        "all reals",
    ):
        return union([interval("(", r"-\infty", r"\infty", ")")])
    if (builder := _BUILDER.fullmatch(text)) is not None:
        text = builder[1].removesuffix(r"\}")
    if (member := _MEMBER.match(text)) is not None:
        text = text[member.end() :].strip()
    parts = split(text, r"\\cup(?![A-Za-z])")
    if len(parts) == 1:
        parts = split(text, rf"[,;]|\s(?:or)\s|{START}\s*+or\s*+{END}")
        regions = [inequality(unmarked(part)) for part in parts]
        if any(regions) and len(parts) > 1:
            regions = [one or _equality(part) for one, part in zip(regions, parts, strict=True)]
        if all(regions) or (found := _interval(text)) is None:
            return union(regions)
        # two plain brackets are a pair until the other side is an interval
        return found if "infty" in text or text[0] + text[-1] in ("[)", "(]") else None
    return union([_interval(part.strip()) or inequality(unmarked(part)) or _points(part.strip()) for part in parts])


def _interval(text: str) -> Region | None:
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    ends = split(text[1:-1], ",")
    return interval(text[0], unmarked(ends[0]), unmarked(ends[1]), text[-1]) if len(ends) == 2 else None


def _equality(text: str) -> Region | None:
    """The one point of `x = 1`, as a part of `x = 1 or x > 3`."""
    name, number = name_of(text), unmarked(without_name(text)).strip()
    point = interval("[", number, number, "]") if re.fullmatch("[A-Za-z]", name) else None
    return point and Region(point.spans, name)


def _points(text: str) -> Region | None:
    if not encloses(text, r"\{", r"\}"):
        return None
    return union([interval("[", part, part, "]") for part in split(unmarked(text[2:-2]), ",")])


def _several(text: str, depth: int) -> Several | None:
    for opening, closing in ((r"\{", r"\}"), ("(", ")"), ("[", "]")):
        if encloses(text, opening, closing):
            parts = split(text[len(opening) : -len(closing)], "[,;]")
            if len(parts) > 1 or opening == r"\{":
                return _items(opening[-1], parts, depth)
            return None
    parts = [part for piece in split(text, "[,;]") for part in split(piece, OR)]
    if len(parts) == 1 and "/" not in text:
        return None
    parts = [part for part in (_FUNCTION_WORDS.sub("", part, count=1) if _FUNCTION_WORDS.match(part) else part
                               for part in parts) if unmarked(part)]  # fmt: skip
    return _items("", parts, depth) if len(parts) > 1 else None


def _items(kind: str, parts: list[str], depth: int) -> Several | None:
    items = [read(part, depth + 1) for part in parts]
    found = [item for item in items if item is not None]
    if len(found) < len(items):
        return None
    names = tuple(name_of(unwrapped(part)) for part in parts)
    named = names if all(names) and len(set(names)) > 1 else ()
    if kind in ("", "{"):  # 0, \\pm 3 are three values
        found = [one for item, part in zip(found, parts, strict=True) for one in _both_signs(item, part)]
    return Several(kind, tuple(found), named)


def _both_signs(item: Value, part: str) -> tuple[Value, ...]:
    return item.items if isinstance(item, Several) and PLUS_MINUS.search(part) else (item,)


def _matrix(text: str, depth: int) -> Matrix | None:
    match = _MATRIX.fullmatch(text)
    if match is None or match[1] == "vmatrix":
        return None
    body = match[2].strip().removesuffix(r"\\")
    rows = [[read(cell, depth + 1) for cell in row.split("&")] for row in re.split(r"\\\\(?:\[[^\]]{0,8}\])?", body)]
    found = tuple(tuple(cell for cell in row if cell is not None) for row in rows)
    if [len(row) for row in found] != [len(row) for row in rows]:
        return None
    return Matrix(found)


def _sign_pair(text: str) -> Several | None:
    r"""`\pm 3` and `1 \pm 2` are both of their values."""
    if len(PLUS_MINUS.findall(text)) != 1:
        return None
    values = [_quantity(PLUS_MINUS.sub(sign, text)) for sign in "+-"]
    found = tuple(value for value in values if value is not None)
    return Several("{", found) if len(found) == 2 else None


def _quantity(text: str) -> Quantity | None:
    bare = unmarked(text)
    if (based := _BASE.fullmatch(bare)) is not None and len(based[1]) < 1000:
        return Quantity(Fraction(int(based[1])), Unit(Fraction(1), ((f"base {int(based[2] or based[3])}", 1),)))
    money = re.match(r"([-+]?)\s*+([¤€£¥₹])\s*+", bare)
    if money is not None:
        bare = f"{money[1]}{bare[money.end() :]} {money[2]}"
    head = _NUMBER_HEAD.match(bare)
    assert head is not None, "the pattern matches nothing too"
    number, behind = head[0].strip(), bare[head.end() :]
    value = rational(number)
    if value is None:
        return None
    if not behind:
        return Quantity(value)
    measure = _measure(text, behind, head[0])
    return None if measure is None else Quantity(value, measure)


def _measure(text: str, behind: str, number: str) -> Unit | None:
    """`5m` is a product, `5 m` and `5\\text{m}` are metres; `5cm` is no product that anybody means."""
    behind = behind.replace(r"\cdot", "*").replace(r"\times", "*").replace("{", "").replace("}", "")
    if money := re.fullmatch(r"([¤€£¥₹])\s*+([A-Za-z]++)", behind.strip()):
        behind = money[1] if unit(money[1]) == unit(money[2]) else behind
    single = re.match(r"[A-Za-z](?![A-Za-z])", behind)
    if single and START not in text and not number.endswith(" "):
        return None
    if START not in text and not number.endswith(" ") and behind[0].isalpha() and not is_known(behind):
        return None
    return unit(behind)


def _words(text: str) -> Value | None:
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return Words("no solution")
    bare = unmarked(text)
    if not _TEXT.fullmatch(bare):
        return None
    words = " ".join(_ARTICLE.sub("", bare.lower().rstrip(".")).replace("-", " ").split())
    is_product = START not in text and " " not in words and len(words) < 5  # of variables; nobody writes longer ones
    if is_product and words not in ("yes", "no", "true", "false", "dne", *_NUMBERS):
        return None
    if words in _NUMBERS:
        return Quantity(Fraction(_NUMBERS.index(words)))
    words = _NOTHING.get(words, words)
    return Words(" and ".join(sorted(words.split(" and "))))  # Alice and Bob are Bob and Alice
