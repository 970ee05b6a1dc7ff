"""8-bit AdamW through bitsandbytes: near AdamW, kept bit for bit, and refused before anything where it is missing."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dail.synth.core.errors import IntegrityError, UsageError
from dail.train import checkpoint
from dail.train.config import TrainConfig
from dail.train.loop import run
from dail.train.optimizers import make_optimizer, state_bytes, state_of
from dail.train.step import update
from tests.train.conftest import MakeManifest
from tests.train.test_loop import interrupt_before, same

ADAMW = TrainConfig(epochs=2, checkpoint_every=2, lora_rank=128, lr=3e-3, dtype="float32")  # 128 × 32: 8-bit moments
EIGHT = ADAMW.model_copy(update={"optimizer": "paged_adamw_8bit"})


def installed() -> None:
    pytest.importorskip("bitsandbytes", reason="dail[bnb] is not installed")


def trained(config: TrainConfig, steps: int = 30) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    """A large and a small weight, a step a second one of which has no gradient for a third."""
    torch.manual_seed(0)
    weights = {"large": nn.Parameter(torch.randn(64, 128)), "small": nn.Parameter(torch.randn(8, 8))}
    weights["rare"] = nn.Parameter(torch.randn(64, 64))
    weights["never"] = nn.Parameter(torch.randn(3))
    optimizer = make_optimizer(weights.values(), config)
    for step in range(steps):
        for name, weight in weights.items():
            if name != "never" and (name != "rare" or step % 2):
                weight.grad = weight.detach() - 1 + 0.1 * torch.randn_like(weight)
        update(optimizer, 1e-2)
    return weights, optimizer


def test_eight_bits_go_where_adamw_goes_and_small_tensors_exactly():
    installed()
    start, _ = trained(ADAMW, 0)
    ours, theirs = trained(EIGHT)[0], trained(ADAMW)[0]
    assert torch.allclose(ours["small"], theirs["small"], atol=1e-6)
    way, error = (theirs["large"] - start["large"]).norm(), (ours["large"] - theirs["large"]).norm()
    assert 0 < error < 0.05 * way


@pytest.mark.parametrize("config", [ADAMW, EIGHT], ids=["adamw", "8bit"])
def test_a_state_is_kept_and_put_back_bit_for_bit(config: TrainConfig, tmp_path: Path):
    """Each weight has its own count of steps, and one that never had a gradient has none."""
    if config is EIGHT:
        installed()
    weights, optimizer = trained(config)
    checkpoint.save(tmp_path, weights, optimizer, 30, "run")
    others, other = trained(config, 0)
    assert checkpoint.restore(tmp_path, others, other, "run") == 30
    for both in (optimizer, other):
        for weight in (weights if both is optimizer else others).values():
            weight.grad = torch.ones_like(weight)
        update(both, 1e-2)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert float(state_of(other, others["rare"])["step"]) == 16
    assert float(state_of(other, others["never"])["step"]) == 1


def test_a_state_of_the_other_optimizer_is_refused(tmp_path: Path):
    installed()
    checkpoint.save(tmp_path, *trained(ADAMW), 30, "run")
    with pytest.raises(IntegrityError, match="is damaged"):
        checkpoint.restore(tmp_path, *trained(EIGHT, 0), "run")


def test_the_forecast_is_what_the_state_takes():
    installed()
    for config in (ADAMW, EIGHT):
        weights, optimizer = trained(config)
        kept = [state_of(optimizer, weight) for weight in weights.values()]
        took = sum(one.numel() * one.element_size() for state in kept for name, one in state.items() if name != "step")
        del weights["never"]
        assert state_bytes(weights.values(), config) == took


def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one_and_warns_of_nothing(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    installed()
    manifest = make_manifest(10)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Paged optimizers")
        unbroken = run(tiny_model, manifest, tmp_path / "unbroken", EIGHT)
        with monkeypatch.context() as patch:
            interrupt_before(patch, 4, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                run(tiny_model, manifest, tmp_path / "stopped", EIGHT)
        resumed = run(tiny_model, manifest, tmp_path / "stopped", EIGHT)
    assert resumed.resumed_at == 2 and same(resumed, unbroken)
    kept = load_file(tmp_path / "stopped" / "checkpoint.safetensors")
    assert any(tensor.dtype == torch.uint8 for tensor in kept.values())
    assert "| optimizer | paged_adamw_8bit |" in (resumed.adapter / "README.md").read_text()
    with pytest.raises(UsageError, match="optimizer paged_adamw_8bit there, adamw here"):
        run(tiny_model, manifest, tmp_path / "stopped", ADAMW)


def test_without_its_package_it_is_refused_before_anything_is_read(
    make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match=r"needs the package bitsandbytes; run: pip install 'dail\[bnb\]'"):
        run(tmp_path / "no model", make_manifest(4), tmp_path / "run", EIGHT)
