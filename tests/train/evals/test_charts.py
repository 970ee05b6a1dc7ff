"""What is drawn of many arms: panels by condition, looks that differ, sweeps, and how much a page takes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dail.synth.config import EngineConfig
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.arms import Subject, arms_of
from dail.train.evals.charts import legend_of, looks_of, panels_of, pass_curves, sweeps_of
from dail.train.evals.config import EvalConfig
from dail.train.evals.report import findings, render
from dail.train.evals.results import (
    ArmRef,
    Evaluation,
    Judgement,
    ProblemResult,
    SubjectRef,
    by_group,
    summarise,
)
from tests.conftest import DEMO_MODEL
from tests.train.evals.conftest import NOW

Make = Callable[..., Evaluation]


def problem(number: int, groups: int, arms: Sequence[ArmRef]) -> ProblemResult:
    """Right more often with more budget; 100 tokens at a budget of 1,024, and so on in proportion."""
    judged = {}
    for arm in arms:
        draw = random.Random(f"{arm.name} {number}")
        judged[arm.name] = tuple(
            Judgement(
                sample=sample, correct=draw.random() < (arm.budget or 1024) / 4096, method="exact", extracted="1",
                num_tokens=round((arm.budget or 1024) / 10.24), finish_reason="stop", forced=sample == 0,
            )
            for sample in range(4)
        )  # fmt: skip
    right = {who: sum(one.correct for one in found) for who, found in judged.items()}
    return ProblemResult(id=f"p{number}", group=f"g{number % groups}", answer="1", num_correct=right, judgements=judged)


@pytest.fixture
def make(model: ModelIdentity) -> Make:
    def evaluation(
        num_subjects: int = 1,
        temperatures: tuple[float, ...] = (0.6,),
        budgets: tuple[int, ...] = (),
        groups: int = 1,
        trained_on: str = "",
    ) -> Evaluation:
        subjects = [Subject(f"s{n}", Path(f"m{n}"), model) for n in range(num_subjects)]
        arms = tuple(map(ArmRef.of, arms_of(subjects, temperatures, budgets)))
        config = EvalConfig(
            engine=EngineConfig(model=DEMO_MODEL), samples=4, temperatures=temperatures, budgets=budgets
        )
        problems = tuple(problem(n, groups, arms) for n in range(8))
        known = {one.id for one in problems if one.group == trained_on}
        return Evaluation(
            settings=config, subjects=tuple(map(SubjectRef.of, subjects)), arms=arms, problems_file=None,
            problems_digest="sha256:0", engines=("table",), versions={"dail": "0"}, started_at=NOW, finished_at=NOW,
            groups=by_group(problems, arms, config, known), summary=summarise(problems, "math"), num_same_text={},
            problems=problems,
        )  # fmt: skip

    return evaluation


def names(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    return [(panel.condition, [arm.name for arm in panel.arms]) for panel in panels_of(evaluation)]


def test_subjects_under_one_condition_are_lines_of_one_panel(make: Make):
    assert names(make(3)) == [("", ["s0", "s1", "s2"])]


def test_each_temperature_and_budget_has_a_panel_with_all_subjects(make: Make):
    assert names(make(2, budgets=(512, 1024))) == [
        ("512 tokens of thought", ["s0, 512 tokens", "s1, 512 tokens"]),
        ("1024 tokens of thought", ["s0, 1024 tokens", "s1, 1024 tokens"]),
    ]
    conditions = [condition for condition, _ in names(make(2, (0, 1), (512, 1024)))]
    assert conditions[1:3] == ["temperature 0, 1024 tokens of thought", "temperature 1, 512 tokens of thought"]


def test_of_one_subject_conditions_are_the_lines(make: Make):
    assert names(make(1, (0, 0.5, 1))) == [("", ["s0, temperature 0", "s0, temperature 0.5", "s0, temperature 1"])]
    assert [condition for condition, arms in names(make(1, (0, 1), (8, 16, 32)))] == ["temperature 0", "temperature 1"]


def test_more_subjects_than_there_are_looks_are_spread_with_the_base_in_each(make: Make):
    evaluation = make(10)
    assert [arms for _, arms in names(evaluation)] == [
        ["s0", "s1", "s2", "s3", "s4", "s5", "s6"],
        ["s0", "s7", "s8", "s9"],
    ]


@pytest.mark.parametrize("what", [{"num_subjects": 10}, {"temperatures": tuple(n / 10 for n in range(10))}])
def test_no_two_lines_of_a_panel_look_alike(make: Make, what: dict[str, int]):
    evaluation = make(**what)
    looks = looks_of(evaluation)
    for panel in panels_of(evaluation):
        assert len({looks[arm.name] for arm in panel.arms}) == len(panel.arms)
        assert looks[panel.arms[0].name] == 0


def test_a_few_lines_are_named_in_the_panel_and_more_in_a_legend_above(make: Make):
    few, many = make(3), make(4)
    assert legend_of(few) == {} and legend_of(many) == {"s0": 0, "s1": 1, "s2": 2, "s3": 3}
    shown = {len(one.arms): pass_curves(one, one.groups[0])[0].svg for one in (few, many)}
    assert ">s2</text>" in shown[3] and ">s2</text>" not in shown[4]


def test_budgets_are_swept_over_themselves_and_over_the_tokens_that_were_written(make: Make):
    evaluation = make(2, budgets=(512, 1024, 4096))
    sweeps = sweeps_of(evaluation)
    assert list(sweeps) == ["What more tokens buy"]
    charts = sweeps["What more tokens buy"](evaluation, evaluation.groups[0])
    labels = [re.findall(r'aria-label="([^"]*)"', chart.svg)[0] for chart in charts]
    assert labels == [
        f"pass@{k} of s0 and s1 over {what}, all problems"
        for what in ("budget of thought, tokens", "tokens written, mean")
        for k in (1, 4)
    ]
    assert all(f">{budget}</text>" in charts[0].svg for budget in (512, 1024, 4096))
    # 50, 100 and 400 tokens
    assert all(f">{tokens}</text>" in charts[2].svg for tokens in (50, 100, 400)) and ">512</text>" not in charts[2].svg


def test_temperatures_are_swept_once_for_each_budget(make: Make):
    evaluation = make(2, (0.2, 1.0), (512, 1024))
    charts = sweeps_of(evaluation)["By temperature"](evaluation, evaluation.groups[0])
    assert [chart.condition for chart in charts] == [
        "pass@1, 512 tokens of thought", "pass@4, 512 tokens of thought",
        "pass@1, 1024 tokens of thought", "pass@4, 1024 tokens of thought",
    ]  # fmt: skip
    assert sweeps_of(make(3)) == {}


def test_a_page_shows_a_few_arms_of_many_and_all_problems_alone_and_says_so(make: Make):
    evaluation = make(9, (0.2, 0.6, 1.0), (512, 1024), groups=4)
    assert [arm.name for arm in evaluation.shown_arms] == [f"s{n}, temperature 0.2, 1024 tokens" for n in range(6)]
    html = render(evaluation, {})
    # two panels of nine subjects for each of six conditions
    assert html.count('aria-label="pass@k of') == 2 * 6
    assert "Of all problems alone, since the 5 groups have too many charts" in html
    assert "6 of 54 arms: of each subject, up to six" in html
    assert len(findings(evaluation)) == 5
    few = make(2, groups=4)
    assert render(few, {}).count('aria-label="pass@k of') == 5 and len(few.shown_arms) == 2


def test_a_group_that_was_trained_on_is_told_from_the_others(make: Make):
    html = render(make(2, groups=3, trained_on="g1"), {})
    assert "<h2>Train against test</h2>" in html and '<th scope="col">g1, trained on</th>' in html
    assert "g1, 3 problems, trained on</caption>" in html and '<th scope="col">g2</th>' in html
    assert "Train against test" not in render(make(2, groups=3), {})


def test_the_share_that_a_budget_forced_stands_beside_every_row(make: Make):
    html = render(make(2, budgets=(512, 1024)), {})
    assert html.count('<td data-of="forced, %">25.0</td>') == 4 and html.count('<td data-of="cut, %">0.0</td>') == 4
    assert "forced" not in render(make(2), {})
