r"""When two texts are the same expression: `075` and `75.0`, `n^{2}` and `n^2`, `1{,}000` and `1000`."""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST_WAYPOINT = 200  # characters; more is no intermediate result but a table, a typo or an attack
# Of thousands: 1,000  1,\!000  1{,}000  1\,000  1~000  1'000, a space that holds them together, and a plain space
# before what no number begins with: 1 000.
SEPARATOR = r"(?:,(?:\\!)?|\{,\}|\\,|[~'\u00a0\u2007\u2009\u202f]| (?=0[0-9]{2}(?![0-9]))|(?<=[0-9] 0[0-9]{2}) )"

_LOOSE_SPACE = re.compile(r"(?<![A-Za-z]) | (?![A-Za-z])")  # the one in `\alpha n` holds it together
_THOUSANDS = re.compile(rf"(?<=[0-9]){SEPARATOR}(?=[0-9]{{3}}(?![0-9]))")
_NO_INK = re.compile(r"\\[,;:! $]|[\s$~]|\\left(?![A-Za-z])|\\right(?![A-Za-z])")
_NEEDLESS_BRACES = re.compile(r"\^\{([A-Za-z]|[0-9]+)\}")
_DECIMAL = re.compile(r"-?[0-9]*(?:[0-9]|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_RATIO = re.compile(r"(-?)(?:\\[dt]?frac\{(-?[0-9]+)\}\{([0-9]+)\}|\\[dt]?frac([0-9])([0-9])|([0-9]+)/([0-9]+))")


def tidy(expression: str) -> str:
    """As it is shown: no space that says nothing, an ASCII minus, thousands without their separator."""
    words = " ".join(expression.replace("−", "-").split())
    return _LOOSE_SPACE.sub("", _THOUSANDS.sub("", words))


def key(text: str) -> str:
    """Equal for equal numbers, and for expressions that differ in spacing, dollars or needless braces only."""
    if text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"
    text = _NO_INK.sub("", tidy(text)).removeprefix("+").rstrip(".")
    value = _value(text) if len(text) <= LONGEST_WAYPOINT else None
    return _NEEDLESS_BRACES.sub(r"^\1", text) if value is None else str(value)


def _value(text: str) -> Fraction | None:
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if ratio := _RATIO.fullmatch(text):
        numerator, denominator = (int(part) for part in ratio.groups()[1:] if part)
        if denominator:
            return Fraction(-numerator if ratio[1] else numerator, denominator)
    return None
