"""Activations computed again: the same gradients, less that is kept, and no dropout that was asleep before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dail.train import memory
from dail.train.config import TrainConfig
from dail.train.data import Example, student_input
from dail.train.live_bytes import LiveBytes
from dail.train.model import Roles, load_roles
from dail.train.recompute import layers_of, recompute, recomputing
from dail.train.step import GradientStep
from tests.conftest import Told
from tests.train.architectures import difference, gradients, save_model, stir
from tests.train.test_model import CPU
from tests.train.test_packing import traces

DROPOUT = {"dropout": 0.5, "attention_dropout": 0.5, "hidden_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}


def loaded(folder: Path, kind: str, **settings: Any) -> Roles:
    save_model(kind, folder, **{name: value for name, value in DROPOUT.items() if name in NAMES.get(kind, ())})
    roles = load_roles(folder, TrainConfig(dtype="float32", lora_rank=4, lora_alpha=4, **settings), CPU)
    stir(roles)
    return roles


NAMES = {
    "opt": ("dropout", "attention_dropout"),
    "falcon": ("hidden_dropout", "attention_dropout"),
    "bloom": ("hidden_dropout", "attention_dropout"),
    "gpt2": ("resid_pdrop", "embd_pdrop"),
}


@pytest.mark.parametrize("kind", [*NAMES, "llama", "rwkv", "mpt"])
def test_gradients_are_those_without_and_dropout_stays_asleep(tmp_path: Path, kind: str):
    roles, batch = loaded(tmp_path, kind), traces(10, 30)
    wanted, training = gradients(roles, batch)[1], {name: one.training for name, one in roles.peft.named_modules()}
    assert recompute(roles) and recompute(roles), "once more changes nothing"
    assert difference(gradients(roles, batch)[1], wanted) < 1e-6
    assert {name: one.training for name, one in roles.peft.named_modules()} == training


@pytest.mark.parametrize("kind", ["llama", "moshi"])
def test_less_lives_at_a_time(tmp_path: Path, kind: str):
    save_model(kind, tmp_path, num_hidden_layers=8)
    roles = load_roles(tmp_path, TrainConfig(dtype="float32", lora_rank=4), CPU)
    batch = student_input(traces(200), CPU)
    peaks = []
    for _ in range(2):
        with LiveBytes([*roles.peft.parameters(), *roles.peft.buffers()]) as live:
            roles.student(batch).sum().backward()
        peaks.append(live.peak)
        roles.peft.zero_grad()
        assert recompute(roles) and len(layers_of(roles)) == 8
    assert peaks[1] < peaks[0] / 2


def test_the_adapter_s_own_dropout_drops_the_same_again(tmp_path: Path):
    roles, batch = loaded(tmp_path, "llama", lora_dropout=0.5), traces(10, 30)
    config = TrainConfig(dtype="float32", lora_dropout=0.5, max_grad_norm=1e9)

    def found() -> dict[str, torch.Tensor]:
        GradientStep(roles, config, 20.0).gradients(batch, step=3)
        gradient = {name: weight.grad.clone() for name, weight in roles.adapter().items() if weight.grad is not None}
        roles.peft.zero_grad()
        return gradient

    wanted = found()
    with recomputing(roles):
        assert difference(found(), wanted) < 1e-6
    assert difference(gradients(roles, batch)[1], wanted) > 0.1, "nothing was dropped"


class _Set:
    """As much of a data set as `memory.fit` reads."""

    def __init__(self, examples: list[Example]) -> None:
        self.examples = tuple(examples)


def test_where_it_cannot_be_done_that_is_said(tmp_path: Path, told: Told):
    """A layer that keeps something between calls does not do the same again."""
    roles, calls = loaded(tmp_path, "llama"), []

    def counting(_: object, __: object, hidden: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return hidden.exp() if len(calls) % 3 else hidden.sin().exp().cos()

    roles.decoder.layers[0].mlp.register_forward_hook(counting)
    config = TrainConfig(dtype="float32", recompute="on")
    memory.fit(GradientStep(roles, config, 20.0), _Set(traces(10, 30)), free=1e12)  # type: ignore[arg-type]
    assert "activations cannot be computed again in llama models" in told()
    gradients(roles, traces(10))
