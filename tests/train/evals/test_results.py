"""Counting verdicts into pass@k by group."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dail.synth.config import EngineConfig
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.config import EvalConfig
from dail.train.evals.results import ALL, Evaluation, GroupResult, Judgement, ProblemResult, SubjectRef, summarise
from dail.train.evals.results import by_group as by_group_of
from tests.conftest import DEMO_MODEL
from tests.train.evals.conftest import NOW, arm_refs

CONFIG = EvalConfig(engine=EngineConfig(model=DEMO_MODEL))


def judgement(sample: int, correct: bool) -> Judgement:
    method = "exact" if correct else "none"
    return Judgement(
        sample=sample, correct=correct, method=method, extracted=None, num_tokens=10 + sample, finish_reason="length"
    )


def problem(name: str, group: str | None, **num_correct: int) -> ProblemResult:
    judgements = {who: tuple(judgement(i, i < right) for i in range(4)) for who, right in num_correct.items()}
    return ProblemResult(id=name, group=group, answer="1", num_correct=num_correct, judgements=judgements)


def by_group(problems: Sequence[ProblemResult]) -> tuple[GroupResult, ...]:
    return by_group_of(problems, arm_refs(*problems[0].num_correct), CONFIG)


@pytest.fixture
def evaluation(model: ModelIdentity) -> Evaluation:
    problems = (problem("a", None, base=1), problem("b", None, base=0))
    return Evaluation(
        settings=CONFIG,
        subjects=(SubjectRef(name="base", model=model),),
        arms=arm_refs("base"),
        problems_file=None,
        problems_digest="sha256:0",
        engines=("table",),
        versions={},
        started_at=NOW,
        finished_at=NOW,
        groups=by_group(problems),
        summary=summarise(problems, "math"),
        num_same_text={},
        problems=problems,
    )


def test_a_group_s_pass_at_k_is_the_mean_over_its_problems() -> None:
    everything, short, long = by_group([problem("a", "short", base=4), problem("b", "long", base=1)])
    assert (everything.group, short.group, long.group) == (ALL, "short", "long")
    assert [(point.k, point.mean) for point in everything.passes["base"]] == [(1, 0.625), (2, 0.75), (4, 1.0)]
    assert [point.mean for point in long.passes["base"]] == [0.25, 0.5, 1.0]


def test_the_difference_is_paired_by_problem() -> None:
    problems = [problem(f"p{i}", None, base=i % 4, adapter=i % 4 + 1) for i in range(40)]
    (everything,) = by_group(problems)
    gain = everything.difference["adapter"][0]
    # every problem gained exactly one of four: at most 1 - 0.025^(1/40) = 8.8 % of all others may do otherwise
    assert (gain.mean, gain.low, gain.high) == (0.25, pytest.approx(0.25 - 0.0881 * 1.25, abs=1e-4),
                                                pytest.approx(0.25 + 0.0881 * 0.75, abs=1e-4))  # fmt: skip
    assert everything.passes["base"][0].high - everything.passes["base"][0].low > 0.1


def test_a_group_of_all_problems_is_not_reported_twice() -> None:
    assert len(by_group([problem("a", "aime", base=1), problem("b", "aime", base=1)])) == 1
    assert len(by_group([problem("a", None, base=1), problem("b", None, base=1)])) == 1
    assert len(by_group([problem("a", "aime", base=1), problem("b", None, base=1)])) == 2


def test_the_summary_counts_how_completions_ended() -> None:
    summary = summarise([problem("a", None, base=1), problem("b", None, base=0)], "math")["base"]
    assert (summary.num_completions, summary.num_correct, summary.num_without_box, summary.num_cut) == (8, 1, 7, 8)
    assert summary.mean_tokens == 11.5


def test_completions_cut_in_thought_are_counted_of_their_own() -> None:
    cut = judgement(0, False).model_copy(update={"method": "cut in thought"})
    one = problem("a", None, base=2).model_copy(update={"judgements": {"base": (cut, judgement(1, False))}})
    summary = summarise([one], "math")["base"]
    assert (summary.num_cut_in_thought, summary.num_without_box) == (1, 1)
    assert summarise([one], "official")["base"].num_cut_in_thought == 1
    assert summarise([one], "law#0")["base"].num_cut_in_thought is None


def test_what_was_given_up_is_warned_of_apart_from_what_is_wrong(evaluation: Evaluation) -> None:
    assert evaluation.warning is None
    summary = evaluation.summary["base"].model_copy(update={"num_given_up": 3})
    warned = evaluation.model_copy(update={"summary": {"base": summary}}).warning
    assert warned is not None and "gave up 3 of base after 5 s each" in warned
    assert "pass@1 may be up to 37.5 points too low" in warned and "eval.grade_timeout_s" in warned
