"""Completions to read: chosen by place alone, marked for what they are, and never cut in silence."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dail.synth.method.grading import Verdict
from dail.train.evals.completions import Completion
from dail.train.evals.examples import NUM_PROBLEMS, Example, choose
from dail.train.evals.problems import EvalProblem
from dail.train.evals.run import Judged
from tests.train.evals.conftest import arm_refs

ARMS = arm_refs("base", "adapter")


def judged(problem: str, sample: int, correct: bool = False, who: str = "base", **said: Any) -> Judged:
    method = said.pop("method", "exact")
    values: dict[str, Any] = {"text": "so", "num_tokens": 3, "finish_reason": "stop", "engine": "table"} | said
    completion = Completion(key=f"{who}{problem}{sample}", arm=who, problem_id=problem, sample=sample, **values)
    return Judged(completion, Verdict(correct, method, "5"))


def problem(name: str) -> EvalProblem:
    return EvalProblem(id=name, problem="Say it.", answer="5")


def only(one: Judged) -> Example:
    ((example,),) = [found.examples for found in choose([problem("p")], [one], ARMS)]
    return example


def test_the_first_of_every_outcome_and_subject_is_shown_base_before_adapter_right_before_wrong() -> None:
    found = [
        *(judged("p", sample, sample in (2, 3), "adapter") for sample in (3, 2, 1, 0)),
        *(judged("p", sample, sample == 1) for sample in range(4)),
        judged("p", 7, method="timeout"),
    ]
    (one,) = choose([problem("p")], found, ARMS)
    assert [(example.arm, example.outcome, example.sample) for example in one.examples] == [
        ("base", "right", 1), ("base", "wrong", 0), ("base", "not judged", 7),
        ("adapter", "right", 2), ("adapter", "wrong", 0),
    ]  # fmt: skip


def test_problems_are_evenly_over_the_file_whatever_came_of_them() -> None:
    problems = [problem(f"p{number}") for number in range(100)]
    chosen = choose(problems, [judged(one.id, 0) for one in problems], ARMS)
    assert len(chosen) == NUM_PROBLEMS
    places = [problems.index(one.problem) for one in chosen]
    assert places[0] == 0 and {after - before for before, after in pairwise(places)} == {4, 5}


def test_what_was_cut_given_up_or_has_no_answer_is_marked() -> None:
    assert only(judged("p", 0, finish_reason="length")).remarks == ("cut at the limit of tokens",)
    assert only(judged("p", 0, method="cut in thought")).remarks == ("the thought never ended",)
    assert only(judged("p", 0, method="none")).remarks == ("no box",)
    assert only(judged("p", 0, method="timeout")).remarks == ("the grader gave up",)


def test_a_long_completion_is_folded_and_one_that_is_left_out_in_part_says_how_much() -> None:
    assert not only(judged("p", 0, text="short")).is_folded
    assert only(judged("p", 0, text="x" * 2000)).is_folded
    long = only(judged("p", 0, text="a" * 20_000 + "answer"))
    assert long.tail.endswith("answer") and len(long.head) + long.num_left_out + len(long.tail) == 20_006
    assert long.num_left_out == 8_006
