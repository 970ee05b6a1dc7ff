"""The negative reference's input (paper App. B.1): what is read from an expert solution, and what is not."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dail.synth.method.waypoints import LONGEST_WAYPOINT, extract, waypoints
from dail.synth.schema.boxes import final_answer

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
        (r"30^\circ + 60^{\circ} and the 4th and 5^{th}", ["30", "60"]),
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


# Inputs of the kinds that went wrong: lists, signs, arguments without braces, and what is no result


READ = [
    ("$x\\in[0,100]$, $y\\in(0,360)$", "0 100 360"),
    ("the vertex $(12,345)$, the focus $(7,110)$", "12 345 7 110"),
    ("the set $\\{1,200\\}$ and $\\left\\{3,400\\right\\}$", "1 200 3 400"),
    ("$x \\in \\left[10,200\\right)$", "10 200"),
    ("$\\langle 12,345\\rangle$", "12 345"),
    ("$f(12,345)$", "12 345"),
    ("(1,100 mod 7), (3,500 and 6)", "1 100 7 3 500 6"),
    ("the set $\\{1,100\\text{ or }3\\}$", "1 100 3"),
    ("(the numbers 1,100 work), [2,300 inclusive]", "1 100 2 300"),
    ("$\\gcd(21,105) = 21$", "21 105"),
    ("a list 1,200,30", "1 200 30"),
    ("so $x,y=100,200$", "100 200"),
    ("$101,102,\\dots,199$", "101 102 199"),
    ("$0,125$", "0 125"),
    ("$a,100,200$", "100 200"),
    ("$2^{21}\\equiv-98\\pmod{125}$", "2 21 -98 125"),
    ("$-5\\le x\\le-2$", "-5 -2"),
    ("$3\\cdot-4$, $x=-6$, $5\\times -7$", "3 -4 -6 5 -7"),
    ("$a\\ge-1$, $b\\neq-2$, $c\\approx-3.5$", "-1 -2 -3.5"),
    ("$x\\in\\{-1,-2\\}$, $n\\mapsto-8$", "-1 -2 -8"),
    ("$x \\le - 2$, $y = - 3$", "-2 -3"),
    ("$\\Rightarrow-7$, $x\\to-9$", "-7 -9"),
    ("$\\frac 12 + \\frac 13$", "1 2 3"),
    ("$\\frac12$, $\\dfrac 34$, $\\tfrac 56$, $\\cfrac 78$", "1 2 3 4 5 6 7 8"),
    ("$\\binom 52$, $\\dbinom63$, $\\tbinom 9 4$", "5 2 6 3 9 4"),
    ("$\\sqrt 23$ and $\\sqrt45$", "2 3 4 5"),
    ("$\\frac{1}23$", "1 2 3"),
    ("$\\frac 123$", "1 2 3"),
    ("$\\frac a12$", "1 2"),
    ("$\\sqrt[3]27$", "3 2 7"),
    ("<asy>\nsize(200); draw((11,22)--(33,44));\n</asy>\nso $55$", "55"),
    ("[ASY]draw((11,22));[/ASY] so 5", "5"),
    ("\\begin{Asy}draw((11,22));\\end{Asy} so 5", "5"),
    ("\\begin{tikzpicture}[scale=2]\\draw (1,2) -- (3,4);\\end{tikzpicture} so 5", "5"),
    ("\\begin{figure}[h]\\begin{tikzpicture}\\draw (1,2);\\end{tikzpicture}\\caption{6}\\end{figure} so 5", "5"),
    ("<ASY>draw(1);</ASY> so 5", "5"),
    ("```asy\ndraw((1,2));\n``` so 5", "5"),
    ("# Part 2\nso 5", "5"),
    ("\\section*{2 squares} so 5", "5"),
    ("== Solution 3 ==", ""),
    ("From (1) and (2), $x=5$.", "5"),
    ("$(1)$ gives $7$", "7"),
    ("(1) $x = 5$\n(2) $y=6$", "5 6"),
    ("Problem 7. Let x=5.", "5"),
    ("Solution 2: x=5", "5"),
    ("**Step 3.** x=5", "5"),
    ("Case 2: x=5", "5"),
    ("\\textbf{Case 4.} x = 5", "5"),
    ("By Lemma 4, x=5", "5"),
    ("by equation (5), x=6", "6"),
    ("By Lemmas 1, 2 and 4, x=5", "5"),
    ("by equations (5) and (6), x=7", "7"),
    ("In Problem~7 and Theorem 3.2 there are 5", "5"),
    ("case $2$: 8", "8"),
    ("On 2024-01-05 there were 7", "7"),
    ("On January 5, 2024, there were 7", "7"),
    ("On 5/1/2024 there were 7", "7"),
    ("On 5 January 2024 and Jan. 6th, 2024 there were 7", "7"),
    ("In May 2024 there were 7", "7"),
    ("at 12:30 there were 7", "7"),
    ("from 9:15 to 10:45 there were 7", "7"),
    ("the 2nd and the 3^{rd} of 7", "7"),
    ("the $4^{\\text{th}}$ and $5$th and 21st of 7", "7"),
    ("as is known.[1] so 7", "7"),
    ("as is known [2, 3], so 7", "7"),
    ("it follows.$^{1}$ So 7", "7"),
    ("it follows[^1] so 7", "7"),
    ("well known$^2$ so 7", "7"),
    ("1. First x=5\n2. Then y=6", "5 6"),
    ("2) x=5", "5"),
    ("We solve:\n1. $x = 3$ a\n2. $y = 4$", "3 4"),
    ("$5.1.2024$ was a Friday, 7", "7"),
    ("```\ndraw((1,2)--(3,4));\n``` so 5", "5"),
    ("~~~asy\ndraw((1,2));\n~~~ so 5", "5"),
    ("\\tikz{\\draw (0,0)--(3,4);} so 5", "5"),
    ("\\tikz[scale=2] \\draw (0,0)--(3,4); so 5", "5"),
    ("\\psset{unit=2cm}\\psline[linewidth=1pt]{->}(0,0)(3,4)\\rput(1,2){A} so 5", "5"),
    ('<img src="fig12.png" width="300" height=200> so 5', "5"),
    ('<svg width="100"><circle cx="50"/></svg> so 5', "5"),
    ("![figure 3](images/3.png) so 5", "5"),
    ("![](https://example.org/crop/2024-12.jpg?height=300&width=400) so 5", "5"),
    ("![](data:image/png;base64,iVBORw0KGgo/12+34==) so 5", "5"),
    ('<img src="data:image/png;base64,iVBO/12+34=="/> so 5', "5"),
    ("[[File:2010 AMC 12.png|300px]] so 5", "5"),
    ("[img=100x200]fig 12.png[/img] so 5", "5"),
    ("[attachment=12345]fig 3.png[/attachment] so 5", "5"),
    ('<table width="100"><tr><td colspan="2">7</td></tr></table>', "7"),
    ('<span style="font-size:12px">7</span> &#39;8&#39;', "7 8"),
    ("\\begin{tabular}{|c|p{3cm}|} 7 & \\multicolumn{2}{c}{8} \\\\ \\cline{1-2} 9 \\end{tabular}", "7 8 9"),
    ("\\begin{array}{*{3}{c}} 7 \\end{array} \\rule{1cm}{0.5pt} \\kern3pt \\hskip 3pt 8", "7 8"),
    ("$x\\mathrel{=}-7$, $y\\stackrel{?}{=}-8$, $z=\\text{5 or }-9$", "-7 -8 5 -9"),
    ("claim 1: 5", "5"),
    ("$x=5 \\quad(1)$, $y=6 \\qquad (2)$, $z=7\\hfill(3)$", "5 6 7"),
    ("Scenario 2: 5. Hypothesis 3. See pp. 35-37 and Task 4.", "5"),
    ("Step 1-2: 5", "5"),
    ("**Solution 2**\n5", "5"),
]
# Beside them: what looks alike and is a result, or is joined.
HELD = [
    ("there are 12,345 ways", "12345"),
    ("there are $479,001,600$ orders", "479001600"),
    ("prices 1,000, 2,500 and 3,750", "1000 2500 3750"),
    ("$\\boxed{12,345}$", "12345"),
    ("$(12{,}345)$ and $[1\\,000, 2,\\!500]$", "12345 1000 2500"),
    ("$1,234.5$", "1234.5"),
    ("(about 12,345 people) and (at most $1,000$)", "12345 1000"),
    ("a town (12,345 people), a road [12,345 km]", "12345"),
    ("$(12,345\\text{ people})$ or (12,345\\,\\text{kg})", "12345"),
    ("$\\pi-3$, $\\infty-4$, $\\theta-5$, $\\lfloor x\\rfloor-6$", "3 4 5 6"),
    ("$\\frac1{23}$", "1 23"),
    ("[asy] draw(1); so 5", "1 5"),
    ("<asy> draw(1); so 5", "1 5"),
    ("$f(3) = (4)\\cdot(5)$", "3 4 5"),
    ("$(3)(4) = 12$", "3 4 12"),
    ("(a) $x=3$ (b) $x=4$", "3 4"),
    ("$AB:BC = 12:30$", "12 30"),
    ("the ratio 12:30", "12 30"),
    ("$x^2$ and $f[3]$ and $\\sqrt[3]{8}$", "2 3 8"),
    ("the answer is\n15. Then 6", "15 6"),
    ("2024-10-5 = 2009", "2024 10 5 2009"),
    ("we claim 5 is prime", "5"),
    ("the solutions 2 and 3", "2 3"),
    ("for example 5", "5"),
    ("$r = \\begin{cases} 0 & m = 2k \\\\ 1 & m = 2k+1 \\end{cases} 7$", "0 2 1 7"),
    ("\\begin{proof} 3 divides 6. \\end{proof}", "3 6"),
    ("(1,000) and [2,050, 3,000]", "1000 2050 3000"),
    ("(\\$1,234), (N = 2,345), (x,y=3,456)", "1234 2345 3 456"),
    ("1 000 000 people, 2\u202f345\u202f678, 3\u00a0456, $4~567$, 5'678'901", "1000000 2345678 3456 4567 5678901"),
    ("12 345 678", "12 345 678"),
    ("1 000 500", "1000500"),
    ("the equation 3 = 5 is false", "3 5"),
    ("the equation 3x=6, the relation 12 = 7+5", "3 6 12 7 5"),
    ("the inequality $1 \\le 2$, condition 3 < 4", "1 2 3 4"),
    ("part 1/3 of it", "1 3"),
    ("formula 7 - 2 = 5", "7 2 5"),
    ("Case $3\\le x$: 5", "3 5"),
    ("by Lemma 2 + Lemma 3, 5", "5"),
    ("the vector [3, 4] and the list [5, 6] of 7", "3 4 5 6 7"),
    ("a mixture of 10:20 and BC divided 10:11", "10 20 11"),
    ("$0<p$ and $q=3>2$, a<b and c=4>d", "0 3 2 4"),
    ("$\\psi(3)=4$", "3 4"),
    ("```python\nprint(12)\n``` so 5", "12 5"),
    ("$[3](4)$ and $A[2](x)$", "3 4 2"),
]


@pytest.mark.parametrize(("text", "expected"), READ + HELD)
def test_numbers_are_read_as_a_reader_of_the_text_means_them(text: str, expected: str):
    assert numbers(text) == expected.split()


# The extractors by name


def test_each_extractor_finds_what_it_says():
    solution = r"In Case 2 we have $2k-1 = 19$ and $n+1 = 3^2 = 9$, so \boxed{12}."
    found = {name: extract(name, solution, "proof", "12") for name in ("paper", "paper-sorted", "official", "rhs")}
    assert found == {
        "paper": ["2k-1", "19", "n+1", "3^2", "9"],
        "paper-sorted": ["19", "2k-1", "3^2", "9", "n+1"],
        "official": ["1", "19", "2", "2k", "2k-1", "3", "3^2", "9", "n+1"],
        "rhs": ["19", "3^2", "9"],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"$x = \frac{a}{2} = 7$", [r"\frac{a}{2}", "7"]),
        (r"$f(x) = \{1, 2\}$, $\sum_{k=1}^n k = 3n$", [r"\{1,2\}", "3n"]),
        (r"\begin{align*} a &= b + 1 \\ &= 5 \end{align*}", ["b+1", "5"]),
        ("$x <= 3$, $y != 4$, no equation", []),
        (r"so $x = \boxed{12}$ and $y = 8$.", ["8"]),
        (r"$x = \begin{pmatrix} 1 & 2 \end{pmatrix}$, $y \overset{?}{=} 5$", [r"\begin{pmatrix}1&2\end{pmatrix}", "5"]),
    ],
)
def test_right_hand_sides_of_equations(text: str, expected: list[str]):
    assert extract("rhs", text, "verifiable", "12") == expected


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
    extract("official", text, "proof", "7")
    extract("rhs", text, "proof", "7")
    return time.process_time() - start


@pytest.mark.parametrize("character", ["{", "1"])
def test_two_megabytes_of_one_character_take_seconds(character: str):
    """Four times as much as a solution may have; a square takes hours."""
    assert seconds_for(character * 2_000_000) < 10


HOSTILE = [
    *(r"\boxed{", r"\boxed ", r"\boxed{}", "n^{", "n^{{", r"n^{\{", "x^{a", "n ^", "2^", "a_{", "    n"),
    *("1,000, ", "(1,000", "1,2", "{1,", r"\frac{", r"\frac 1", r"\le -", "Case 1, ", "Case (", "(1) ", "1:30 "),
    *("\n1. ", "# 1 ", "\n== ", "January ", "2024-01-", "word[1", "word.^1", r"\section{", "=", "= ", "a = b,"),
    *("1,000", "1,0001", "1.", "1e", "1+", "n+", "n + ", "(1", "1 ", "-", r"\frac1", "$n+1$ "),
    *(
        "[asy]",
        "[asy][",
        r"\begin{asy}",
        "<asy>",
        r"\begin{figure}\begin{tikzpicture}",
        "```asy ",
        "```\ndraw(",
        "~~~asy ",
        r"\tikz \draw ",
        r"\tikz{",
        r"\psline(",
        "<a b=1 ",
        "![](a ",
        "data:image/png;base64,",
        "[[File:",
        r"\begin{array}{{",
        r"\text{or",
        r"\cite[",
        r"\label{",
        "\\",
    ),
]


@pytest.mark.parametrize("pattern", HOSTILE)
@pytest.mark.parametrize("ending", ["", "!"])
def test_time_does_not_grow_with_the_square_of_a_hostile_text(pattern: str, ending: str):
    """200,000 characters take well under a second; a square takes many seconds."""
    assert seconds_for(pattern * (200_000 // len(pattern)) + ending) < 3
