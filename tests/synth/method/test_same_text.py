r"""A table of answers and keys, one text or not. A line is GIVEN == KEY or GIVEN != KEY."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dail.synth.method.grading import Grader, Verdict
from dail.synth.method.same_text import normal, same_text

TABLE = r"""
24 == 24
 24 == 24
2 4 == 24
\dfrac{3}{4} == \frac{3}{4}
\tfrac{3}{4} == \frac{3}{4}
\frac34 == \frac{3}{4}
\frac 34 == \frac{3}{4}
\frac3{72} == \frac{3}{72}
\frac{3}4 == \frac{3}{4}
3/4 == \frac{3}{4}
-3/4 == \frac{-3}{4}
0.5 == \frac{1}{2}
.5 == \frac12
1/2 == .5
\frac{1}{2} == 0.5
\sqrt3 == \sqrt{3}
\sqrt 3 == \sqrt{3}
2\sqrt3 == 2\sqrt{3}
\sqrt12 == \sqrt{1}2
\sqrt[3]{5} == \sqrt[3]{5}
\sqrt x == \sqrt{x}
\left(1, 2\right) == (1,2)
\left[ 0,1 \right) == [0,1)
1,\!000 == 1,000
60^\circ == 60
60^{\circ} == 60
\$5 == 5
$5$ == 5
50\% == 50
50% == 50
12\text{ cm} == 12
12 \text{ cm}^2 == 12
12\mbox{ inches} == 12
x = 5 == 5
x=5 == 5
n_=5 == 5
073 == 73
000 == 0
-007 == -7
x+.5 == x+0.5
(.5,.25) == (0.5,0.25)
\text{(B)} == \text{(B)}
x^2 + 1 == x^2+1
\pi r^2 == \pi r^2
24 != 25
0.50 != \frac{1}{2}
0.25 != \frac{1}{4}
2/4 != \frac{1}{2}
x+1 != 1+x
\sqrt{8} != 2\sqrt{2}
1000 != 1,000
12\text{cm} != 12
\text{ cm} != 
abc=5 != 5
x=5=y != y
(1,2) != (2,1)
-\frac{1}{2} != \frac{1}{2}
24. != 24
1.0 != 1
\frac{1}{3} != 0.333
70 != 7
1003 != 103
3! != 6
x != y
"""
PAIRS = [
    (given.strip(), wanted.strip(), equal)
    for line in TABLE.strip().splitlines()
    for sign, equal in ((" == ", True), (" !=", False))
    if sign in line
    for given, wanted in (line.rsplit(sign, 1),)
]


@pytest.mark.parametrize(("one", "other", "equal"), PAIRS)
def test_the_table(one: str, other: str, equal: bool):
    assert (same_text(one, other), same_text(other, one)) == (equal, equal)


def test_the_table_is_read_whole():
    assert len(PAIRS) == len(TABLE.strip().splitlines())


@given(st.text(max_size=30))
def test_every_text_is_the_same_as_itself_with_spaces_around(text: str):
    assert same_text(text, f" {text} ")


@pytest.mark.parametrize("piece", [r"\frac", r"\text{ ", "{", r"\sqrt", ".", "^{", " ", r"\frac{1", "=", "0", r"\!"])
def test_a_long_text_costs_little(piece: str):
    started = time.process_time()
    normal(piece * (40_000 // len(piece)))
    assert time.process_time() - started < 1


def test_the_grader_takes_the_last_box_behind_the_thought():
    with Grader(reference="official") as grader:
        assert grader.grade(r"<think>\boxed{1}</think> So \boxed{3}, no, \boxed{\dfrac12}.", "0.5") == Verdict(
            True, "official", r"\dfrac12"
        )
        assert grader.grade(r"So \boxed{\sqrt{8}}.", r"2\sqrt{2}") == Verdict(False, "official", r"\sqrt{8}")
        assert grader.grade("So 5.", "5").method == "none"
        assert grader.grade(r"<think> \boxed{5}", "5").method == "cut in thought"


def test_the_grader_needs_no_math_verify(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with Grader(reference="official") as grader:
        assert grader.grade(r"\boxed{2}", "2").correct
