r"""Answers read exactly: no two numbers are mixed up, the order of the two sides says nothing, no text is too much."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dail.synth.method.answers import clean, compare
from dail.synth.method.exact_numbers import rational
from dail.synth.method.units import unit
from tests.synth.method.test_grading_pairs import pairs

FRACTIONS = st.fractions(-1000, 1000, max_denominator=1000) | st.fractions()
PIECES = (
    *"0123456789.,;()[]{}^_=<>+-*/ xAB$%°",
    *(r"\frac", r"\text{", r"\{", r"\}", r"\le ", r"\cup ", r"\infty ", r"\pm ", r"\sqrt", " or ", "km", r"\\", r"\ "),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=30)


def written(number: Fraction) -> st.SearchStrategy[str]:
    above, below = number.numerator, number.denominator
    forms = [f"{above}/{below}", rf"\frac{{{above}}}{{{below}}}", rf"$x = \dfrac{{{2 * above}}}{{{2 * below}}}$."]
    if below == 1:
        forms += [str(above), f"{above}.0", f"{above:,}", rf"{above}^{{1}}", rf"{above}\text{{ cm}}"]
    whole, rest = divmod(abs(number), 1)
    if whole and rest:
        forms.append(rf"{'-' if number < 0 else ''}{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}")
    return st.sampled_from(forms)


@settings(deadline=None)
@given(st.data(), FRACTIONS, FRACTIONS)
def test_numbers_are_equal_if_and_only_if_they_are_the_same(data: st.DataObject, one: Fraction, other: Fraction):
    first, again, second = data.draw(written(one)), data.draw(written(one)), data.draw(written(other))
    assert compare(first, again) is True
    assert compare(first, second) is (one == other)


@settings(deadline=None)
@given(TEXTS)
def test_every_text_equals_itself(text: str):
    assert compare(text, text) is True
    assert compare(text, f" ${text.strip()}$ ") is not False


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_the_order_of_the_two_says_nothing(one: str, other: str):
    decided, turned = compare(one, other), compare(other, one)
    assert decided == turned if isinstance(decided, bool) else not isinstance(turned, bool)


@pytest.mark.parametrize(("one", "other", "equal"), pairs())
def test_the_order_says_nothing_in_the_table_either(one: str, other: str, equal: bool):
    decided, turned = compare(one, other), compare(other, one)
    assert decided == turned == equal if isinstance(decided, bool) else not isinstance(turned, bool)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"2^{-70}", Fraction(1, 2**70)),
        (r"\frac1{20}", Fraction(1, 20)),
        (r"2\frac32", Fraction(3)),
        (r"\frac{1}{2}\cdot(3-5)", Fraction(-1)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("1e-3", Fraction(1, 1000)),
    ],
)
def test_arithmetic_is_exact(text: str, value: Fraction):
    assert rational(text) == value


@pytest.mark.parametrize(
    "text",
    ["9^{9^{9^9}}", "10^{99999}", "1e9999", "((((10^9)^9)^9)^9)^9", "(300!)^{300}", "301!", "3!!", "9" * 1500, "(" * 99,
     "1/0", "0^{-1}", "0^0", "2 3", "x", "", r"\sqrt{2}", "__import__('os')"],
)  # fmt: skip
def test_what_is_no_number_or_too_large_is_not_read(text: str):
    assert rational(text) is None


@pytest.mark.parametrize(
    "text",
    ["(" * 2000, r"\{1," * 300 + r"\}" * 300, "(1,2)," * 330, r"\text{" * 330, "1 or " * 400, "2^{" * 500 + "}" * 500,
     r"[1,2]\cup" * 200, "5 " + "km/" * 600, r"\frac" * 400, "a=(" * 600, "1,000" * 400, "{}" * 900, "x<" * 900,
     "(A) " * 500, "1=" * 900, r"\boxed{" * 250 + "1" + "}" * 250, "1&" * 900, "$ " * 900, "°" * 1900,
     "1," * 950, r"n \equiv 3 \pmod 4, " * 100, r"\pmod{" * 330, "1 or " * 300 + r"\pmod 9", "4k+" * 600,
     r"\dot1" * 350, r"\{n : " * 300 + r"n \equiv 1 \pmod 3\}",
     ",".join(f"{n} cm" for n in range(300)), "a and " * 330],
)  # fmt: skip
def test_a_long_text_costs_little(text: str):
    started = time.process_time()
    compare(text, "(1,2)")
    compare(text, text + "1")
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"1\frac22+" * 20_000 + "1", 20_001),  # no mixed numbers, each read again
        (r"2\frac{" * 25 + "3" + "}{1}" * 25, 3 * 2**25),  # and each inside another
        (r"2\frac32", 3),
        (r"1\frac{1\frac12}{2}", Fraction(7, 4)),
        (r"2\frac{1}{2}^2", Fraction(1, 2)),
    ],
    ids=["many", "nested", "product", "mixed", "power"],
)
def test_a_fraction_behind_a_number_is_read_once(text: str, value: Fraction):
    started = time.process_time()
    assert rational(text) == value
    assert time.process_time() - started < 2


def test_cleaning_leaves_the_row_breaks_of_a_matrix():
    assert clean(r"$\left(1\,000\right).$") == "(1000)"
    assert r"\\" in clean(r"\begin{pmatrix}1\\ 2\end{pmatrix}")


@pytest.mark.parametrize("text", ["", "x", "or", "no solution", "m^", "/", "km/", "km h s min g cm mm"])
def test_what_is_no_unit_is_not_read(text: str):
    assert unit(text) is None
