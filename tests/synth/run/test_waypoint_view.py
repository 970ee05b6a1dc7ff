"""`dail waypoints`: what it shows of an item, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dail.serve.cli import dail
from dail.synth.core.errors import UsageError
from dail.synth.method.dealing import dealt
from dail.synth.run.waypoint_view import describe, look
from dail.synth.schema.items import ExpertSolution, check_items
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import EXPERT_SOLUTIONS, OLYMPIAD, ROOT

ITEM: dict[str, Any] = {"id": "sum", "problem": "1+2?", "solution": r"As $1+2=3$, it is \boxed{3}.", "answer": "3"}
TOLD = "1+2?\n\nSome results along the way: 1, 2\n\nThe final answer: 3\n\nPlease reason step by step"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(dail, ["waypoints", *map(str, arguments)], standalone_mode=False)


def shown(settings: Synthesis | None = None, **changes: Any) -> str:
    (item,) = check_items([{**ITEM, **changes}])
    return describe(look(item, settings or Synthesis()), in_colour=False)


def test_the_text_is_marked_and_what_the_negative_reference_is_told_stands_below() -> None:
    lines = shown().splitlines()
    assert lines[:4] == [
        "── sum: verifiable, answer 3 (given)",
        r"As $⟦1⟧+⟦2⟧=3$, it is \boxed{3}.",
        "── 2 waypoints: 1, 2",
        "── the negative reference is told",
    ]
    assert "\n".join(lines[4:]).startswith(TOLD)


def test_a_terminal_has_colours_instead_of_brackets() -> None:
    (item,) = check_items([ITEM])
    text = describe(look(item, Synthesis()), in_colour=True)
    assert "⟦" not in text and "\x1b[36m\x1b[1m\x1b[4m2\x1b[0m=3$" in text


def test_where_the_answer_comes_from_is_said() -> None:
    assert "sum: verifiable, answer 3 (the last box)" in shown(answer=None, kind="verifiable")
    assert "sum: proof, no answer" in shown(kind="proof")


def test_an_item_without_waypoints_says_so() -> None:
    text = shown(solution=r"\boxed{3}")
    assert "── 0 waypoints: the negative reference is told no intermediate result" in text


def test_what_an_own_extractor_made_up_is_said_to_stand_nowhere(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def find(solution, kind, answer):\n    return ['1+2', 'half of 6']\n")
    text = shown(Synthesis(extractor=f"{tmp_path}/own.py:find"))
    assert r"As $⟦1+2⟧=3$, it is \boxed{3}." in text
    assert "   not in the text as they are written: half of 6" in text


def test_the_demo_s_items_are_shown_one_after_the_other() -> None:
    ended = run(EXPERT_SOLUTIONS, "--limit", 2)
    assert ended.return_value == 0
    assert [line for line in ended.stdout.splitlines() if line.startswith("── lock")] == [
        "── lock-000: verifiable, answer 059 (given)",
        "── lock-001: verifiable, answer 529 (given)",
    ]
    assert ended.stderr.splitlines()[-1] == "2 items: 2 verifiable, 0 proofs; 0 without waypoints; extractor paper"


def test_json_has_places_in_the_solution() -> None:
    ended = run(OLYMPIAD, "--item", "alg-telescoping", "--json", "--set", "extractor=rhs")
    (view,) = map(json.loads, ended.stdout.splitlines())
    assert view["waypoints"] and view["failure"] is None
    assert len(view["places"]) >= len(view["waypoints"]) - len(view["not_in_text"])
    assert view["solution"][slice(*view["places"][0])] == "(k - 1)(k + 1)"


def test_an_own_extractor_and_own_prompts_are_used(tmp_path: Path) -> None:
    path = tmp_path / "law.jsonl"
    path.write_text(json.dumps({"problem": "Can A ask for a new one?", "solution": "By § 437: yes, § 439."}))
    own = ROOT / "deploy/examples"
    settings = ["--set", f"extractor={own}/own_waypoints.py:provisions", "--set", f"prompts={own}/law"]
    ended = run(path, *settings)
    assert "By ⟦§ 437⟧: yes, ⟦§ 439⟧." in ended.stdout
    assert "extractor provisions#" in ended.stderr
    assert "Give a reasoned opinion" in ended.stdout


def test_an_extractor_that_fails_on_an_item_is_told_there_and_in_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def find(solution, kind, answer):\n    return [str(1 / len(answer or ''))]\n")
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(json.dumps({**ITEM, "id": name, "answer": a}) for name, a in [("a", "3"), ("b", None)]))
    lines = path.read_text().replace(r"\\boxed{3}", "3")
    path.write_text(lines)
    ended = run(path, "--set", f"extractor={tmp_path}/own.py:find")
    assert ended.return_value == 3
    assert "FAILED: extractor_failed: " in ended.stdout and "division by zero" in ended.stdout
    assert "1 failed" in ended.stderr


def test_what_cannot_be_shown_is_refused() -> None:
    for arguments, why in [
        (("nowhere.jsonl",), "nowhere.jsonl does not exist"),
        ((EXPERT_SOLUTIONS, "--item", "lock-0"), "there is no item 'lock-0' among the 128; did you mean lock-"),
        ((EXPERT_SOLUTIONS, "--set", "extractor=papr"), "there is no waypoint extractor 'papr'"),
        ((EXPERT_SOLUTIONS, "--set", "engine.rows=3"), "which `dail waypoints` does not use"),
    ]:
        with pytest.raises(UsageError, match=why.replace("(", r"\(")):
            raise run(*arguments).exception or AssertionError("it was shown")


def test_another_problem_s_waypoints_are_shown_in_its_solution():
    given = [
        ExpertSolution(id="a", problem="2 + 3?", solution="It is 5.", answer="5"),
        ExpertSolution(id="b", problem="6 * 7?", solution="Twice 21, so 42.", answer="42"),
    ]
    asked = Synthesis(waypoints_from="other")
    view = look(dealt(given, asked)[0], asked)
    assert (view.other_item, view.waypoints, view.answer) == ("b", ("21",), "5")
    assert [view.solution[slice(*place)] for place in view.places] == ["21"]
    assert "the solution of b" in describe(view, False) and "The final answer: 5" in view.negative_reference
