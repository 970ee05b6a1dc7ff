"""Problems that are the same, and those that are near."""

from __future__ import annotations

import pytest

from dail.synth.data.overlap import Problems, normal, repeated

LONG = "A train leaves the station at noon and travels north at sixty miles an hour while another one travels south."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Find $x$ if $\dfrac{x}{2} \leq 3$.", "find  $ x $ if\n$\\frac{x}{2}\\le 3$"),
        (r"Compute $\left( 1+2 \right)$", r"Compute \( (1+2) \)"),
        ("1+1?", "1 + 1 ?"),
        (r"Let $a\,b = 3$", r"Let $a\;b=3$."),
        (r"Is $x^{2} \neq 4$?", r"Is $x^2 \ne 4$?"),
        ("ﬁnd ½", "find ½"),
    ],
)
def test_spacing_case_and_latex_that_says_nothing_make_no_difference(one: str, other: str):
    assert normal(one) == normal(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find $x$ if $x < 3$", "Find $x$ if $x > 3$"),
        ("What is 3+5?", "What is 3+6?"),
        (r"$\frac{1}{2}$", r"$\frac{1}{3}$"),
        (r"$a \leftarrow b$", "$a b$"),
        ("Is $-3$ odd?", "Is $3$ odd?"),
    ],
)
def test_another_problem_stays_another(one: str, other: str):
    assert normal(one) != normal(other)


def test_a_repeated_problem_is_told_with_the_first_one():
    assert repeated({"a": "1+1?", "b": "2+2?", "c": "1 + 1?", "d": "1+ 1 ?"}) == {"c": "a", "d": "a"}


def test_the_same_problem_is_found_in_a_set():
    problems = Problems({"e1": "1+1?", "e2": LONG})
    assert [problems.equal(one) for one in ("1 + 1?", LONG.upper(), "1+2?")] == ["e1", "e2", None]


def test_a_near_problem_shares_most_of_its_wording():
    problems = Problems({"short": "1+1?", "e": LONG, "other": LONG[::-1]})
    near = problems.near("Here is a puzzle. " + LONG + " When do they meet?")
    assert near == ("e", pytest.approx(1.0, abs=0.1))
    assert problems.near(LONG.replace("sixty", "seventy")) is None
    assert problems.near("1+1?") is None
