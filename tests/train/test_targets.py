"""Which layers are adapted, on tiny models of many architectures, and what is said of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from dail.synth.core.errors import UsageError
from dail.train.targets import check_gradients, describe, find_targets
from tests.conftest import Told

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}
LATENT = {
    "num_key_value_heads": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
}
LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
QKVO, GATED = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
# configuration, changes of the shape, kinds that are adapted, kinds that are left out by name (but the head)
MODELS: dict[str, tuple[str, dict[str, Any], set[str], set[str]]] = {
    "llama": ("LlamaConfig", {}, QKVO | GATED, set()),
    "qwen2": ("Qwen2Config", {}, QKVO | GATED, set()),
    "gemma2": ("Gemma2Config", {"tie_word_embeddings": True}, QKVO | GATED, set()),
    "phi3": ("Phi3Config", {}, {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}, set()),
    "glm4": ("Glm4Config", {}, QKVO | {"down_proj"}, {"gate_up_proj"}),
    "glm": ("GlmConfig", {}, QKVO | {"gate_up_proj", "down_proj"}, set()),
    "gpt_bigcode": ("GPTBigCodeConfig", {"n_embd": 32, "n_layer": 2, "n_head": 2}, {"c_proj", "c_fc"}, {"c_attn"}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}, QKVO, set()),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {**EXPERTS, "shared_expert_intermediate_size": 16},
        QKVO | GATED,
        {"shared_expert_gate"},
    ),
    "qwen3_moe": ("Qwen3MoeConfig", EXPERTS, QKVO, set()),
    "olmoe": ("OlmoeConfig", {"num_experts": 4}, QKVO, set()),
    "gpt_oss": ("GptOssConfig", {"num_local_experts": 4}, QKVO, set()),
    "granitemoe": ("GraniteMoeConfig", {"num_local_experts": 4}, QKVO, set()),
    "deepseek_v3": (
        "DeepseekV3Config",
        {**ROUTED, **LATENT},
        {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"},
        {"kv_b_proj", *GATED},
    ),
    "glm4_moe": ("Glm4MoeConfig", {**ROUTED, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}, QKVO, GATED),
    "qwen3_next": (
        "Qwen3NextConfig",
        {**EXPERTS, **LINEAR_ATTENTION, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1},
        QKVO | {"in_proj_qkvz", "in_proj_ba", "out_proj"},
        {"shared_expert_gate", *GATED},
    ),
    "jamba": (
        "JambaConfig",
        {
            "num_experts": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_dt_rank": 4,
            "expert_layer_offset": 1,
        },
        QKVO | GATED | {"in_proj", "x_proj", "dt_proj", "out_proj"},
        {"router"},
    ),
    "falcon_h1": (
        "FalconH1Config",
        {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1},
        QKVO | GATED | {"in_proj"},
        {"out_proj"},
    ),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2}, {"c_attn", "c_proj", "c_fc"}, set()),
    "opt": (
        "OPTConfig",
        {"ffn_dim": 48, "word_embed_proj_dim": 32},
        {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
        set(),
    ),
}


def model(name: str, **changes: Any) -> PreTrainedModel:
    configuration, own, *_ = MODELS[name]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, configuration)(**{**SHAPE, **own, **changes}))


def kinds(names: Any) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize("name", MODELS)
def test_all_linear_is_every_layer_that_vllm_can_serve_and_peft_adapts_just_these(name: str):
    base = model(name)
    *_, adapted, left_out = MODELS[name]
    targets = find_targets(base, "all-linear")
    assert kinds(targets.names) == adapted
    assert kinds(found for names in targets.left_out.values() for found in names) == left_out
    peft = get_peft_model(base, LoraConfig(r=2, target_modules=list(targets.names), task_type="CAUSAL_LM"))
    second = [name for name, weight in peft.named_parameters() if weight.requires_grad and ".lora_B." in name]
    assert {name.removeprefix("base_model.model.").partition(".lora_B")[0] for name in second} == {*targets.names}
    assert len(second) == sum(weight.requires_grad for weight in peft.parameters()) / 2


WRONG = {
    "q_porj": r"'q_porj' matches no layer \(near: q_proj",
    "v_prooj": r"near: v_proj",
    "Q_PROJ": r"near: q_proj",
    "query_proj": r"'query_proj' matches no layer",
    "proj": r"'proj' matches no layer",
    "": r"'' matches no layer",
    ".*": r"'\.\*' matches no layer",
    "all_linear": r"near: all-linear",
    "all-linear": r"'all-linear' matches no layer",
    "q_proj.": r"'q_proj\.' matches no layer",
    "attn.q_proj": r"matches no layer \(near: self_attn\.q_proj",
    "self_attn": r"self_attn is a LlamaAttention, no linear layer",
    "mlp": r"mlp is a LlamaMLP, no linear layer",
    "layers": r"layers is a ModuleList, no linear layer",
    "embed_tokens": r"embed_tokens is a Embedding, no linear layer",
    "model.embed_tokens": r"embed_tokens is a Embedding, no linear layer",
    "norm": r"norm is a LlamaRMSNorm, no linear layer",
    "q_proj.weight": r"q_proj\.weight is a weight of its own, no linear layer",
    "model.layers.7.self_attn.q_proj": r"matches no layer",
    "self_atn.q_proj": r"\(near: self_attn\.q_proj",
    "layer.1.self_attn.q_proj": r"\(near: layers\.1\.self_attn\.q_proj",
    "c_attn": r"'c_attn' matches no layer",
}


@pytest.mark.parametrize("target", WRONG)
def test_a_name_that_is_of_no_linear_layer_is_refused_though_others_match(target: str):
    with pytest.raises(UsageError, match=WRONG[target]) as refusal:
        find_targets(model("llama"), ["q_proj", target])
    assert "linear layers here are q_proj × 2, k_proj × 2" in str(refusal.value)


def test_all_wrong_names_are_told_at_once():
    with pytest.raises(UsageError, match=r"'q_porj' matches .*; embed_tokens is .*; 'w1' matches"):
        find_targets(model("llama"), ["q_porj", "down_proj", "embed_tokens", "w1"])


def test_experts_are_named_as_what_they_are():
    with pytest.raises(UsageError, match=r"gate_up_proj is a weight of its own, .*; experts is a Qwen3MoeExperts"):
        find_targets(model("qwen3_moe"), ["gate_up_proj", "experts"])


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("q_proj", [0, 1]),
        ("self_attn.q_proj", [0, 1]),
        ("layers.1.self_attn.q_proj", [1]),
        ("1.self_attn.q_proj", [1]),
        ("model.layers.0.self_attn.q_proj", [0]),
    ],
)
def test_names_are_read_from_their_end_as_peft_does(target: str, wanted: list[int]):
    names = find_targets(model("llama"), [target]).names
    assert list(names) == [f"model.layers.{layer}.self_attn.q_proj" for layer in wanted]


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("qwen2_moe", "shared_expert_gate", "is a router of experts"),
        ("qwen3_next", "shared_expert_gate", "is a router of experts"),
        ("jamba", "router", "is a router of experts"),
        ("deepseek_v3", "kv_b_proj", "is multiplied into the attention's other weights by vLLM"),
        ("deepseek_v3", "down_proj", "has a name that PEFT takes for the experts'"),
        ("glm4_moe", "shared_experts.up_proj", "has a name that PEFT takes for the experts'"),
        ("glm4", "gate_up_proj", "is one layer here and two in vLLM"),
        ("gpt_bigcode", "c_attn", "is cut in another way by vLLM"),
        ("falcon_h1", "out_proj", "is passed by in the kernels of falcon_h1 models"),
        ("gemma2", "lm_head", "is the head, on which vLLM takes no adapter in gemma2 models"),
        ("opt", "lm_head", "is the head"),
    ],
)
def test_what_vllm_cannot_serve_is_refused_where_it_is_named(name: str, target: str, why: str):
    with pytest.raises(
        UsageError, match=rf"lora_targets: {re.escape(target)} {why}.*; leave it out, or set all-linear"
    ):
        find_targets(model(name), [target])


@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen3_moe", "falcon_h1"])
def test_a_head_that_vllm_adapts_may_be_named(name: str):
    assert find_targets(model(name), ["q_proj", "lm_head"]).names[-1] == "lm_head"


def test_a_layer_that_is_used_in_two_places_is_left_out():
    """PEFT would put the adapter into one of them, and the other would stay as it is."""
    base = model("llama")
    layers = base.model.layers
    layers[1].self_attn.q_proj = layers[0].self_attn.q_proj
    targets = find_targets(base, "all-linear")
    assert not any("q_proj" in name for name in targets.names) and any("k_proj" in name for name in targets.names)
    (why,) = targets.left_out
    assert why.startswith("is used in 2 places")


def test_layers_that_share_a_block_are_adapted_once_in_all_places():
    base = model("llama")
    base.model.layers[1].mlp = base.model.layers[0].mlp
    targets = find_targets(base, "all-linear")
    assert not targets.left_out and sum("down_proj" in name for name in targets.names) == 1
    peft = get_peft_model(base, LoraConfig(r=2, target_modules=list(targets.names)))
    layers = peft.get_base_model().model.layers
    assert layers[1].mlp.down_proj is layers[0].mlp.down_proj and hasattr(layers[1].mlp.down_proj, "lora_A")


def test_layers_outside_the_decoder_are_left_out():
    base = model("llama")
    base.tower = nn.Sequential(nn.Linear(4, 4))
    base.tower.q_proj = nn.Linear(4, 4)
    targets = find_targets(base, "all-linear")
    assert targets.left_out == {"lies outside the decoder, which alone reads text": ("tower.0", "tower.q_proj")}
    assert len(find_targets(base, ["q_proj"]).names) == 2
    with pytest.raises(UsageError, match=r"tower\.q_proj lies outside the decoder"):
        find_targets(base, ["tower.q_proj"])


def test_what_is_adapted_and_what_is_not_is_said():
    base = model("qwen2_moe")
    targets = find_targets(base, "all-linear")
    peft = get_peft_model(base, LoraConfig(r=2, target_modules=list(targets.names)))
    first, second, third = describe(peft.get_base_model(), targets)
    trained = sum(weight.numel() for weight in peft.parameters() if weight.requires_grad)
    assert first.startswith(f"the adapter has {trained:,} parameters, on 14 linear layers: q_proj × 2, k_proj × 2")
    weights = {name: weight.numel() for name, weight in model("qwen2_moe").named_parameters()}
    experts = sum(count for name, count in weights.items() if "experts.gate_up_proj" in name)
    assert f"experts (gate_up_proj) {experts / sum(weights.values()):.0%}" in second
    adapted = {f"{name}.{what}" for name in targets.names for what in ("weight", "bias")}
    outside = sum(count for name, count in weights.items() if name not in adapted)
    assert second.startswith(f"without adapter are {outside / sum(weights.values()):.0%} of the model's weights: ")
    assert "lm_head" in second and "embed_tokens" in second and "shared_expert_gate" not in second
    assert re.match(
        r"left out: shared_expert_gate × 2 \(model\.layers\.0\.mlp\.shared_expert_gate, .*\), since it is", third
    )


def test_a_model_of_which_vllm_serves_no_adapter_is_trained_with_a_warning(told: Told):
    assert find_targets(model("opt"), "all-linear").names and "vLLM" not in told()
    assert find_targets(model("gpt2"), ["c_attn"]).names
    assert "vLLM serves no adapters of gpt2 models, so `dail eval` cannot judge this one; merge it" in told()


def gradients(*sizes: float | None) -> dict[str, nn.Parameter]:
    """Of as many layers, with a gradient of that size in the second matrix, and none in the first."""
    found = {}
    for layer, size in enumerate(sizes):
        for which in "AB":
            weight = nn.Parameter(torch.zeros(3, 2))
            weight.grad = None if size is None else torch.full((3, 2), size if which == "B" else 0.0)
            found[f"base_model.model.layers.{layer}.mlp.w{layer}.lora_{which}.default.weight"] = weight
    return found


def test_layers_that_no_gradient_reaches_are_named(told: Told):
    check_gradients(gradients(1.0, None, 1e-30, 0.0), 0)
    said = told()
    assert "in step 1 no gradient reaches 2 of 4 adapted layers" in said
    assert "w1 × 1, w3 × 1 (layers.1.mlp.w1, layers.3.mlp.w3)" in said


def test_where_all_layers_get_a_gradient_nothing_is_said(told: Told):
    check_gradients(gradients(1.0, -1e-20), 3)
    assert "gradient" not in told()


@pytest.mark.parametrize("sizes", [(None, None), (0.0, 0.0), (None, 0.0)])
def test_an_adapter_that_no_gradient_reaches_is_refused(sizes: tuple[float | None, ...]):
    with pytest.raises(UsageError, match="step 4: no gradient reaches the adapter"):
        check_gradients(gradients(*sizes), 3)
