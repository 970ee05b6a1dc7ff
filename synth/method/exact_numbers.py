r"""Rational numbers in LaTeX, read exactly: `\frac{3}{4}`, `1.5 \times 10^{-3}`, `2^{-70}`, `0.\overline{3}`.

`rational` reads what is arithmetic on rationals and nothing else. What it yields is a Fraction, so 2^{-70} is not
2^{-71}, and 0.333 is not 1/3. Text is never evaluated by Python, and every number has a bounded size: what would be
larger, such as `9^{9^{9^9}}`, is not read.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

_MOST_BITS = 20_000  # of a numerator or denominator; about 6,000 digits
_MOST_DIGITS = 1_000  # as written
_MOST_NESTED = 40
_LARGEST_FACTORIAL = 300

_TOKEN = re.compile(
    r"[\s&]*+(?:(?P<repeating>[0-9]*+\.[0-9]*+\\overline\{[0-9]++\})"
    r"|(?P<number>(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?[0-9]{1,4}(?![0-9A-Za-z]))?+)"
    r"|(?P<times>\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|\*)|(?P<divide>\\div(?![A-Za-z])|/)"
    r"|(?P<frac>\\frac(?![A-Za-z]))|(?P<sqrt>\\sqrt(?![A-Za-z]))|(?P<sign>[-+^(){}!]))"
)


class _NotExact(Exception):
    """The text is no arithmetic on rationals of a bounded size."""


def rational(text: str) -> Fraction | None:
    r"""The value of an arithmetic expression, or none if it holds anything else or would be too large.

    rational(r"-\frac{3}{4}")              Fraction(-3, 4)
    rational(r"1.5 \times 10^{-3}")        Fraction(3, 2000)
    rational(r"2\frac{1}{2}")              Fraction(5, 2), a mixed number
    rational(r"2\pi"), rational("1/0")     None
    """
    try:
        return _Arithmetic(text).value()
    except (_NotExact, ZeroDivisionError):
        return None


class _Arithmetic:
    """Recursive descent: sum > product > signed > power > atom."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        text = text.rstrip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None or match.lastgroup is None:
                raise _NotExact
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            place = match.end()
        self._at = 0
        self._depth = 0
        self._fractions: dict[int, tuple[Fraction, int]] = {}  # by the token where one begins: value, token behind it

    def value(self) -> Fraction:
        value = self._sum()
        if self._at < len(self._tokens):
            raise _NotExact
        return value

    def _next(self, ahead: int = 0) -> tuple[str, str]:
        place = self._at + ahead
        return self._tokens[place] if place < len(self._tokens) else ("end", "")

    def _take(self, kind: str, text: str | None = None) -> bool:
        found = self._next()
        if found[0] != kind or (text is not None and found[1] != text):
            return False
        self._at += 1
        return True

    def _sum(self) -> Fraction:
        self._depth += 1
        if self._depth > _MOST_NESTED:
            raise _NotExact
        value = self._product()
        while True:
            if self._take("sign", "+"):
                value = _bounded(value + self._product())
            elif self._take("sign", "-"):
                value = _bounded(value - self._product())
            else:
                self._depth -= 1
                return value

    def _product(self) -> Fraction:
        value = self._signed()
        while True:
            if self._take("times"):
                value = _bounded(value * self._signed())
            elif self._take("divide"):
                value = _bounded(value / self._signed())
            elif self._next() == ("sign", "(") or self._next()[0] in ("frac", "sqrt"):
                value = _bounded(value * self._power())
            else:
                return value

    def _signed(self) -> Fraction:
        if self._take("sign", "-"):
            return -self._power()
        self._take("sign", "+")
        return self._power()

    def _power(self) -> Fraction:
        base = self._factorial()
        if not self._take("sign", "^"):
            return base
        exponent = self._group() if self._next() == ("sign", "{") else self._plain()
        if exponent.denominator != 1:
            raise _NotExact
        return _power(base, int(exponent))

    def _factorial(self) -> Fraction:
        value = self._atom()
        if not self._take("sign", "!"):
            return value
        if value.denominator != 1 or not 0 <= value <= _LARGEST_FACTORIAL or self._next() == ("sign", "!"):
            raise _NotExact
        return Fraction(math.factorial(int(value)))

    def _atom(self) -> Fraction:
        kind, text = self._next()
        if kind == "number":
            self._at += 1
            return self._mixed(_number(text))
        if kind == "repeating":
            self._at += 1
            return _repeating(text)
        if kind == "frac":
            return self._frac()
        if self._take("sqrt"):
            return _root(self._group() if self._next() == ("sign", "{") else self._plain())
        if self._take("sign", "("):
            value = self._sum()
            if not self._take("sign", ")"):
                raise _NotExact
            return value
        return self._group()

    def _mixed(self, whole: Fraction) -> Fraction:
        """`2\\frac12` is five halves, as whoever writes an answer means it; `2\\frac32` is a product."""
        if self._next()[0] != "frac" or whole.denominator != 1:
            return whole
        start, part = self._at, self._frac()
        if 0 < part < 1 and self._next() != ("sign", "^"):
            return _bounded(whole + part)
        self._at = start
        return whole

    def _frac(self) -> Fraction:
        """`\\frac{a}{b}`, `\\frac12`, `\\frac1{20}`. One that `_mixed` left is not read again: nested, that would take
        twice as long at every level."""
        start = self._at
        if start not in self._fractions:
            self._at += 1
            above = self._group() if self._next() == ("sign", "{") else self._digit()
            below = self._group() if self._next() == ("sign", "{") else self._digit()
            self._fractions[start] = _bounded(above / below), self._at
        value, self._at = self._fractions[start]
        return value

    def _group(self) -> Fraction:
        if not self._take("sign", "{"):
            raise _NotExact
        value = self._sum()
        if not self._take("sign", "}"):
            raise _NotExact
        return value

    def _digit(self) -> Fraction:
        """TeX takes one digit where braces are missing; the rest of the number stays for what comes next."""
        kind, text = self._next()
        if kind != "number" or not text.isdigit():
            raise _NotExact
        if len(text) == 1:
            self._at += 1
        else:
            self._tokens[self._at] = kind, text[1:]
        return Fraction(int(text[0]))

    def _plain(self) -> Fraction:
        """An exponent or radicand without braces: `2^10` means ten, whatever TeX would set."""
        negative = self._take("sign", "-")
        kind, text = self._next()
        if kind != "number":
            raise _NotExact
        self._at += 1
        return -_number(text) if negative else _number(text)


def _number(text: str) -> Fraction:
    digits, _, exponent = text.lower().partition("e")
    if len(digits) > _MOST_DIGITS:
        raise _NotExact
    before, _, after = digits.partition(".")
    value = Fraction(int(before + after or "0"), 10 ** len(after))
    return _bounded(value * _power(Fraction(10), int(exponent))) if exponent else value


def _repeating(text: str) -> Fraction:
    if len(text) > _MOST_DIGITS:
        raise _NotExact
    head, _, tail = text.partition(r"\overline{")
    before, _, after = head.partition(".")
    period = tail.rstrip("}")
    start = Fraction(int(before + after or "0"), 10 ** len(after))
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(after))


def _power(base: Fraction, exponent: int) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * bits > _MOST_BITS or (base == 0 and exponent <= 0):
        raise _NotExact
    return Fraction(base**exponent)


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise _NotExact
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root * root != value:
        raise _NotExact
    return root


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise _NotExact
    return value
