"""Forecasts: what autograd really keeps, and a refusal that names a setting that fits."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dail.synth.core.errors import UsageError
from dail.synth.core.machine import main_memory
from dail.synth.schema.models import identify
from dail.train import memory
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, TrainingSet, joined_traces, load_examples, student_input
from dail.train.live_bytes import LiveBytes
from dail.train.loss import nll_loss
from dail.train.model import load_roles
from dail.train.packing import choose_packing
from dail.train.recompute import layers_of, recomputing
from dail.train.step import GradientStep
from tests.conftest import Told
from tests.train.architectures import save_model
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest
from tests.train.test_model import CPU
from tests.train.test_packing import traces


@pytest.fixture
def data(make_manifest: MakeManifest, tiny_model: Path) -> TrainingSet:
    return load_examples(make_manifest(8), identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY))


def scorer(tiny_model: Path, **settings: object) -> GradientStep:
    config = TrainConfig.model_validate({"dtype": "float32", "lora_rank": 2, "token_chunk": 16, **settings})
    return GradientStep(load_roles(tiny_model, config, CPU), config, 15.0)


def truth(of_run: GradientStep, batch: list[Example]) -> float:
    """The most that lives at a time in a step, and the optimizer's moments."""
    with LiveBytes([*of_run.roles.peft.parameters(), *of_run.roles.peft.buffers()]) as live:
        of_run.backward(batch, batch)
    of_run.roles.peft.zero_grad()
    return live.peak + 8 * sum(weight.numel() for weight in of_run.roles.adapter().values())


SHAPES = {  # what takes the memory: attention's scores of all pairs, experts, scans in chunks, masks, plain layers
    "gpt_neox": {}, "gemma2": {}, "bloom": {}, "mixtral": {}, "qwen3_next": {"linear_conv_kernel_dim": 4}, "mamba2": {},
    "mistral": {"sliding_window": 64}, "llama": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "states"), [*((kind, "cached") for kind in SHAPES), *((kind, "live") for kind in ("gemma2", "llama"))]
)
def test_the_forecast_is_what_a_step_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, states: str):
    """Sequences four times as long as the longest piece; never much less, and not much more."""
    monkeypatch.setattr(memory, "_PIECES", (64, 128, 256))
    save_model(
        kind, tmp_path, **SHAPES[kind], **({} if kind in ("bloom", "mamba2") else {"max_position_embeddings": 2048})
    )
    config = TrainConfig(
        dtype="float32",
        lora_rank=2,
        token_chunk=16,
        reference_states=states,
    )
    roles = choose_packing(load_roles(tmp_path, config, CPU), traces(30, 40))
    of_run, batch = GradientStep(roles, config, 700.0), traces(1019, 1019)
    if states == "cached" and roles.folds:
        monkeypatch.setattr(GradientStep, "score", score_alone)
    needs = memory.count(of_run, batch)
    assert 0.8 < needs.of(2 * 1024) / truth(of_run, batch) < 1.5
    again = memory.count(of_run, batch, again=True)
    with recomputing(roles):
        assert 0.8 < again.of(2 * 1024) / truth(of_run, batch) < 1.5


@pytest.mark.parametrize("states", ["cached", "live"])
def test_every_reference_more_is_in_the_forecast(tiny_model: Path, data: TrainingSet, states: str):
    """Cached ones with their hidden states, live ones with their pass; the loss takes the memory of one."""
    names = ("privileged", "negative", "student")
    needs = [
        memory.count(
            scorer(tiny_model, references=dict.fromkeys(names[:num], 1.0), reference_states=states), data.examples
        )
        for num in (1, 2, 3)
    ]
    longest = max(data.examples, key=lambda example: example.student_tokens)
    more = [
        later.of(longest.student_tokens) - one.of(longest.student_tokens) for one, later in itertools.pairwise(needs)
    ]
    assert min(more) >= (0.99 if states == "cached" else 0.0) * len(longest.trace_ids) * 32 * 4
    assert needs[0].fixed == needs[2].fixed or states == "live"


@pytest.mark.parametrize(
    ("settings", "folds"), [({}, True), ({"divergence": "jsd"}, False), ({"reference_states": "live"}, False)]
)
def test_rows_of_logits_of_each_reference_are_forecast_where_nothing_folds(
    tiny_model: Path, data: TrainingSet, settings: dict[str, object], folds: bool
):
    few, many = (memory.count(scorer(tiny_model, token_chunk=chunk, **settings), data.examples) for chunk in (16, 32))
    assert many.fixed - few.fixed == pytest.approx(4 * (5 if folds else 14) * 16 * VOCABULARY)


def score_alone(of_run: GradientStep, batch: list[Example], with_kls: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The student's pass without the references', as where they are read from a cache."""
    hidden_RD = of_run.roles.student(student_input(batch, CPU, of_run.roles.packs))
    return nll_loss(hidden_RD, joined_traces(batch, CPU), of_run.roles.head, of_run.config.token_chunk)


def test_sequences_longer_than_every_piece_grow_by_the_larger_of_line_and_parabola():
    assert memory._through((1, 2, 3), [1.0, 4.0, 9.0], 10) == pytest.approx(100.0)
    assert memory._through((1, 2), [3.0, 5.0], 10) == pytest.approx(21.0)


def test_a_run_that_fits_says_what_it_needs(tiny_model: Path, data: TrainingSet, told: Told):
    memory.fit(scorer(tiny_model), data)
    said = told()
    assert "memory: " in said and "GiB of weights" in said and "again" not in said


def limits(of_run: GradientStep, data: TrainingSet) -> tuple[int, memory.Needs]:
    return max(example.student_tokens for example in data.examples), memory.count(of_run, data.examples)


def test_activations_are_computed_again_where_memory_is_short(tiny_model: Path, data: TrainingSet, told: Told):
    of_run = scorer(tiny_model)
    _, needs = limits(of_run, data)
    tokens = sum(sorted(example.student_tokens for example in data.examples)[-of_run.config.batch_size :])
    memory.fit(of_run, data, free=needs.of(tokens) - 1)
    assert "computed again in the backward pass" in told()
    assert all(layer.forward.__class__.__module__ == "dail.train.recompute" for layer in layers_of(of_run.roles))


def test_a_run_that_does_not_fit_is_refused_with_the_number_that_would(tiny_model: Path, data: TrainingSet):
    of_run = scorer(tiny_model, recompute="off")
    longest, needs = limits(of_run, data)
    with pytest.raises(UsageError, match=rf"set microbatch_tokens={longest + 1}$"):
        memory.fit(of_run, data, free=needs.of(longest + 1) + 1)
    with pytest.raises(UsageError, match=r"set recompute=on and microbatch_tokens=\d+$"):
        memory.fit(of_run, data, free=needs.of(longest) - 1000)
    with pytest.raises(UsageError, match=r"no microbatch_tokens would do: set token_chunk lower \(now 16\)"):
        memory.fit(of_run, data, free=needs.fixed)


def test_the_number_that_is_named_does_fit(tiny_model: Path, data: TrainingSet):
    longest, needs = limits(scorer(tiny_model), data)
    free = needs.of(longest + 1) + 1
    memory.fit(scorer(tiny_model, recompute="off", microbatch_tokens=longest + 1), data, free=free)


def test_the_time_that_is_left_leaves_no_gradient(tiny_model: Path, data: TrainingSet, told: Told):
    of_run = scorer(tiny_model)
    memory.time_left(of_run, data, done=3, total=10)
    assert "time: about " in (said := told()) and "for 7 steps" in said
    assert all(weight.grad is None for weight in of_run.roles.adapter().values())
    memory.time_left(of_run, data, done=10, total=10)
    assert not told()


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_for_people(seconds: float, text: str):
    assert memory._duration(seconds) == text


def test_memory_of_a_container_does_not_count_files_that_were_read(tmp_path: Path):
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 800 kB\n")
    assert main_memory(tmp_path, tmp_path / "meminfo") == (1024000, 819200)
    (tmp_path / "memory.max").write_text("600000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\ninactive_file 350000\n")
    assert main_memory(tmp_path, tmp_path / "meminfo") == (600000, 450000)
    (tmp_path / "memory.max").write_text("max\n")
    assert main_memory(tmp_path, tmp_path / "meminfo") == (1024000, 819200)


def test_out_of_memory_names_the_settings_that_take_less(
    tiny_model: Path, data: TrainingSet, monkeypatch: pytest.MonkeyPatch
):
    of_run = scorer(tiny_model)

    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GradientStep, "score", full)
    with pytest.raises(Exception, match=r"lower microbatch_tokens \(now 4096\) or token_chunk \(now 16\), or set rec"):
        of_run.gradients(data.examples[:4])
