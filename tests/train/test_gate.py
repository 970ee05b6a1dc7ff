"""Each sign of a collapse, planted and absent, and what `dail train` does about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from dail.serve.cli import dail
from dail.synth.core.errors import EXIT_GATE, GateStopped
from dail.synth.schema.models import identify
from dail.train import checkpoint
from dail.train.config import TrainConfig
from dail.train.gate import EntropyWatch, GateConfig, GateRecord, look_at_traces, of_traces
from dail.train.loop import run
from dail.train.record import RunRecord
from dail.train.signals import Counts, count_text
from dail.train.step import GradientStep
from tests.conftest import ROOT, Told
from tests.train.conftest import trace_row, write_manifest

SETTINGS = TrainConfig(epochs=3, lora_rank=4, lr=3e-3, dtype="float32", batch_size=2)
SOLUTIONS = [
    str(json.loads(line)["solution"])
    for name in ("expert_solutions", "olympiad")
    for line in (ROOT / "deploy" / "demo" / f"{name}.jsonl").read_text("utf-8").splitlines()
]
CITES = "According to the reference solution, n is odd, so the remainder is 1."
LOOPS = "so x is 3 and then " * 60

MakeTraces = Callable[[Sequence[str]], Path]


def tripped(texts: Sequence[str], tokens: int = 100, cut: int = 0, **thresholds: float) -> list[str]:
    total = sum((count_text(text, tokens, is_cut=place < cut) for place, text in enumerate(texts)), Counts())
    return [one.name.split(",")[0] for one in of_traces(total, GateConfig(**thresholds)) if one.verdict == "tripped"]


def test_the_demo_s_solutions_trip_nothing():
    assert len(SOLUTIONS) == 146 and tripped(SOLUTIONS) == []


@pytest.mark.parametrize(
    ("faulty", "more", "name"),
    [
        (CITES, {}, "traces that cite a solution or hint"),
        (LOOPS, {}, "traces that go round in a loop"),
        ("", {"tokens": 3}, "tokens of a trace"),
        ("", {"cut": 20, "max_cut_traces": 0.1}, "traces that were cut"),
    ],
)
def test_a_fault_in_one_of_seven_traces_or_in_all_is_seen(faulty: str, more: dict[str, Any], name: str):
    assert tripped([*SOLUTIONS, *([faulty] * 24 if faulty else [])], **more) == [name]


def test_traces_that_repeat_themselves_without_a_loop_in_any_window_trip_the_distinct_ngrams():
    echo = " ".join(f"then w{place % 30} is here" for place in range(300))
    assert tripped([echo] * 20, min_distinct=0.6) == ["distinct 4-grams of the traces"]
    assert tripped([echo] * 20) == []


def test_thresholds_at_their_ends_never_trip():
    ends = {"max_mentions": 1, "max_looping": 1, "min_distinct": 0, "min_trace_tokens": 0, "max_cut_traces": 1}
    assert tripped([CITES, LOOPS, LOOPS], tokens=1, cut=3, **ends) == []


def watched(entropies: Sequence[float | None], **settings: Any) -> EntropyWatch:
    figures = [{} if one is None else {"student_entropy": one} for one in entropies]
    return EntropyWatch(GateConfig(entropy_steps=4, **settings), figures)


def test_an_entropy_that_collapses_trips_and_stays_so_if_it_comes_back():
    falls = [1.0] * 4 + [0.6, 0.3, 0.2, 0.1, 0.1, 0.1]
    signal = watched(falls).signal
    assert signal.verdict == "tripped" and signal.value == pytest.approx(0.125)
    assert "0.125, wanted at least 0.25" in signal.sentence
    assert watched([*falls, 1.0, 1.0, 1.0, 1.0]).signal.value == pytest.approx(0.125)
    assert watched(falls, entropy_floor=0.1).signal.verdict == "ok"
    assert watched(falls, entropy_floor=0).signal.verdict == "ok"


def test_an_entropy_that_wavers_as_the_demo_s_does_trips_nothing():
    wavers = [0.04, 0.05, 0.03, 0.02, 0.05, 0.05, 0.1, 0.05, 0.14, 0.05, 0.03, 0.05, 0.07, 0.07, 0.05, 0.04, 0.02]
    assert watched(wavers).signal.verdict == "ok"


@pytest.mark.parametrize("entropies", [[], [1.0] * 7, [0.0] * 20, [None] * 20], ids=["none", "few", "zero", "unknown"])
def test_what_cannot_be_judged_says_why(entropies: list[float | None]):
    signal = watched(entropies).signal
    assert signal.verdict == "not judged" and "it needs 8 steps that have an entropy" in signal.sentence


def test_steps_without_an_entropy_change_nothing():
    assert watched([1.0, None] * 4 + [0.1, None] * 4).signal == watched([1.0] * 4 + [0.1] * 4).signal


@pytest.fixture
def make_traces(tiny_model: Path, tmp_path: Path) -> MakeTraces:
    model = identify(tiny_model)

    def make(texts: Sequence[str]) -> Path:
        rows = [
            trace_row(
                f"{place:032x}", model, place, trace_text=text, completion=({"role": "assistant", "content": text},)
            )
            for place, text in enumerate(texts)
        ]
        return write_manifest(tmp_path / "shards", model, rows)

    return make


def dail_train(model: Path, manifest: Path, out: Path, *settings: str) -> Result:
    pairs = [part for setting in ("epochs=1", "lora_rank=4", *settings) for part in ("--set", setting)]
    return CliRunner().invoke(
        dail, ["train", *map(str, ("--model", model, "--manifest", manifest, "--out", out)), *pairs]
    )


def test_traces_that_cite_stop_a_run_before_its_first_step_and_another_threshold_goes_on(
    tiny_model: Path, make_traces: MakeTraces, tmp_path: Path
):
    manifest, out = make_traces([*SOLUTIONS[:6], CITES, CITES]), tmp_path / "run"
    stopped = dail_train(tiny_model, manifest, out, "gate.action=stop")
    assert isinstance(stopped.exception, GateStopped) and stopped.exception.exit_code == EXIT_GATE == 6
    said = str(stopped.exception)
    assert (
        "traces that cite a solution or hint, share: 0.25, wanted at most 0.02" in said
        and "nothing was trained" in said
    )
    assert "another threshold of [gate]" in said
    kept = RunRecord.model_validate_json((out / "run.json").read_bytes())
    assert kept.gate and kept.gate.stops and not (out / checkpoint.CHECKPOINT_FILE).exists()
    assert dail_train(tiny_model, manifest, out, "gate.action=stop", "max_mentions=0.3").exit_code == 0
    card = (out / "adapter" / "README.md").read_text("utf-8")
    assert "| gate | no warnings |" in card


def test_a_warning_is_told_and_stands_in_run_json_and_in_the_card(
    tiny_model: Path, make_traces: MakeTraces, tmp_path: Path
):
    result = dail_train(tiny_model, make_traces([CITES, *[LOOPS] * 5]), tmp_path / "run")
    assert result.exit_code == 0 and "warning: gate: traces that cite" in result.stderr
    card = (tmp_path / "run" / "adapter" / "README.md").read_text("utf-8")
    assert "3 warnings: traces that cite a solution or hint, share" in card
    for file in ("run.json", "adapter/dail.json"):
        told = json.loads((tmp_path / "run" / file).read_text("utf-8"))
        assert len(GateRecord.model_validate(told.get("run", told)["gate"]).tripped) == 3


def test_a_gate_that_is_off_reads_nothing(make_traces: MakeTraces, tmp_path: Path, told: Told):
    assert look_at_traces(tmp_path / "nowhere", GateConfig(action="off")) == GateRecord(action="off")
    assert not told()


@pytest.fixture
def collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its fifth step on a run's student has a tenth of its entropy."""
    real = GradientStep.gradients

    def fall(self: GradientStep, batch: Any, step: int = 0, with_kls: bool = True) -> dict[str, float]:
        figures = real(self, batch, step, with_kls)
        return figures | {"student_entropy": 1.0 if step < 4 else 0.1}

    monkeypatch.setattr(GradientStep, "gradients", fall)


@pytest.mark.usefixtures("collapse")
def test_an_entropy_that_falls_stops_a_run_behind_a_step_and_a_rerun_goes_on_to_the_same_adapter(
    tiny_model: Path, make_traces: MakeTraces, tmp_path: Path, told: Told
):
    manifest = make_traces(SOLUTIONS[:8])  # 12 steps
    gate = GateConfig(action="stop", entropy_steps=3)
    stopping = SETTINGS.model_copy(update={"gate": gate})
    # of the first three 1.0 is the mean; of steps 4 to 6 it is 0.4, of 5 to 7 0.1
    with pytest.raises(GateStopped, match=r"0\.1, wanted at least 0\.25.*the state behind step 7 of 12 is kept in"):
        run(tiny_model, manifest, tmp_path / "run", stopping)
    assert checkpoint.steps_done(tmp_path / "run") == 7 and not (tmp_path / "run" / "adapter").exists()
    with pytest.raises(GateStopped, match="step 7 of 12"):
        run(tiny_model, manifest, tmp_path / "run", stopping)
    assert checkpoint.steps_done(tmp_path / "run") == 7
    lower = SETTINGS.model_copy(update={"gate": gate.model_copy(update={"entropy_floor": 0.05})})
    told()
    went_on = run(tiny_model, manifest, tmp_path / "run", lower)
    warned = run(
        tiny_model, manifest, tmp_path / "warned", SETTINGS.model_copy(update={"gate": GateConfig(entropy_steps=3)})
    )
    assert (went_on.steps, went_on.resumed_at) == (12, 7)
    assert told().count("gate: entropy of the student") == 1
    one, other = (load_file(result.adapter / "adapter_model.safetensors") for result in (went_on, warned))
    assert all((one[name] == other[name]).all() for name in one)
