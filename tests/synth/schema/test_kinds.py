"""What kind of item an expert solution is: by its answer, by the box of its solution, or a proof."""

from typing import Any

import pytest

from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import resolve, stated_answer

BOX = r"Since $72=2^3\cdot 3^2$ it has $12$ divisors, so $\boxed{12}$."
PLAIN = "It follows at once."


@pytest.mark.parametrize(
    ("fields", "kind", "answer", "found"),
    [
        ({"solution": BOX, "answer": "12"}, "verifiable", "12", "answer"),
        ({"solution": BOX, "answer": "11"}, "verifiable", "11", "answer"),  # the data check tells that they differ
        ({"solution": BOX}, "verifiable", "12", "box"),
        ({"solution": (PLAIN, BOX)}, "verifiable", "12", "box"),
        ({"solution": BOX, "answer": "notfound"}, "verifiable", "12", "box"),
        ({"solution": BOX, "answer": "  "}, "verifiable", "12", "box"),
        ({"solution": BOX, "answer": "None"}, "verifiable", "12", "box"),
        ({"solution": BOX, "answer": "proof"}, "proof", "12", "box"),
        ({"solution": PLAIN, "answer": "proof"}, "proof", None, "nowhere"),
        ({"solution": PLAIN, "answer": "notfound"}, "proof", None, "nowhere"),
        ({"solution": PLAIN}, "proof", None, "nowhere"),
        ({"solution": PLAIN, "kind": "verifiable"}, "verifiable", None, "nowhere"),
        ({"solution": BOX, "kind": "verifiable"}, "verifiable", "12", "box"),
        ({"solution": BOX, "kind": "proof"}, "proof", "12", "box"),
        ({"solution": BOX, "answer": "12", "kind": "proof"}, "proof", "12", "answer"),
        ({"solution": r"So it is $\boxed{\text{Proof}}$.", "answer": None}, "proof", None, "nowhere"),
    ],
)
def test_an_items_kind_and_answer_follow_from_the_rule(fields: dict[str, Any], kind: str, answer: str, found: str):
    resolved = resolve(ExpertSolution(problem="How many?", **fields))
    assert (resolved.kind, resolved.answer, resolved.found) == (kind, answer, found)


def test_a_lone_box_may_be_nothing_and_a_box_beside_an_answer_stays_what_it_was():
    assert resolve(ExpertSolution(problem="p", solution=BOX), "nothing").kind == "proof"
    assert resolve(ExpertSolution(problem="p", solution=BOX, kind="verifiable"), "nothing").answer == "12"
    assert resolve(ExpertSolution(problem="p", solution=BOX, answer="12"), "nothing").kind == "verifiable"


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("$24$", "24"),
        ("$$24$$", "24"),
        (r"\(24\)", "24"),
        (r"\[ 24 \]", "24"),
        (r"$\boxed{24}$", "24"),
        (r"\boxed{\boxed{24}}", "24"),
        ("**24**", "24"),
        (" 24\n", "24"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("$24$.", "24"),
        (r"The answer is $\boxed{24}$.", "24"),
        ("Final answer: $24$", "24"),
        ("#### 24", "24"),
        ("`24`", "24"),
        ('"24"', "24"),
        (r"$\$1000$", r"\$1000"),
        # not what stands around all of it
        ("$1$ or $2$", "$1$ or $2$"),
        (r"\boxed{1} or \boxed{2}", r"\boxed{1} or \boxed{2}"),
        (r"\{1,2\}", r"\{1,2\}"),
        (r"\text{even}", r"\text{even}"),
        ("$", "$"),
        (r"\$24", r"\$24"),
        # words that mean that there is none, and answers like them
        ("", None),
        ("$$", None),
        ("N/A", None),
        ("n/a", None),
        ("NA", None),
        ("Na", "Na"),
        ("null", None),
        ("NaN", None),
        ("Not found", None),
        ("not_found", None),
        (r"\text{notfound}", None),
        (r"$\boxed{\text{proof}}$", None),
        ("Proof.", None),
        ("unknown", None),
        ("See the solution above.", None),
        ("Answer not provided", None),
        ("<NA>", None),
        ("proof omitted", None),
        (r"$\blacksquare$", None),
        ("The proof is complete.", None),
        ("[]", None),
        ("-", None),
        ("?", None),
        ("0", "0"),
        ("-1", "-1"),
        ("∅", "∅"),
        (r"\emptyset", r"\emptyset"),
        ("no solution", "no solution"),
        ("None of these", "None of these"),
        ("proofreading", "proofreading"),
        ("False", "False"),
        ("square", "square"),
        ("empty", "empty"),
        ("seventy", "seventy"),
        ("nonexistent", "nonexistent"),
        ("not possible", "not possible"),
        (r"$5\$", r"$5\$"),
        (r"\(1\) or \(2\)", r"\(1\) or \(2\)"),
        ("24.", "24."),
    ],
)
def test_an_answer_loses_its_wrappings_and_words_for_none_are_none(given: str, answer: str | None):
    assert stated_answer(given) == answer
