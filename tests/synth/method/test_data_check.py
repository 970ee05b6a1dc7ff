"""What expert solutions contradict or repeat is found and told; what is right is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.data.reader import load_items
from dail.synth.method.data_check import DataCheck, check_data, problems_of
from dail.synth.schema.items import check_items
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import EXPERT_SOLUTIONS, OLYMPIAD


def check(*items: dict[str, Any], against: Mapping[str, str] | None = None, extractor: str = "paper") -> DataCheck:
    plain = {"problem": "1+1?", "solution": r"As $1+1=2$, it is \boxed{2}.", "answer": "2"}
    numbered = [{"problem": f"{number}?"} | item for number, item in enumerate(items)]
    return check_data(check_items([plain | item for item in numbered]), Synthesis(extractor=extractor), against)


def kinds(found: DataCheck) -> list[str]:
    return [finding.kind for finding in found.findings]


@pytest.mark.parametrize(
    ("answer", "solution"),
    [
        ("3", r"$1+1=2$, so \boxed{2}"),
        ("0.333", r"As $1:3$, \boxed{\frac13}"),
        (r"5 \text{ m}", r"As $2+3$, \boxed{5 \text{ cm}}"),
        (r"\sqrt 7", r"As $x=8$, \boxed{\sqrt{8}}"),
        ("(1,2)", r"As $x=8$, \boxed{(2,1)}"),
        ("B", r"As $x=8$, \boxed{\text{(C) } 8}"),
    ],
)
def test_an_answer_that_contradicts_the_box_is_found(answer: str, solution: str):
    (finding,) = check({"answer": answer, "solution": solution}).findings
    assert finding.kind == "contradiction" and finding.item_id == "item-00000"
    assert finding.detail.startswith(f"the answer is {answer}, the box of the solution says ")


@pytest.mark.parametrize(
    ("answer", "solution"),
    [
        ("0.5", r"As $1:2$, \boxed{\frac{1}{2}}"),
        ("24", r"As $x=8$, \boxed{24.}"),
        (r"2\sqrt{2}", r"As $x=7$, \boxed{\sqrt{8}}"),
        ("1000", r"As $x=7$, \boxed{1{,}000}"),
        ("5", "As $x = 7$, it is 5 without a box"),
    ],
)
def test_an_answer_that_is_written_otherwise_is_no_contradiction(answer: str, solution: str):
    assert kinds(check({"answer": answer, "solution": solution})) == []


def test_a_proof_has_no_answer_to_contradict():
    assert kinds(check({"answer": "3", "kind": "proof"})) == []


def test_boxes_of_several_solutions_are_held_against_each_other():
    two = {"solution": [r"$7$, \boxed{3}", r"$7$, \boxed{4}"], "answer": None, "kind": "verifiable"}
    (finding,) = check(two).findings
    assert finding.detail == "solution 1 says 4, the box of solution 0 says 3"


def test_without_math_verify_what_takes_algebra_is_left_undecided(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    items = [
        {"answer": r"2\sqrt{2}", "solution": r"$7$, \boxed{\sqrt{8}}"},
        {"answer": "3", "solution": r"$7$, \boxed{4}"},
        {"answer": "0.5", "solution": r"$7$, \boxed{\frac12}"},
    ]
    assert kinds(check(*items)) == ["contradiction", "undecided"]


def test_an_item_without_waypoints_is_found_by_the_extractor_that_is_set():
    item = {"solution": r"As 7 is odd, it is \boxed{2}."}
    assert kinds(check(item)) == []
    assert kinds(check(item, extractor="rhs")) == ["no_waypoints"]


def test_a_repeated_problem_names_the_first():
    (finding,) = check({"problem": "1+1?", "id": "a"}, {"problem": "1 + 1 ?", "id": "b"}).findings
    assert (finding.kind, finding.item_id, finding.detail) == ("repeated", "b", "its problem is that of a")


def test_a_conversation_repeats_only_with_all_its_messages():
    def talk(before: str) -> dict[str, Any]:
        return {"problem": [{"role": "system", "content": before}, {"role": "user", "content": "1+1?"}]}

    assert kinds(check(talk("Be brief."), talk("Be long."), talk("be brief."))) == ["repeated"]


def test_problems_of_an_evaluation_are_found_and_near_ones_too():
    long = "A train leaves the station at noon and travels north at sixty miles an hour, another one goes south."
    found = check({"problem": "1 + 1?"}, {"problem": f"Now: {long}"}, against={"e1": "1+1?", "e2": long})
    assert [(one.kind, one.item_id) for one in found.findings] == [
        ("evaluation", "item-00000"),
        ("near_evaluation", "item-00001"),
    ]


def test_damage_in_a_text_is_told_with_its_place():
    (finding,) = check({"problem": "cafÃ© or â‰¤?"}).findings
    assert finding.kind == "text"
    assert finding.detail == 'problem: wrong decoding: "Ã©" at 3 may have been "é": read the source as UTF-8 (2 times)'


def test_the_line_counts_items_and_names_the_first_few():
    found = check(*[{"answer": "3"}] * 5, {"problem": "0?"})
    assert found.told() == (
        "5 answers contradict the box (item-00000, item-00001, item-00002, and 2 more); 1 repeated problem (item-00005)"
    )
    assert check({}).told() == "nothing found"


@pytest.mark.parametrize("path", [EXPERT_SOLUTIONS, OLYMPIAD])
def test_nothing_is_found_in_the_bundled_solutions(path: Path):
    assert check_data(load_items(path), Synthesis()).findings == ()


def test_problems_of_an_evaluation_set_are_read_as_it_is_published(tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"id": "a", "problem": "1+1?", "answer": "2"}\n\n{"problem": "2+2?"}\n')
    assert problems_of(path) == {"a": "1+1?", "problem 2": "2+2?"}
    path.write_text('{"ID": 7, "Year": 1990, "Question": "1+1?", "Answer": "2"}')
    assert problems_of(path) == {"7": "1+1?"}
    path.write_text('{"problem": [{"role": "user", "content": "1+1?"}], "answer": "2"}\n{"problem": 5}')
    assert problems_of(path) == {"problem 1": "1+1?", "problem 2": "5"}
    with pytest.raises(UsageError, match="does not exist"):
        problems_of(tmp_path / "none.jsonl")


def test_an_own_extractor_that_fails_is_told_elsewhere(tmp_path: Path):
    (tmp_path / "own.py").write_text("def find(solution, kind, answer):\n    raise ValueError('no')\n")
    assert kinds(check({}, extractor=f"{tmp_path}/own.py:find")) == []
