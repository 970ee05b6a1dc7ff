"""4-bit frozen weights: losses and gradients of the weights that they stand for, in all three roles."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from dail.synth.core.errors import UsageError
from dail.synth.schema.models import identify
from dail.train.config import TrainConfig
from dail.train.data import load_examples
from dail.train.loading import load_base
from dail.train.loop import compute_references, run
from dail.train.model import load_roles, read_limits
from dail.train.packing import choose_packing
from dail.train.quantising import loading_in_4_bits
from dail.train.step import GradientStep
from tests.conftest import Told
from tests.train.conftest import MakeManifest, changed_model
from tests.train.test_consistency import check, drawn

CPU = torch.device("cpu")
PLAIN = TrainConfig(dtype="float32", lora_rank=4, epochs=1, lr=1e-2)
NF4 = PLAIN.model_copy(update={"quantise": "nf4"})


@pytest.fixture
def bnb():
    return pytest.importorskip("bitsandbytes", reason="dail[bnb] is not installed")


def dequantised(bnb, model: Path, folder: Path) -> Path:
    """A folder with the weights that the 4-bit ones stand for, in float32."""
    base = load_base(model, "float32", loading_in_4_bits("float32", CPU))
    layers = {f"{name}.weight": one for name, one in base.named_modules() if isinstance(one, bnb.nn.Linear4bit)}
    assert len(layers) == 14

    def change(weights: dict[str, torch.Tensor]) -> None:
        for name, layer in layers.items():
            whole = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            weights[name] = whole.detach().reshape(weights[name].shape).contiguous()

    return changed_model(model, folder, change)


@pytest.mark.parametrize("lora", ["lean", "peft"])
def test_losses_and_gradients_are_those_of_the_weights_that_4_bits_stand_for(
    bnb, tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, lora: str
):
    data = load_examples(make_manifest(6), identify(tiny_model), read_limits(tiny_model))
    found = []
    for folder, config in ((tiny_model, NF4), (dequantised(bnb, tiny_model, tmp_path / "whole"), PLAIN)):
        config = config.model_copy(update={"lora": lora})
        roles = choose_packing(load_roles(folder, config, CPU), data.examples)
        assert roles.packs
        with torch.no_grad():
            for name, weight in roles.adapter().items():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
        step = GradientStep(roles, config.model_copy(update={"max_grad_norm": 1e9}), data.mean_trace_tokens)
        figures = step.gradients(data.examples)
        found.append((figures["loss"], {name: weight.grad for name, weight in roles.adapter().items()}))
    (loss, ours), (wanted, theirs) = found
    assert loss == pytest.approx(wanted, rel=1e-4)
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())), name


def test_a_run_trains_resumes_names_its_weights_and_shares_no_cache_with_whole_ones(
    bnb, tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, told: Told
):
    manifest, cache = make_manifest(6), tmp_path / "cache"
    result = run(tiny_model, manifest, tmp_path / "run", NF4.model_copy(update={"epochs": 6}), cache)
    gaps = [json.loads(line)["gap"] for line in result.metrics.read_text().splitlines()]
    assert sum(gaps[-3:]) < 0.9 * sum(gaps[:3])
    assert "of the model's weights are in 4 bits" in told()
    assert "| frozen weights | nf4 (4 bits) |" in (result.adapter / "README.md").read_text()
    with pytest.raises(UsageError, match="dtype float32 on nf4 there, float32 here"):
        compute_references(tiny_model, manifest, cache, PLAIN)


def test_the_rollout_check_allows_4_bits_and_still_sees_another_model(bnb, tiny_model: Path, tmp_path: Path):
    found = check(tmp_path, tiny_model, drawn(tiny_model, tiny_model), NF4)
    assert all(0.05 < one.error < 1 for one in found)
    with pytest.raises(UsageError, match=r"wanted at most 0.3 between"):
        check(tmp_path, tiny_model, drawn(tiny_model, tiny_model), NF4.model_copy(update={"rollout_tolerance": 0.3}))
    other = changed_model(tiny_model, tmp_path / "other", lambda w: w["model.norm.weight"].mul_(-3))
    with pytest.raises(UsageError, match="wanted at most 2 between"):
        check(tmp_path / "wrong", tiny_model, drawn(tiny_model, other), NF4)


def test_it_is_refused_without_its_package_and_with_divided_weights(
    make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match=r"quantise=nf4 needs the package bitsandbytes; .*set quantise=none"):
        run(tmp_path / "no model", make_manifest(4), tmp_path / "run", NF4)


def test_divided_weights_are_refused(bnb, make_manifest: MakeManifest, tmp_path: Path):
    with pytest.raises(UsageError, match="quantise=nf4 and shard_weights=true are not supported together"):
        settings = NF4.model_copy(update={"shard_weights": True})
        run(tmp_path / "no model", make_manifest(4), tmp_path / "run", settings)
