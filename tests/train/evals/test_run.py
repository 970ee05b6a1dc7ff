"""Sampling base and adapter, judging, and reusing what was drawn."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dail.synth.config import EngineConfig
from dail.synth.core.errors import EngineDead, UsageError
from dail.synth.engine.base import Engine, TokenSequence
from dail.synth.method.prompts import Prompts
from dail.synth.schema.models import identify
from dail.train.evals import evaluation
from dail.train.evals.arms import Subject, arms_of
from dail.train.evals.config import EvalConfig
from dail.train.evals.lineage import Adapter
from dail.train.evals.problems import EvalProblem
from dail.train.evals.results import Evaluation
from dail.train.evals.run import Judged, MakeEngine, evaluate
from tests.conftest import DEMO_MODEL, Told
from tests.train.evals.conftest import TableEngine

PROBLEMS = [EvalProblem(id=f"p{number}", problem=f"Say {number}.", answer=str(number)) for number in range(3)]
Answer = Callable[[TokenSequence], Sequence[int]]


@pytest.fixture
def right_with_adapter(prompts: Prompts) -> Answer:
    """The base model says 7 to everything; the adapter knows every answer."""

    def answer(row: TokenSequence) -> Sequence[int]:
        problem = next(p for p in PROBLEMS if prompts.student_ids(p.problem) == list(row.prompt_ids))
        said = problem.answer if row.adapter else "7"
        return [*prompts.tokenizer.encode(rf"So \boxed{{{said}}}.", add_special_tokens=False), *prompts.stop_ids]

    return answer


def config(**changes: Any) -> EvalConfig:
    return EvalConfig(engine=EngineConfig(model=DEMO_MODEL), **({"samples": 4, "max_tokens": 50} | changes))


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    return Adapter(tmp_path / "adapter", rank=4, digest="sha256:a")


def judge(
    config: EvalConfig, problems: list[EvalProblem], adapter: Adapter | None, path: Path, make_engine: MakeEngine
) -> list[Judged]:
    """Base alone, or base and adapter."""
    base = Subject("base", DEMO_MODEL, identify(DEMO_MODEL))
    subjects = [base, *([replace(base, name="adapter", adapter=adapter)] if adapter else [])]
    return evaluate(config, problems, arms_of(subjects, config.drawn_at, config.budgets), path, make_engine)


class Maker:
    """Makes one engine and remembers how often it was asked."""

    def __init__(self, engine: TableEngine) -> None:
        self.engine = engine
        self.ranks: list[int | None] = []

    def __call__(self, config: EngineConfig, adapter_rank: int | None) -> Engine:
        self.ranks.append(adapter_rank)
        return self.engine


def test_base_and_adapter_are_judged_in_one_engine(
    tmp_path: Path, adapter: Adapter, right_with_adapter: Answer
) -> None:
    maker = Maker(TableEngine(right_with_adapter))
    judged = judge(config(), PROBLEMS, adapter, tmp_path / "s.jsonl", maker)
    assert {(one.completion.arm, one.verdict.correct) for one in judged} == {("base", False), ("adapter", True)}
    assert (len(judged), maker.ranks, maker.engine.is_closed) == (24, [4], True)
    assert {row.adapter for row in maker.engine.asked} == {None, str(adapter.folder)}


def test_base_and_adapter_never_share_a_step(tmp_path: Path, adapter: Adapter, right_with_adapter: Answer) -> None:
    engine = TableEngine(right_with_adapter, rows=64)  # room for all 24; it refuses to hold both
    judge(config(), PROBLEMS, adapter, tmp_path / "s.jsonl", Maker(engine))
    assert [bool(row.adapter) for row in engine.asked] == [False] * 12 + [True] * 12


def test_the_engine_never_holds_more_rows_than_it_can_step(tmp_path: Path, right_with_adapter: Answer) -> None:
    engine = TableEngine(right_with_adapter, rows=4)
    judge(config(), PROBLEMS, None, tmp_path / "s.jsonl", Maker(engine))
    assert engine.most_inside == 4


def test_seeds_differ_between_samples_and_agree_between_base_and_adapter(
    tmp_path: Path, adapter: Adapter, right_with_adapter: Answer
) -> None:
    engine = TableEngine(right_with_adapter)
    judge(config(), PROBLEMS, adapter, tmp_path / "s.jsonl", Maker(engine))
    base = [row.seed for row in engine.asked if row.adapter is None]
    assert len(set(base)) == 12
    assert sorted(base) == sorted(row.seed for row in engine.asked if row.adapter)


def test_a_rerun_draws_nothing_and_starts_no_engine(tmp_path: Path, right_with_adapter: Answer, told: Told) -> None:
    maker = Maker(TableEngine(right_with_adapter))
    first = judge(config(), PROBLEMS, None, tmp_path / "s.jsonl", maker)
    told()
    assert judge(config(), PROBLEMS, None, tmp_path / "s.jsonl", maker) == first
    assert len(maker.ranks) == 1
    assert "reusing 12 of 12 completions" in told()


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, right_with_adapter: Answer) -> None:
    class Dying(TableEngine):
        def step(self) -> list[Any]:
            if len(self.asked) == 9:
                raise EngineDead("the engine died")
            return super().step()

    with pytest.raises(EngineDead):
        judge(config(), PROBLEMS, None, tmp_path / "s.jsonl", Maker(Dying(right_with_adapter)))
    with open(tmp_path / "s.jsonl", "a") as torn:
        torn.write('{"key": "0')
    engine = TableEngine(right_with_adapter)
    judged = judge(config(), PROBLEMS, None, tmp_path / "s.jsonl", Maker(engine))
    assert len(engine.asked) == 12 - 5
    assert [one.completion.sample for one in judged] == [0, 1, 2, 3] * 3


def test_a_last_line_without_its_end_does_not_swallow_the_next(tmp_path: Path, right_with_adapter: Answer) -> None:
    path = tmp_path / "s.jsonl"
    judge(config(samples=1), PROBLEMS, None, path, Maker(TableEngine(right_with_adapter)))
    path.write_text(path.read_text().rstrip("\n"))
    judge(config(samples=2), PROBLEMS, None, path, Maker(TableEngine(right_with_adapter)))
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 6


def test_more_samples_keep_those_there_are(tmp_path: Path, right_with_adapter: Answer) -> None:
    judge(config(samples=2), PROBLEMS, None, tmp_path / "s.jsonl", Maker(TableEngine(right_with_adapter)))
    engine = TableEngine(right_with_adapter)
    judge(config(samples=4), PROBLEMS, None, tmp_path / "s.jsonl", Maker(engine))
    assert len(engine.asked) == 6


@pytest.mark.parametrize("change", [{"temperature": 1.0}, {"seed": 1}, {"max_tokens": 51}])
def test_other_settings_start_clean_and_keep_the_old_file(
    tmp_path: Path, right_with_adapter: Answer, change: dict[str, Any],
    told: Told,
) -> None:  # fmt: skip
    path = tmp_path / "samples.jsonl"
    judge(config(), PROBLEMS, None, path, Maker(TableEngine(right_with_adapter)))
    old = path.read_text()
    engine = TableEngine(right_with_adapter)
    judge(config(**change), PROBLEMS, None, path, Maker(engine))
    assert len(engine.asked) == 12
    (aside,) = tmp_path.glob("samples-until-*.jsonl")
    assert aside.read_text() == old
    assert "12 of 12 completions in samples.jsonl were drawn with other settings" in told()


def test_another_adapter_keeps_what_the_base_model_said(
    tmp_path: Path, adapter: Adapter, right_with_adapter: Answer
) -> None:
    path = tmp_path / "s.jsonl"
    judge(config(), PROBLEMS, adapter, path, Maker(TableEngine(right_with_adapter)))
    other = Adapter(tmp_path / "other", rank=8, digest="sha256:b")
    engine = TableEngine(right_with_adapter)
    judge(config(), PROBLEMS, other, path, Maker(engine))
    assert {row.adapter for row in engine.asked} == {str(other.folder)}


def test_an_odd_line_separator_in_a_completion_is_no_new_line(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    judge(config(samples=1), PROBLEMS[:1], None, path, Maker(TableEngine(lambda row: [40, 41])))
    line = json.loads(path.read_text())
    path.write_text(json.dumps(line | {"text": "a\u2028b\x85c"}, ensure_ascii=False) + "\n", "utf-8")

    def no_engine(config: EngineConfig, rank: int | None) -> Engine:
        raise AssertionError("nothing is left to draw")

    (judged,) = judge(config(samples=1), PROBLEMS[:1], None, path, no_engine)
    assert isinstance(judged, Judged) and judged.completion.text == "a\u2028b\x85c"


def test_a_prompt_that_leaves_no_room_is_named_before_anything_is_drawn(
    tmp_path: Path, right_with_adapter: Answer
) -> None:
    engine = TableEngine(right_with_adapter, model_tokens=60)
    with pytest.raises(UsageError, match=r"problem p0: its prompt has \d+ tokens.*lower --max-tokens"):
        judge(config(), PROBLEMS, None, tmp_path / "s.jsonl", Maker(engine))
    assert engine.asked == [] and engine.is_closed


def test_without_a_limit_a_completion_may_fill_the_context(tmp_path: Path, right_with_adapter: Answer) -> None:
    engine = TableEngine(right_with_adapter, model_tokens=640)
    judge(config(max_tokens=None), PROBLEMS, None, tmp_path / "s.jsonl", Maker(engine))
    assert {len(row.prompt_ids) + row.max_tokens for row in engine.asked} == {640}


def test_a_completion_of_a_prompt_that_opened_the_thought_is_judged_behind_it(tmp_path: Path, prompts: Prompts) -> None:
    """A thought that was cut at `maybe \\boxed{0}? no` is no answer, though no mark of it is in the completion."""

    def answer(row: TokenSequence) -> Sequence[int]:
        text = prompts.tokenizer.decode(row.prompt_ids)
        said = r"maybe \boxed{0}? no" if "Say 0." in text else r"hm</think> So \boxed{1}."
        return [*prompts.tokenizer.encode(said, add_special_tokens=False), *prompts.stop_ids]

    opened = config(samples=1, opening="<think>\n")
    judged = judge(opened, PROBLEMS[:2], None, tmp_path / "s.jsonl", Maker(TableEngine(answer)))
    assert [(one.verdict.correct, one.verdict.method) for one in judged] == [(False, "cut in thought"), (True, "exact")]


def test_an_evaluation_whose_template_prints_the_date_goes_on_as_of_the_day_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}: {{ messages[-1].content }}")

    def run(day: int, samples: int) -> Evaluation:
        date = SimpleNamespace(today=lambda: dt.date(2026, 11, day))
        monkeypatch.setattr(evaluation, "dt", SimpleNamespace(date=date, datetime=dt.datetime, UTC=dt.UTC))
        asked = EvalConfig(engine=EngineConfig(model=folder, kind="fake"), samples=samples, max_tokens=8)
        return evaluation.evaluate(PROBLEMS[:1], tmp_path / "out", config=asked)

    assert run(25, 2).settings.date == dt.date(2026, 11, 25)
    first = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    assert run(26, 3).settings.date == dt.date(2026, 11, 25)
    assert (tmp_path / "out" / "samples.jsonl").read_text().splitlines()[:2] == first
