"""Each sign of a collapse in completions, planted and absent, and what `dail eval` does about it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dail.synth.core.errors import EXIT_GATE
from dail.synth.engine.base import TokenSequence
from dail.synth.method.grading import Verdict
from dail.synth.method.prompts import Prompts
from dail.train.evals import run
from dail.train.evals.commands import evaluate
from dail.train.evals.completions import Completion
from dail.train.evals.gate import compare
from dail.train.evals.problems import EvalProblem
from dail.train.evals.results import Evaluation, count
from dail.train.evals.run import Judged
from dail.train.gate import GateConfig, GateRecord
from tests.conftest import DEMO_MODEL
from tests.train.evals.conftest import TableEngine, arm_refs

NUM_PROBLEMS, NUM_SAMPLES = 20, 8
PROBLEMS = [EvalProblem(id=f"p{n}", problem=f"What is {n} + 1?", answer=str(n + 1)) for n in range(NUM_PROBLEMS)]

Says = Callable[[random.Random], dict[str, Any]]


def prose(draw: random.Random, words: int = 60) -> str:
    return " ".join(f"w{draw.randrange(400)}" for _ in range(words))


def healthy(draw: random.Random) -> dict[str, Any]:
    """100 tokens or so, half of them right, a few cut, now and then a second thought."""
    doubt = " Wait, let me check." if draw.random() < 0.5 else ""
    return {
        "text": prose(draw) + doubt,
        "num_tokens": draw.randrange(80, 120),
        "correct": draw.random() < 0.5,
        "finish_reason": "length" if draw.random() < 0.05 else "stop",
    }


def with_fault(**changes: Any) -> Says:
    return lambda draw: healthy(draw) | {name: change(draw) for name, change in changes.items()}


def seen(base: Says, adapter: Says | None, num_problems: int = NUM_PROBLEMS, **thresholds: Any) -> GateRecord | None:
    completions = []
    roles: list[tuple[str, Says]] = [("base", base), *([("adapter", adapter)] if adapter else [])]
    for who, says in roles:
        for problem in PROBLEMS[:num_problems]:
            for sample in range(NUM_SAMPLES):
                said = {"finish_reason": "stop", **says(random.Random(f"{who} {problem.id} {sample}"))}
                verdict = Verdict(bool(said.pop("correct")), "exact", "1")
                key = f"{who}{problem.id}{sample}"
                kept = Completion(key=key, arm=who, problem_id=problem.id, sample=sample, engine="table", **said)
                completions.append(Judged(kept, verdict))
    problems = PROBLEMS[:num_problems]
    arms = arm_refs(*(who for who, _ in roles))
    records = compare(problems, count(problems, completions), completions, arms, GateConfig(**thresholds), seed=0)
    assert list(records) == [who for who, _ in roles[1:]]
    return records.get("adapter")


def tripped(base: Says, adapter: Says, num_problems: int = NUM_PROBLEMS, **thresholds: Any) -> list[str]:
    record = seen(base, adapter, num_problems, **thresholds)
    assert record is not None and len(record.signals) == 7
    return [one.name for one in record.tripped]


FAULTS = {
    "tokens of a completion, adapter ÷ base": [
        with_fault(num_tokens=lambda _: 10),
        with_fault(num_tokens=lambda _: 900, text=lambda draw: prose(draw, 500) + " Wait, let me check." * 5),
    ],
    "share of distinct 4-grams, adapter ÷ base": [
        with_fault(text=lambda draw: " ".join(f"a {place % 9} c" for place in range(24)) + " Wait, let me check.")
    ],
    "words of self-correction per 1,000 tokens, adapter ÷ base": [with_fault(text=prose)],
    "share of completions that cite a solution or hint, adapter − base": [
        with_fault(text=lambda draw: healthy(draw)["text"] + " as the reference solution says" * (draw.random() < 0.2))
    ],
    "share of completions that go round in a loop, adapter − base": [
        with_fault(
            text=lambda draw: (
                " ".join([prose(draw, 4000), "so x is 3 and then " * 150 * (draw.random() < 0.3)])
                + " Wait, let me check." * 40
            )
        )
    ],
    "share of completions that were cut, adapter − base": [
        with_fault(finish_reason=lambda draw: "length" if draw.random() < 0.4 else "stop")
    ],
}


def test_an_adapter_that_is_as_the_base_model_trips_nothing():
    assert tripped(healthy, healthy) == []


@pytest.mark.parametrize(("name", "adapter"), [(name, one) for name, all_ in FAULTS.items() for one in all_])
def test_a_fault_is_seen_and_nothing_else(name: str, adapter: Says):
    assert tripped(healthy, adapter) == [name]


@pytest.mark.parametrize(("name", "faulty"), [(name, one) for name, all_ in FAULTS.items() for one in all_[:1]])
def test_a_fault_that_the_base_model_has_too_is_not_the_adapter_s(name: str, faulty: Says):
    assert name not in tripped(faulty, faulty)


def test_variety_that_is_lost_shows_in_the_slope_of_pass_at_k():
    def varied(draw: random.Random) -> dict[str, Any]:
        return healthy(draw) | {"correct": draw.random() < 0.3}

    solved = {f"adapter p{n} {sample}" for n in range(12) for sample in range(NUM_SAMPLES)}

    def adapter(draw: random.Random) -> dict[str, Any]:
        state = draw.getstate()
        return healthy(draw) | {"correct": state in {random.Random(name).getstate() for name in solved}}

    record = seen(varied, adapter)
    assert record is not None
    (slope,) = record.tripped
    assert slope.name == "slope of pass@k, adapter ÷ base" and slope.value == 0 and slope.base and slope.base > 0.15
    assert seen(varied, adapter, slope_floor=0).tripped == ()  # type: ignore[union-attr]


def test_a_slope_that_falls_because_all_is_solved_is_no_loss():
    def all_solved(draw: random.Random) -> dict[str, Any]:
        return healthy(draw) | {"correct": draw.random() < 0.98}

    record = seen(with_fault(correct=lambda draw: draw.random() < 0.1), all_solved)
    assert record is not None and record.tripped == ()
    assert record.signals[-1].value is not None and record.signals[-1].value < 0.5
    assert "pass@8 rose all the same" in record.signals[-1].note


def test_few_markers_and_few_problems_are_not_judged_or_taken_for_chance():
    record = seen(with_fault(text=prose), healthy)
    assert record is not None and record.signals[2].verdict == "not judged" and "needed" in record.signals[2].note
    assert seen(healthy, None) is None
    assert seen(healthy, healthy, action="off") == GateRecord(action="off")
    alone = seen(healthy, with_fault(num_tokens=lambda _: 10), num_problems=1)
    assert alone is not None and alone.tripped == () and "one problem tells nothing" in alone.signals[0].note


def test_a_difference_that_chance_may_have_made_does_not_trip():
    base = with_fault(finish_reason=lambda draw: "stop")
    once = [True]

    def adapter(draw: random.Random) -> dict[str, Any]:
        return healthy(draw) | {"finish_reason": "length" if once and once.pop() else "stop"}

    record = seen(base, adapter, max_cut_rise=0.001)
    assert record is not None and record.tripped == ()
    assert "holds 0, no change" in record.signals[5].note


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: Prompts) -> Path:
    """Ten problems, and an engine whose adapter cites a reference."""

    def answer(row: TokenSequence) -> list[int]:
        text = "By the reference solution it is 1." if row.adapter else "So it is 1."
        return prompts.tokenizer.encode(rf"{text} \boxed{{1}}", add_special_tokens=False)

    monkeypatch.setattr(run, "start_engine", lambda *_: TableEngine(answer))
    path = tmp_path / "problems.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"p{n}", "problem": f"Say {n}.", "answer": "1"}) + "\n" for n in range(10))
    )
    return path


def test_dail_eval_writes_its_report_and_then_fails_with_a_code_of_its_own(
    problems: Path, trained: Path, tmp_path: Path
):
    def dail_eval(*more: str) -> Any:
        fixed = ["--model", DEMO_MODEL, "--problems", problems, "--out", tmp_path / "e", "--samples", "2"]
        return CliRunner().invoke(
            evaluate,
            [*map(str, fixed), "--adapter", str(trained), *more],
            catch_exceptions=False,
            standalone_mode=False,
        )

    warned = dail_eval()
    assert warned.return_value == 0 and "that cite a solution or hint, adapter − base: 1 (0 of base, 1" in warned.stderr
    stopped = dail_eval("--set", "gate.action=stop", "--json")
    assert stopped.return_value == EXIT_GATE and "exit code 6" in stopped.stderr
    assert json.loads(stopped.stdout)["gate"]["adapter"]["action"] == "stop"
    evaluation = Evaluation.model_validate_json((tmp_path / "e" / "eval.json").read_bytes())
    assert evaluation.gate["adapter"].stops
    page = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert "Signs of a collapse: 1 warning" in page and "wanted at most 0.02" in page
    assert dail_eval("--set", "gate.action=stop", "--set", "max_mentions=1").return_value == 0
