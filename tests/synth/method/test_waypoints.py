"""The negative reference's input (paper App. B.1): what is read from an expert solution, and what is not."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dail.synth.method.waypoints import LONGEST_WAYPOINT, final_answer, waypoints

INTEGERS = st.integers(0, 9999).map(str)
FLOATS = st.decimals(0, 99, places=2).map(str)
SCIENTIFIC = st.sampled_from(["1e-10", "2.5e8", "7E+3"])
EXPONENTIALS = st.sampled_from(["n^{k+1}", "e^{-x}", "2^n", "3x^2", "(-1)^n", r"2^{\alpha n}", "2^{2^{n}}", "x_1^{2}"])
COEFFICIENTS = st.sampled_from(["2k", "100n", "-3x_1", "2ab", r"2\pi", "7a_{12}"])
LINEARS = st.sampled_from(["n+1", "2k-1", "1-x", "-2n+1", "3x+2y-5", r"\alpha+1", "a_{n}+7"])
NUMBERS = st.one_of(INTEGERS, FLOATS, SCIENTIFIC)
EXPRESSIONS = st.one_of(NUMBERS, EXPONENTIALS, COEFFICIENTS, LINEARS)
PROSE = st.sampled_from(
    ["", "We then conclude", "Clearly — d’où", r"\begin{align*} \text{thus} & \le", "as ∠ABC shows:"]
)
KINDS = st.sampled_from(["verifiable", "proof"])
MATH_LIKE = st.text(alphabet="0123456789nkxe+-−^_{}()[]\\,.$/! \nabc", max_size=80)
BOX_LIKE = st.lists(st.sampled_from([r"\boxed{", r"\boxed", "{", "}", r"\{", r"\}", "7", "{{", "}}"])).map("".join)


def numbers(solution: str, answer: str | None = None) -> list[str]:
    return waypoints(solution, "verifiable", answer)


def of_proof(solution: str, answer: str | None = None) -> list[str]:
    return waypoints(solution, "proof", answer)


# final_answer


def test_last_box_is_the_answer():
    assert final_answer(r"First \boxed{3}, and finally $\boxed{\frac{3}{4}}$.") == r"\frac{3}{4}"


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"\boxed{\sqrt{2^{n_{1}}}}", r"\sqrt{2^{n_{1}}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        ("\\boxed { 7 }", "7"),
        (r"\\\boxed{7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"\boxed{\\{7}}", r"\\{7}"),
        (r"\boxed{a \boxed{b}}", "b"),
        (r"}} \boxed{{1}}}}", "{1}"),
    ],
)
def test_braces_inside_a_box_are_matched(solution: str, answer: str):
    assert final_answer(solution) == answer


@pytest.mark.parametrize("broken", [r"\boxed{7", r"\boxed{{7}", r"\boxed{7\}", r"\boxed{}", r"\boxed{ }", r"\boxed 7"])
def test_unbalanced_blank_or_braceless_box_falls_back_to_the_one_before(broken: str):
    assert final_answer(broken) is None
    assert final_answer(r"\boxed{5} then " + broken) == "5"


@pytest.mark.parametrize("solution", ["", "7", r"\fbox{7}", r"\boxedanswer{7}"])
def test_without_a_box_there_is_no_answer(solution: str):
    assert final_answer(solution) is None


@given(INTEGERS, BOX_LIKE)
def test_answer_survives_any_text_before_it(answer: str, before: str):
    assert final_answer(before + r" \boxed{" + answer + "}") == answer


@given(st.one_of(st.text(), BOX_LIKE))
def test_answer_of_any_text_is_none_or_stands_in_a_box(solution: str):
    answer = final_answer(solution)
    assert answer is None or re.search(r"\\boxed\s*\{\s*" + re.escape(answer) + r"\s*\}", solution)


# The paper's own examples


@pytest.mark.parametrize("number", ["100", "1.99", "1e-10"])
def test_numbers_of_the_paper_are_read_in_both_kinds(number: str):
    assert numbers(f"so ${number}$.") == of_proof(f"so ${number}$.") == [number]


@pytest.mark.parametrize("exponential", ["n^{k+1}", "e^{-x}"])
def test_exponentials_of_the_paper_are_read_in_proofs(exponential: str):
    assert of_proof(f"so ${exponential}$.") == [exponential]


@pytest.mark.parametrize("coefficient", ["2k", "100n"])
def test_symbolic_coefficients_of_the_paper_are_read_in_proofs(coefficient: str):
    assert of_proof(f"so ${coefficient}$.") == [coefficient]


@pytest.mark.parametrize(("linear", "tidy"), [("n + 1", "n+1"), ("2k - 1", "2k-1")])
def test_linear_expressions_of_the_paper_are_read_in_proofs(linear: str, tidy: str):
    assert of_proof(f"so ${linear}$.") == [tidy]


# Our reading of what the paper leaves open


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So it is 3.", ["3"]),
        ("$x = 1.5$, $y = .25$", ["1.5", ".25"]),
        (r"1,000 and 2{,}500 and 3\,500 and 4,\!500", ["1000", "2500", "3500", "4500"]),
        ("12,3456", ["12", "3456"]),
        ("$x = -3$, $(-4)$, x −5", ["-3", "-4", "-5"]),
        ("x-3, 10 - 4, (x)-5, pages 6--7", ["3", "10", "4", "5", "6", "7"]),
        (r"\frac{1}{2} and \frac34, \tfrac56, 7/8", ["1", "2", "3", "4", "5", "6", "7", "8"]),
        (r"\cdot2\sqrt3\log_{10} 4 \sum_{i=5}^{6}", ["2", "3", "10", "4", "5", "6"]),
        (r"1.5 \times 10^{-3}", ["1.5", "10", "-3"]),
        (r"30^\circ + 60^{\circ} and the 4th and 5^{th}", ["30", "60", "4", "5"]),
        ("2x + 3y = 5", ["2", "3", "5"]),
    ],
)
def test_numbers_of_a_verifiable_problem(text: str, expected: list[str]):
    assert numbers(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "A1, P2 and x_1, x_{12}, a_{n+1}",
        r"\tag{3} \label{eq:4} see \eqref{eq:4} and \cite[Thm 5]{foo6}",
        r"\begin{case2} \end{case2} \\[3pt] \hspace{4mm}",
        "https://example.org/wiki/1999_Problems",
        '[asy] draw((0,0)--(13,17)); label("$19$", (2,3)); [/asy]',
        r"\begin{asy} draw((0,0)--(13,17)); \end{asy}",
    ],
)
def test_names_labels_lengths_addresses_and_figures_hold_no_numbers(text: str):
    assert numbers(text) == []


def test_text_after_an_unclosed_figure_is_read():
    assert numbers("[asy] draw(1); [asy] draw(2); [/asy] so 3") == ["1", "3"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2k - 1", ["2k-1"]),
        ("x^2 - 2n + 1", ["x^2", "-2n+1"]),
        ("3x + 2y - 5 = 7", ["3x+2y-5", "7"]),
        ("(n-1)(n+1)", ["n-1", "n+1"]),
        ("1 + n^2", ["1", "n^2"]),
        (r"n + 2\sqrt{3}, 2 \cdot n + 1, a + b/2", ["2", "3", "1"]),
        ("1 + 2 + 3", ["1", "2", "3"]),
        (r"$c_1 x + 1$, $k n + 2$, $p_1 \cdots p_m - 3$, $(a) b + 4$", ["1", "2", "3", "4"]),
        ("so we see that n + 1 is $n + 2$ less two", ["n+1", "n+2"]),
        (r"\frac{n+1}{2}", ["n+1", "2"]),
        (r"\alpha + 1 \le 2\pi", [r"\alpha+1", r"2\pi"]),
        ("AB^2 + BC^2", ["AB^2", "BC^2"]),
        ("2^{2^{2^{n}}} and n^{k + 1} and (-1)^n", ["2^{2^{2^{n}}}", "n^{k+1}", "(-1)^n"]),
        (r"2^{\alpha  n}", [r"2^{\alpha n}"]),
        ("a 2-coloring of the 2nd row, an n-th root, the x-axis", ["2"]),
        (r"90^\circ, n^{\text{th}}", ["90"]),
    ],
)
def test_widest_expression_of_a_proof_is_read_and_its_parts_are_not(text: str, expected: list[str]):
    assert of_proof(text) == expected


def test_equal_numbers_are_one_waypoint_with_the_first_text():
    assert numbers("075 and 75 and 75.0 and 7.5e1") == ["075"]


@pytest.mark.parametrize("answer", ["75", "$075$", "+75", "75.0", r"\,75 ", "150/2", r"\frac{150}{2}"])
def test_answer_is_removed_by_value(answer: str):
    assert numbers("075 of 76", answer) == ["76"]


@pytest.mark.parametrize("answer", ["n + 1", "$n+1$", "+n+1"])
def test_answer_expression_is_removed_by_its_normalised_text(answer: str):
    assert of_proof("n + 1 or 2k", answer) == ["2k"]


@pytest.mark.parametrize("answer", ["", "1/0", r"\frac{1}{0}", "1e999999999", "9" * 5000, "no solution"])
def test_answer_without_a_usable_value_removes_nothing(answer: str):
    assert numbers("8 or 1e999999998", answer) == ["8", "1e999999998"]


def test_overlong_expression_is_no_waypoint():
    assert numbers(f"{'1' * (LONGEST_WAYPOINT + 1)} and {'2' * LONGEST_WAYPOINT}") == ["2" * LONGEST_WAYPOINT]


# Properties


@given(st.lists(EXPRESSIONS, unique=True))
def test_waypoints_keep_the_order_of_first_appearance(expressions: list[str]):
    text = "; ".join(expressions)
    found = of_proof(text)
    assert found == [expression for expression in expressions if expression in found]


@given(st.lists(EXPRESSIONS))
def test_every_expression_is_found_and_repeating_the_solution_adds_none(expressions: list[str]):
    once = of_proof("; ".join(expressions))
    assert of_proof("; ".join(expressions * 2)) == once
    assert len(set(once)) == len(once)
    assert {e for e in expressions if not re.fullmatch(r"[0-9.eE+-]+", e)} <= set(once)


@given(MATH_LIKE, KINDS)
def test_found_waypoints_are_found_again_when_listed(solution: str, kind):
    found = waypoints(solution, kind, None)
    listed = waypoints(" , ".join(found), kind, None)
    assert listed == found


@given(st.lists(EXPRESSIONS), EXPRESSIONS, KINDS)
def test_answer_is_never_a_waypoint(expressions: list[str], answer: str, kind):
    text = "; ".join([*expressions, answer])
    assert answer not in waypoints(text, kind, answer)
    rest = [waypoint for waypoint in waypoints(text, kind, None) if waypoint in waypoints(text, kind, answer)]
    assert rest == waypoints(text, kind, answer)


@given(PROSE, st.lists(EXPRESSIONS), PROSE, KINDS)
def test_surrounding_prose_changes_nothing(before: str, expressions: list[str], after: str, kind):
    text = "; ".join(expressions)
    assert waypoints(f"{before} {text}. {after}", kind, None) == waypoints(text, kind, None)


@given(st.one_of(st.text(), MATH_LIKE))
def test_verifiable_waypoints_of_any_text_are_numbers(solution: str):
    assert all(re.fullmatch(r"-?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", waypoint) for waypoint in numbers(solution))


@given(st.one_of(st.text(), MATH_LIKE), st.one_of(st.none(), st.text(), MATH_LIKE), KINDS)
def test_any_text_and_any_answer_are_taken(solution: str, answer: str | None, kind):
    assert all(waypoint.strip() == waypoint != "" for waypoint in waypoints(solution, kind, answer))


# Time


def seconds_for(text: str) -> float:
    start = time.process_time()
    final_answer(text)
    of_proof(text, "7")
    numbers(text, text)
    return time.process_time() - start


@pytest.mark.parametrize("character", ["{", "1"])
def test_ten_megabytes_of_one_character_take_seconds(character: str):
    assert seconds_for(character * 10_000_000) < 10


HOSTILE = [
    *(r"\boxed{", r"\boxed ", r"\boxed{}", "n^{", "n^{{", r"n^{\{", "x^{a", "n ^", "2^", "a_{", "    n"),
    *("1,000", "1,0001", "1.", "1e", "1+", "n+", "n + ", "(1", "1 ", "-", r"\frac1", "$n+1$ "),
    *("[asy]", "[asy][", r"\begin{asy}", r"\cite[", r"\label{", "\\"),
]


@pytest.mark.parametrize("pattern", HOSTILE)
@pytest.mark.parametrize("ending", ["", "!"])
def test_time_does_not_grow_with_the_square_of_a_hostile_text(pattern: str, ending: str):
    """200,000 characters take well under a second; a square takes many seconds."""
    assert seconds_for(pattern * (200_000 // len(pattern)) + ending) < 3
