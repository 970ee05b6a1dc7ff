"""A model folder is loaded whole, as it is, or refused by name: nothing is made up, left out or run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from dail.synth.core.errors import UsageError
from dail.train.loading import load_base, read_config
from tests.conftest import Told
from tests.train.conftest import Weights, changed_model

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def changed(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """`changed(weights, **config)`: the tiny model with its weights passed through a function, and other settings."""

    def make(change: Callable[[Weights], object] = lambda weights: None, **settings: object) -> Path:
        return changed_model(tiny_model, tmp_path / "changed", change, **settings)

    return make


def test_a_whole_model_loads_as_it_is(tiny_model: Path):
    ours = load_base(tiny_model, "float32").state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def longer(weights: Weights) -> None:
    weights[UP.replace("layers.1", "layers.2")] = weights[UP].clone()


def biased(weights: Weights) -> None:
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)


def coded(weights: Weights) -> None:
    weights[UP] = weights[UP].to(torch.float8_e4m3fn)


def packed_by_four_bits(weights: Weights) -> None:
    del weights[UP]
    weights[UP.replace("weight", "qweight")] = torch.zeros(8, 32, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda w: w.pop(UP), {}, rf"lacks weights that a qwen3 model has: {UP}; they would be made up"),
        (lambda w: w.pop("model.norm.weight"), {}, "lacks weights.*model.norm.weight"),
        (lambda w: w.pop("model.embed_tokens.weight"), {}, "lacks weights.*embed_tokens"),
        (lambda w: None, {"tie_word_embeddings": False}, "lacks weights.*lm_head.weight"),
        (lambda w: None, {"num_hidden_layers": 3, "layer_types": None}, "lacks weights.*layers.2"),
        (lambda w: None, {"num_hidden_layers": 3}, "num_hidden_layers"),
        (lambda w: None, {"num_hidden_layers": 1, "layer_types": None}, "no place for: model.layers.1"),
        (longer, {}, "no place for: model.layers.2.mlp.up_proj.weight; the model would be another one"),
        (biased, {}, "no place for: model.layers.0.self_attn.q_proj.bias"),
        (lambda w: w.update({UP: torch.zeros(63, 32)}), {}, rf"{UP} \[63, 32\] instead of \[64, 32\]"),
        (lambda w: None, {"intermediate_size": 48}, r"down_proj.weight \[32, 64\] instead of \[32, 48\]"),
        (lambda w: w[UP].view(-1)[5:6].fill_(float("nan")), {}, f"not finite as float32: {UP}"),
        (lambda w: w["model.norm.weight"].fill_(float("inf")), {}, "not finite.*model.norm.weight"),
        (coded, {}, f"no number by itself: {UP}"),
        (packed_by_four_bits, {}, "qweight"),
        (lambda w: None, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\)"),
        (lambda w: None, {"quantization_config": {"quant_method": "fp8"}}, r"quantised \(fp8\)"),
    ],
)  # fmt: skip
def test_a_model_that_would_be_another_one_is_refused_by_name(
    changed: Callable[..., Path], change: Callable[[Weights], object], settings: dict[str, object], message: str
):
    with pytest.raises(UsageError, match=message) as refused:
        load_base(changed(change, **settings), "float32")
    assert len(str(refused.value)) < 900


def test_weights_that_overflow_are_refused_in_the_type_in_which_they_do(changed: Callable[..., Path]):
    folder = changed(lambda weights: weights[UP].view(-1)[:1].fill_(1e6))
    load_base(folder, "bfloat16")
    with pytest.raises(UsageError, match="not finite as float16"):
        load_base(folder, "float16")


def test_parts_beside_the_model_are_left_out_and_said(changed: Callable[..., Path], told: Told):
    load_base(changed(lambda weights: weights.update({"mtp.head.weight": torch.zeros(4, 4)})), "float32")
    assert "makes no use of: mtp.head.weight" in told()


def test_an_expert_that_is_missing_is_not_made_up(tmp_path: Path):
    config = AutoConfig.for_model(
        "mixtral", vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    expert = next(name for name in weights if ".experts.2." in name)
    del weights[expert]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=rf"lacks weights of experts: {expert}; they would be made up"):
        load_base(tmp_path, "float32")


def test_masks_that_gpt2_once_saved_are_no_weights(tmp_path: Path):
    config = AutoConfig.for_model("gpt2", vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
    weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    ours = load_base(tmp_path, "float32").state_dict()
    assert torch.equal(ours["transformer.h.0.attn.c_attn.weight"], weights["transformer.h.0.attn.c_attn.weight"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_act": "foo"}, "KeyError 'foo'"),
        ({"rope_parameters": {"rope_type": "bla", "rope_theta": 1e4}}, "'bla'"),
        ({"pad_token_id": 10**6}, "Padding_idx must be within"),
    ],
)
def test_a_setting_that_no_model_can_be_made_with_is_no_traceback(
    changed: Callable[..., Path], settings: dict[str, object], message: str
):
    with pytest.raises(UsageError, match=f"config.json, or the index beside it.*{message}.*restore both"):
        load_base(changed(**settings), "float32")


def test_an_index_without_its_map_is_no_traceback(tiny_model: Path, tmp_path: Path):
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UsageError, match=r"index beside it.*KeyError 'weight_map'"):
        load_base(tmp_path, "float32")


@pytest.mark.parametrize("kind", ["my_model", "qwen3"])
def test_code_of_the_folder_is_never_run_and_nobody_is_asked(
    changed: Callable[..., Path], kind: str, monkeypatch: pytest.MonkeyPatch
):
    names = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    folder = changed(model_type=kind, auto_map=names)
    ran = folder / "ran"
    (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.setattr(sys, "stdin", None)  # whoever asks fails
    if kind == "qwen3":  # transformers' own class is taken
        load_base(folder, "float32")
    else:
        with pytest.raises(UsageError, match=r"brings code of its own .* never run"):
            read_config(folder)
    assert not ran.exists()
