"""What a solution that is too long loses first."""

import time

import pytest

from dail.synth.method.shortening import halved, without_last_solution
from dail.synth.schema.items import ExpertSolution


def item(*solutions: str) -> ExpertSolution:
    return ExpertSolution(problem="p", solution=solutions if len(solutions) > 1 else solutions[0])


@pytest.mark.parametrize(
    "heading",
    [
        "Solution 2:", "Solution 2", "**Solution 2**", "## Solution 2", "### Solution 2.", "Solution #2",
        "SOLUTION 2:", "Solution 10:", r"\section*{Solution 2}", r"\textbf{Solution 2}",
        "Solution 2 (by symmetry)", "Second solution:", "Alternative solution.", "  Solution 2)", "=Solution 2=",
        "__Solution 2__", "Solution 2 - Geometry", r"{\bf Solution 2.}", "Another solution.", "Solution II.",
        "2nd solution", "2. Solution", "Method 2:", "Approach 2", "Alternative proof.", "<h2>Solution 2</h2>",
        "[b]Solution 2[/b]", "(Solution 2)", "---\nSolution 2:", "Solution 2\u00a0:", "Sol. 2:", "Solution (2):",
        "> Solution 2:", "Fourth solution", "Solution 2 by Euclid", "Solution 2A", "- Solution 2:",
    ],
)  # fmt: skip
def test_the_last_solution_under_a_heading_is_dropped(heading: str):
    text = f"Solution 1:\nBy (1) it is 4.\n\n{heading}\nBy (2) it is 4."
    kept, dropped = without_last_solution(item(text))
    assert kept.solution == "Solution 1:\nBy (1) it is 4."
    assert dropped == f"{heading}\nBy (2) it is 4."
    assert without_last_solution(kept) is None


@pytest.mark.parametrize(
    "text",
    [
        "Solution 1: it is 4.",
        "The solution 2 is the only one.",
        "It has solution 2, and no other:\nsolution 2 is even.",
        "Solution 2: it is 4.",  # alone
        "We get\nsolution 24 of them.",
        "It is 4.\nSolution 2 = 2 + 2 - 2.",
        "It is 4.\nSolution 2 (mod 5) is\nsolution 2.5 of it.",
        "It is 4.\nSolution 2 and 3 work.\nAnother solution is 5.\nMethod 2 fails.",
        "It is 4.\nThe second solution: none.",
    ],
)
def test_a_text_with_one_solution_is_not_cut(text: str):
    assert without_last_solution(item(text)) is None


def test_a_list_loses_its_last_member_and_a_member_its_own_later_solutions_first():
    both = item("It is 4.", "Solution 1: four.\n\nSolution 2: 2 + 2.")
    one, first = without_last_solution(both)
    assert (one.solution, first) == (("It is 4.", "Solution 1: four."), "Solution 2: 2 + 2.")
    two, second = without_last_solution(one)
    assert (two.solution, second) == ("It is 4.", "Solution 1: four.")
    assert without_last_solution(two) is None


def test_a_half_and_what_was_cut_are_the_whole():
    kept, dropped = halved(item("It is four, as two and two are."))
    assert kept.solution + dropped == "It is four, as two and two are."
    assert len(kept.solution) <= 16
    assert halved(item("4")) is None


@pytest.mark.parametrize("piece", ["*", "-", "# ", "[", "> ", "---\n", "\n\n", "Solution ", "_"])
def test_time_is_linear_in_the_text(piece: str):
    start = time.process_time()
    assert without_last_solution(item("a\n" + piece * (200_000 // len(piece)) + "\nb")) is None
    assert time.process_time() - start < 2
