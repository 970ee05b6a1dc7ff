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
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from dail.synth.method.exact_numbers import rational
from dail.synth.method.regions import Region, as_interval, inequality, interval, is_inequality, union
from dail.synth.method.units import NO_UNIT, PERCENT, Unit, is_known, unit

_MOST_NESTED = 6

# Where \text{...} began and ended: letters inside are words, outside they are variables.
_START, _END = "\ue000", "\ue001"

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–—﹣-", "-"), **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\t\n\r\f\v", " "),
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
        "∞": r"\infty ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "π": r"\pi ", "²": "^2", "³": "^3", "º": "°",
        "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "∅": r"\emptyset ", "≈": "=",
        "，": ",", "。": ".", "（": "(", "）": ")", _START: "", _END: "", "\u200b": "", "\ufeff": "",
    }
)  # fmt: skip
_WORDS = re.compile(
    r"\\(?:text(?:rm|bf|it|sf|tt|up|normal)?|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname\*?|boldsymbol|bm|emph)"
    r"\s*+\{([^{}]*+)\}"
)
_DEGREE = re.compile(r"(?:\{\s*+\})?+\^\s*+(?:\{\s*+\\circ\s*+\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|\\textdegree")
_NOISE = re.compile(
    r"(?P<keep>\\\\(?:\[[^\]]{0,8}\])?+|\\[{}])"
    r"|(?P<gone>\\!|\\[()\[\]]|\$|\\(?:left|right)(?![A-Za-z])(?:\s*+\.)?+|\\[bB]igg?[lrm]?(?![A-Za-z])"
    r"|\\(?:display|text|script)style(?![A-Za-z])|\*\*)"
    r"|(?P<space>\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\[hv]space\*?\{[^{}]{0,20}\}|\\(?:thin|med|thick)space(?![A-Za-z]))"
)
_SAME_COMMAND = {
    r"\leq": r"\le", r"\leqslant": r"\le", r"\geq": r"\ge", r"\geqslant": r"\ge", r"\neq": r"\ne", r"\lt": "<",
    r"\gt": ">", r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\lbrace": r"\{", r"\rbrace": r"\}",
    r"\lor": " or ", r"\vee": " or ", r"\approx": "=", r"\varnothing": r"\emptyset", r"\land": " and ",
    r"\euro": "€", r"\pounds": "£",
}  # fmt: skip
_UNIT_RATIO = re.compile(rf"\\[dt]?frac\s*+\{{\s*+{_START}([^{_END}]*+){_END}\s*+\}}\{{\s*+{_START}([^{_END}]*+){_END}")
_COMMAND = re.compile(r"\\[A-Za-z]++")
_SEPARATOR = r"(?:\\,|\\;|\\ |\{,\}(?:\\!)?|\\!,|,\\!|~| )"
_THOUSANDS = re.compile(rf"(?<![0-9.,A-Za-z])[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}}(?![0-9]))++")
_COMMA_THOUSANDS = re.compile(r"(?<![0-9.,A-Za-z])[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))++")
_LARGE = re.compile(r"(?<=[0-9])\s*+(?:\\,)?\s*+\b(thousand|million|billion|trillion)\b")
_ZEROS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PREFIX = re.compile(r"(?:the\s++)?(?:(?:final|correct)\s++)?(?:answer|result|value)(?:\s++is\s*+:?|\s*+:)\s*+", re.I)
_MARKED_PREFIX = re.compile(rf"{_START}\s*+{_PREFIX.pattern}{_END}", re.I)
_WRAPPER = re.compile(r"\\(?:boxed|fbox|mathbb|mathcal|ensuremath|underline)\s*+(?=\{)")

_BRACKET = re.compile(r"\\?[{(\[]|\\?[})\]]")
_NAME = r"(?:[A-Za-z]|[A-Z]{2,3}|\\(?!frac|sqrt)[A-Za-z]++(?:\s*+[A-Z]{1,3}(?![A-Za-z]))?+)"
_ASSIGNED = re.compile(
    rf"\s*+(?:{_START}[^{_END}=]{{1,60}}{_END}|\|[A-Z]{{2}}\||{_NAME}(?:_(?:[A-Za-z0-9]|\{{[^{{}}]{{1,20}}\}}))?+"
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
_LABEL = re.compile(
    r"(?:(?i:option|choice|answer)\s*+)?(?:\(\s*+([A-Ja-j])\s*+\)|([A-J])(?:\s*+[).:](?![0-9])|$))[.:]?\s*+"
)
_MATRIX = re.compile(r"\\begin\{([pbBv]?matrix|array)\}(?:\{[lcr| ]*+\})?+(.*)\\end\{\1\}", re.DOTALL)
_TEXT = re.compile(r"[A-Za-z][A-Za-z'\- ]*+\.?")
_ARTICLE = re.compile(r"\b(?:the|a|an)\s+")
_UP_TO_TWENTY = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty
"""
_NUMBERS = _UP_TO_TWENTY.split()
_NOTHING = {"no solutions": "no solution", "empty set": "no solution", "no real solutions": "no real solution"}
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
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
    if ours == theirs:
        return True
    labelled = _choice(ours), _choice(theirs)
    decided = _choices(labelled, ours, theirs)
    if decided is not None:
        return decided
    first, second = labelled
    return _compare(first.text or ours if first else ours, second.text or theirs if second else theirs)


def _compare(ours: str, theirs: str) -> bool | tuple[str, str]:
    values = _read(ours), _read(theirs)
    if values[0] is not None and values[1] is not None:
        equal = same(values[0], values[1])
        named = any(isinstance(value, Several) and value.names for value in values)
        if equal is not None and (named or not _named_apart(ours, theirs)):
            return equal
    return _for_algebra(ours, theirs)


# -- cleaning


def clean(text: str) -> str:
    """Without what says nothing about the value: dollars, spacing, boxes, separators of thousands, a last full stop.

    Words keep their marks, so the result is for this module; `latex` makes it LaTeX again.
    """
    text = text.translate(_SIGNS).replace(r"\$", "¤").replace(r"\%", "%")
    text = _DEGREE.sub("°", text)
    text = re.sub(r"°\s*+([CF])(?![A-Za-z])", r" °\1", text)
    for _ in range(3):
        text = _WORDS.sub(_START + r"\1" + _END, text)
    text = re.sub(rf"°\s*+{_START}\s*+([CF])\s*+{_END}", r" °\1", text)
    text = _UNIT_RATIO.sub(rf"{_START}\1/\2{_END}{{", text).replace("{}", "")
    text = _THOUSANDS.sub(lambda match: re.sub(r"[^0-9]", "", match[0]), text)
    text = re.sub(r"(?<=[0-9])\{,\}(?=[0-9])", ".", text)  # a decimal comma; thousands are joined by now
    text = _NOISE.sub(lambda match: match["keep"] or (" " if match["space"] else ""), text)
    text = _COMMAND.sub(lambda match: _SAME_COMMAND.get(match[0], match[0]), text)
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    text = re.sub(r"\\sqrt\s*+([0-9]++)", r"\\sqrt{\1}", text)
    text = _LARGE.sub(lambda match: rf"\cdot 10^{{{_ZEROS[match[1]]}}}", text)
    return _unwrapped(_joined_thousands(" ".join(text.split())))


def _joined_thousands(text: str) -> str:
    """`1,000` outside brackets; inside them a comma stands between items."""
    depth, done, parts = 0, 0, list[str]()
    for match in re.finditer(rf"{_BRACKET.pattern}|{_COMMA_THOUSANDS.pattern}", text):
        if match[0][0].isdigit():
            if depth <= 0:
                parts += [text[done : match.start()], match[0].replace(",", "")]
                done = match.end()
        elif match[0] not in ("{", "}"):
            depth += 1 if match[0][-1] in "([{" else -1
    return "".join([*parts, text[done:]])


def _unwrapped(text: str) -> str:
    """Without boxes, needless braces, an introduction and punctuation around the whole."""
    for _ in range(_MOST_NESTED):
        before = text
        text = text.strip().rstrip(".,;:").strip()
        text = _PREFIX.sub("", text.lstrip(), count=1) if _PREFIX.match(text) else text
        text = _MARKED_PREFIX.sub("", text, count=1) if text.startswith(_START) else text
        inner = _WRAPPER.sub("", text, count=1) if _WRAPPER.match(text) else text
        if _encloses(inner, "{", "}"):
            text = inner[1:-1]
        if text.startswith(_START) and text.find(_END) == len(text) - 1 and _is_formula(text[1:-1]):
            text = text[1:-1]
        if text == before:
            break
    return text


def _is_formula(words: str) -> bool:
    """A number in \\text{} is a number, and so is one with its unit; what has letters alone stays words."""
    return bool(re.search(r"[0-9]", words)) or not re.search(r"[A-Za-z]", _COMMAND.sub("", words))


def _encloses(text: str, opening: str, closing: str) -> bool:
    """Whether one pair of brackets holds the whole text."""
    if not (text.startswith(opening) and text.endswith(closing)) or len(text) < len(opening + closing):
        return False
    depth = 0
    for match in _BRACKET.finditer(text):
        depth += 1 if match[0][-1] in "([{" else -1
        if depth == 0:
            return match.end() == len(text)
    return False


def latex(text: str) -> str:
    """A cleaned text for a parser of LaTeX."""
    text = text.replace(_START, r"\text{").replace(_END, "}").replace("°", r"^{\circ}")
    return text.replace("¤", r"\$").replace("%", r"\%")


def _bare(text: str) -> str:
    return " ".join(text.replace(_START, " ").replace(_END, " ").split())


# -- choices


def _choice(text: str) -> Choice | None:
    bare = _bare(text)
    match = _LABEL.match(bare)
    if match is None:
        return None
    letter, rest = (match[1] or match[2]), bare[match.end() :]
    marked = text.startswith(_START)
    if rest and not marked:
        # (b)(c) and (A) + 1 are products and sums
        if letter.islower() or rest[0] in "+*/^_=<>(!|" or (rest[0] == "-" and rest[1:2] == " "):
            return None
        if bare[match.end() - 1] not in " .:)":
            return None
    if re.search(r"\([A-Ja-j]\)", rest):
        return None  # several parts, (a) 5 (b) 7
    return Choice(letter.upper(), _unwrapped(text[_tail(text, rest) :]) if rest else "")


def _tail(text: str, rest: str) -> int:
    """Where `rest`, which lacks the marks of words, begins in `text`: counted in ink from the end."""
    wanted = len(rest.replace(" ", ""))
    for place in range(len(text) - 1, -1, -1):
        wanted -= text[place] not in (" ", _START, _END)
        if wanted == 0:
            return place - (place > 0 and text[place - 1] == _START)
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
    return None if _read(other) is None else False


# -- reading


def _read(text: str, depth: int = 0) -> Value | None:
    """What a cleaned text means, or none where that takes algebra."""
    text = _unwrapped(text)
    if not text or depth > _MOST_NESTED:
        return None
    found = _members(text) or _matrix(text, depth) or _several(text, depth)
    if found is not None:
        return found
    text = _without_name(text)
    parts = text.split("=")
    if len(parts) == 1:
        return _one(text, depth)
    values = {value for part in parts if (value := _one(_unwrapped(part), depth)) is not None}
    return values.pop() if len(values) == 1 and _one(_unwrapped(parts[-1]), depth) is not None else None


def _one(text: str, depth: int) -> Value | None:
    return _quantity(text) or _sign_pair(text) or _several(text, depth) or _matrix(text, depth) or _words(text)


def _name(text: str) -> str:
    match = _ASSIGNED.match(text)
    return "" if match is None else match[0].rstrip("= ").strip()


def _without_name(text: str) -> str:
    match = _ASSIGNED.match(text)
    return text if match is None else text[match.end() :].strip()


def _named_apart(ours: str, theirs: str) -> bool:
    """x = 5 and y = 5 are not decided here; a name in words is a remark."""
    names = _name(ours), _name(theirs)
    return "" not in names and names[0] != names[1] and not any(name.startswith(_START) for name in names)


def _split(text: str, separator: str) -> list[str]:
    """Cut at separators outside brackets."""
    depth, done, parts = 0, 0, list[str]()
    for match in re.finditer(rf"(?P<at>{separator})|(?P<bracket>{_BRACKET.pattern})|\\[A-Za-z]++", text):
        if match["bracket"]:
            depth += 1 if match[0][-1] in "([{" else -1
        elif match["at"] and depth <= 0:
            parts.append(text[done : match.start()])
            done = match.end()
    return [*parts, text[done:]]


_OR = rf"\s(?:or|and)\s|{_START}\s*+(?:or|and|,\s*+or|,\s*+and)\s*+{_END}"


def _members(text: str) -> Region | None:
    """The set of reals that an inequality, an interval, or a union of them says."""
    bare = _bare(text)
    if re.sub(r"[\s\\{}]", "", bare) in ("R", "mathbbR", "mathbfR") or bare.lower() in (
        "all real numbers",
        "all reals",
    ):
        return union([interval("(", r"-\infty", r"\infty", ")")])
    if (builder := _BUILDER.fullmatch(text)) is not None:
        text = builder[1].removesuffix(r"\}")
    if (member := _MEMBER.match(text)) is not None:
        text = text[member.end() :].strip()
    parts = _split(text, r"\\cup(?![A-Za-z])")
    if len(parts) == 1:
        parts = _split(text, rf"[,;]|\s(?:or)\s|{_START}\s*+or\s*+{_END}")
        regions = [inequality(_bare(part)) for part in parts]
        if all(regions) or (found := _interval(text)) is None:
            return union(regions)
        # two plain brackets are a pair until the other side is an interval
        return found if "infty" in text or text[0] + text[-1] in ("[)", "(]") else None
    return union([_interval(part.strip()) or inequality(_bare(part)) or _points(part.strip()) for part in parts])


def _interval(text: str) -> Region | None:
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    ends = _split(text[1:-1], ",")
    return interval(text[0], _bare(ends[0]), _bare(ends[1]), text[-1]) if len(ends) == 2 else None


def _points(text: str) -> Region | None:
    if not _encloses(text, r"\{", r"\}"):
        return None
    return union([interval("[", part, part, "]") for part in _split(_bare(text[2:-2]), ",")])


def _several(text: str, depth: int) -> Several | None:
    for opening, closing in ((r"\{", r"\}"), ("(", ")"), ("[", "]")):
        if _encloses(text, opening, closing):
            parts = _split(text[len(opening) : -len(closing)], "[,;]")
            if len(parts) > 1 or opening == r"\{":
                return _items(opening[-1], parts, depth)
            return None
    parts = [part for piece in _split(text, "[,;]") for part in _split(piece, _OR)]
    if len(parts) == 1 and "/" not in text:
        return None
    parts = [part for part in (_FUNCTION_WORDS.sub("", part, count=1) if _FUNCTION_WORDS.match(part) else part
                               for part in parts) if _bare(part)]  # fmt: skip
    return _items("", parts, depth) if len(parts) > 1 else None


def _items(kind: str, parts: list[str], depth: int) -> Several | None:
    items = [_read(part, depth + 1) for part in parts]
    found = [item for item in items if item is not None]
    if len(found) < len(items):
        return None
    names = tuple(_name(_unwrapped(part)) for part in parts)
    named = names if all(names) and len(set(names)) > 1 else ()
    if kind in ("", "{"):  # 0, \\pm 3 are three values
        found = [one for item, part in zip(found, parts, strict=True) for one in _both_signs(item, part)]
    return Several(kind, tuple(found), named)


def _both_signs(item: Value, part: str) -> tuple[Value, ...]:
    return item.items if isinstance(item, Several) and _PLUS_MINUS.search(part) else (item,)


def _matrix(text: str, depth: int) -> Matrix | None:
    match = _MATRIX.fullmatch(text)
    if match is None or match[1] == "vmatrix":
        return None
    body = match[2].strip().removesuffix(r"\\")
    rows = [[_read(cell, depth + 1) for cell in row.split("&")] for row in re.split(r"\\\\(?:\[[^\]]{0,8}\])?", body)]
    found = tuple(tuple(cell for cell in row if cell is not None) for row in rows)
    if [len(row) for row in found] != [len(row) for row in rows]:
        return None
    return Matrix(found)


def _sign_pair(text: str) -> Several | None:
    r"""`\pm 3` and `1 \pm 2` are both of their values."""
    if len(_PLUS_MINUS.findall(text)) != 1:
        return None
    values = [_quantity(_PLUS_MINUS.sub(sign, text)) for sign in "+-"]
    found = tuple(value for value in values if value is not None)
    return Several("{", found) if len(found) == 2 else None


def _quantity(text: str) -> Quantity | None:
    bare = _bare(text)
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
    if single and _START not in text and not number.endswith(" "):
        return None
    if _START not in text and not number.endswith(" ") and behind[0].isalpha() and not is_known(behind):
        return None
    return unit(behind)


def _words(text: str) -> Value | None:
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return Words("no solution")
    bare = _bare(text)
    if not _TEXT.fullmatch(bare):
        return None
    words = " ".join(_ARTICLE.sub("", bare.lower().rstrip(".")).replace("-", " ").split())
    is_product = _START not in text and " " not in words and len(words) < 5  # of variables; nobody writes longer ones
    if is_product and words not in ("yes", "no", "true", "false", *_NUMBERS):
        return None
    if words in _NUMBERS:
        return Quantity(Fraction(_NUMBERS.index(words)))
    return Words(_NOTHING.get(words, words))


# -- comparing


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
    if not ours.unit.powers or not theirs.unit.powers:
        return ours.number == theirs.number
    return ours.unit.powers == theirs.unit.powers and (
        ours.number * ours.unit.factor == theirs.number * theirs.unit.factor
    )


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
    covered = [[same(one, other) for other in theirs.items] for one in ours.items]
    return all(any(row) for row in covered) and all(any(column) for column in zip(*covered, strict=True))


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    return False if False in found else None if None in found else True


# -- for a computer algebra


def _for_algebra(ours: str, theirs: str) -> bool | tuple[str, str]:
    texts = [_unwrapped(ours), _unwrapped(theirs)]
    if not _named_apart(*texts):
        texts = [_unwrapped(_without_name(text)) for text in texts]
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


def _ratio(value: Fraction) -> str:
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _without_unit(text: str) -> tuple[str, Unit]:
    """`2\\sqrt{3}\\text{ cm}` is cut before its unit; letters that no \\text{} marks are variables."""
    if text.endswith("°"):
        return text[:-1].strip(), Unit(Fraction(1), (("angle", 1),))
    place = text.find(_START)
    if place < 1:
        return text, NO_UNIT
    head, behind = text[:place].strip(), _bare(text[place:].replace("{", "").replace("}", ""))
    measure = unit(behind)
    return (text, NO_UNIT) if measure is None or not head or head[-1] in "=<>,;([{^_+-*/" else (head, measure)


def _as_set(text: str) -> str:
    """`a \\pm b` and `a or b` as sets; chains and lists as they are."""
    parts = _split(text, _OR)
    if len(parts) > 1:
        parts = [_without_name(part.strip(" ,;")) for part in parts]
    pairs = [
        _PLUS_MINUS.sub(sign, part).strip().removeprefix("+").strip()
        for part in parts
        for sign in ("+-" if len(_PLUS_MINUS.findall(part)) == 1 else " ")
    ]
    return rf"\{{{', '.join(pairs)}\}}" if len(pairs) > 1 else text
