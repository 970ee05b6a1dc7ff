"""Every causal language model that transformers knows, small and random, held against an oracle in float64.

    python -m tests.train.architectures            # writes the table of train/ARCHITECTURES.md
    python -m tests.train.architectures gemma2     # prints one line for each that is named

The oracle is plain transformers and plain PEFT: eager attention, each sequence alone, the paper's loss by autograd.
"""

from __future__ import annotations

import logging
import random
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dail.synth.core.errors import UsageError
from dail.train.config import TrainConfig
from dail.train.data import Example
from dail.train.model import Roles, check_roles, load_roles
from dail.train.packing import choose_packing
from dail.train.recompute import recomputing
from dail.train.step import GradientStep

VOCABULARY, WINDOW = 97, 16
CPU = torch.device("cpu")
# Relative, of loss and gradient in float32. Where rounding is more, float64 decides, in which some still compute parts
# in float32.
LIMIT, WIDE_LIMIT = 1e-5, 1e-5
TABLE = Path(__file__).parent.parent.parent / "train" / "ARCHITECTURES.md"
KINDS = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

# Fields of configurations, where there are such; windows are shorter than the sequences, caps low enough to be felt.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "sep_token_id": 2,
    "tie_word_embeddings": False, "sliding_window": WINDOW, "attention_chunk_size": WINDOW,
    "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "num_experts_per_token": 2,
    "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_ctx": 256, "n_inner": 48,
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "ffn_dim": 48,
    "word_embed_proj_dim": 32, "num_layers": 2, "num_heads": 4, "n_layers": 2, "n_heads": 4, "max_seq_len": 256,
    "rotary_dim": 8, "state_size": 8, "ssm_state_size": 8, "expand": 2, "time_step_rank": 4, "chunk_size": 16,
    "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_heads": 8, "mamba_d_head": 8,
    "mamba_num_heads": 8, "mamba_head_dim": 8, "mamba_dt_rank": 4, "mamba_n_groups": 1, "mamba_chunk_size": 16,
    "n_groups": 1, "conv_L_cache": 3, "block_ff_dim": 48, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "embedding_size": 32, "attention_hidden_size": 32,
    "lru_width": 32, "attention_window_size": WINDOW, "ffn_hidden_size": 48, "expert_intermediate_size": 24,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0,
    "index_n_heads": 2, "index_head_dim": 8, "index_topk": WINDOW, "dim_model": 32, "num_mem_blocks": 1,
    "moe_num_experts": 4, "moe_k": 2, "type_vocab_size": 2, "max_target_positions": 256, "qk_head_dim": 16,
    "moe_topk": 2, "is_decoder": True, "rope_theta": 10_000.0,
}  # fmt: skip
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
THREE_ROPES = {**PLAIN_ROPE, "mrope_section": [1, 1, 2]}
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 32,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0], "short_mscale": 1.1, "long_mscale": 1.3,
}  # fmt: skip
INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": WINDOW,
           "indexer_compress_ratio": 4}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), THREE_ROPES)},
    "dbrx": {"d_model": 32, "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
             "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"activation_sparsity_pattern": [0.5, 0.0], "num_hidden_layers": 2, "laurel_rank": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": WINDOW},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "phi3": {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 32},
    "phimoe": {"rope_parameters": LONG_ROPE},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen4_exp": INDEXER,
    "qwen4_exp_text": INDEXER,
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "mamba_dt_rank": 4},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
               "num_mem_blocks": 2, "attention_hidden_size": 64, "attention_head_dim": 16, "mamba_headdim": 8,
               "mamba_ngroups": 1},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
# Trained by nobody as decoders, or never built small; each with the reason.
LEFT_OUT: dict[str, str] = {
    "blt": "bytes in patches that a second model chooses",
    "gemma3n": "its text model is gemma3n_text; with the vision tower it needs timm",
    "gemma4_assistant": "drafts for another model",
    "gemma4_unified_assistant": "drafts for another model",
    "musicgen": "makes audio",
    "musicgen_melody": "makes audio",
    "phi4_multimodal": "its towers cannot be made small",
    "prophetnet": "decoder of an encoder",
    "reformer": "its reversible layers hide gradients from autograd",
    "xlnet": "reads sequences in other orders",
    "xglm": "transformers' own plain attention fails in float64",
}


@dataclass(frozen=True)
class Outcome:
    """Of one architecture. `error`: relative, the larger of loss and gradient."""

    kind: str
    result: str
    error: float | None = None
    why: str = ""
    recomputed: float | None = None


def tiny(kind: str, **settings: Any) -> Any:
    """Its configuration with everything small; one layer of each sort that it has, two at least."""
    default = AutoConfig.for_model(kind)
    text = default.get_text_config()
    values = {name: value for name, value in SMALL.items() if settable(text, name)}
    if "kv_lora_rank" in values:
        values["num_key_value_heads"] = values["num_attention_heads"]
    sorts = list(dict.fromkeys(getattr(text, "layer_types", None) or ()))
    if len(sorts) > 1 and settable(text, "layer_types") and "layers_block_type" not in OWN.get(kind, {}):
        values |= {"layer_types": sorts, "num_hidden_layers": len(sorts)}
    values |= OWN.get(kind, {}) | settings
    if text is default:
        return AutoConfig.for_model(kind, **values)
    name = next(name for name in default.sub_configs if getattr(default, name) is text)
    return AutoConfig.for_model(kind, **{name: {"model_type": text.model_type, **values}})


def settable(config: Any, name: str) -> bool:
    found = getattr(type(config), name, None)
    if isinstance(found, property) and found.fset is None:
        return False
    return name == "head_dim" or getattr(config, name, None) is not None


def save_model(kind: str, folder: Path, **settings: Any) -> None:
    """Random weights of which each layer's output is as large as its input, so that an error shows."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(tiny(kind, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=1.3 / parameter.shape[-1] ** 0.5)
            else:
                parameter.nan_to_num_().add_(0.2 * torch.randn_like(parameter))
    for embedding in {model.get_input_embeddings()}:
        torch.nn.init.normal_(embedding.weight)
    model.save_pretrained(folder)


def examples(seed: int = 0, count: int = 4) -> list[Example]:
    """Traces of 3 to 40 tokens in contexts of 3 to 25."""
    draw = random.Random(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, VOCABULARY) for _ in range(draw.randint(low, high)))

    rows = [Example(str(i), ids(3, 8), ids(10, 25), ids(5, 15), ids(*((3, 12), (25, 40))[i % 2])) for i in range(count)]
    return rows


def stir(roles: Roles) -> None:
    """Gives the adapter weights under which it changes the model, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in roles.adapter().values():
            weight.normal_(std=0.2)


def gradients(roles: Roles, batch: list[Example], tokens: int = 4096) -> tuple[float, dict[str, Tensor]]:
    config = TrainConfig(dtype="float32", max_grad_norm=1e9, batch_size=len(batch), microbatch_tokens=tokens)
    mean = sum(len(example.trace_ids) for example in batch) / len(batch)
    figures = GradientStep(roles, config, mean).gradients(batch)
    found = {name: weight.grad.clone() for name, weight in roles.adapter().items() if weight.grad is not None}
    roles.peft.zero_grad()
    return figures["loss"], found


def oracle(folder: Path, roles: Roles, batch: list[Example]) -> tuple[float, dict[str, Tensor]]:
    base = plain_experts(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager"))
    ours = roles.peft.peft_config["default"]
    lora = deepcopy(ours)
    lora._custom_modules = None  # PEFT's own layers
    lora.target_parameters = ours.target_parameters  # the same object, since a set's order says which wraps which
    model = get_peft_model(base, lora, autocast_adapter_dtype=False).double().eval()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert weights.keys() == roles.adapter().keys()
    with torch.no_grad():
        for name, weight in roles.adapter().items():
            weights[name].copy_(weight)
    tokens = sum(len(example.trace_ids) for example in batch)
    total = torch.zeros((), dtype=torch.float64)

    def log_p(prompt: tuple[int, ...], trace: tuple[int, ...]) -> Tensor:
        with fresh_rope(model):
            logits = model(input_ids=torch.tensor([[*prompt, *trace]]), use_cache=False).logits[0]
        return logits[len(prompt) - 1 : len(prompt) + len(trace) - 1].log_softmax(-1)

    for example in batch:
        log_s = log_p(example.student_prompt_ids, example.trace_ids)
        with torch.no_grad(), model.disable_adapter():
            log_q = log_p(example.privileged_prompt_ids, example.trace_ids)
            log_n = log_p(example.negative_prompt_ids, example.trace_ids)
        total = total + (log_s.exp() * ((log_s - log_q) - 0.1 * (log_s - log_n))).sum()
    loss = total / tokens
    loss.backward()
    return float(loss.detach()), {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


def plain_experts(model: Any) -> Any:
    """Experts one after the other; the product of groups knows no float64."""
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    return model


@contextmanager
def fresh_rope(model: Any) -> Iterator[None]:
    """Rotary embeddings that remember lengths forget them."""
    before = {module: dict(vars(module)) for module in model.modules() if hasattr(module, "rope_type")}
    buffers = {module: dict(module._buffers) for module in before}
    yield
    for module, state in before.items():
        vars(module).clear()
        vars(module).update(state)
        vars(module)["_buffers"] = buffers[module]


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Of all gradients taken together, relative to the oracle's."""
    names = ours.keys() | theirs.keys()
    zero = torch.zeros(())
    apart = sum(float((ours.get(n, zero).double() - theirs.get(n, zero)).square().sum()) for n in names)
    return (apart / sum(float(gradient.double().square().sum()) for gradient in theirs.values())) ** 0.5


def held(kind: str, folder: Path, seed: int = 0, packing: str = "auto", **settings: Any) -> Outcome:
    """One architecture through load, checks, choice of packing, a step and the same recomputed.

    Raises:
        UsageError: refused before step 1.
    """
    save_model(kind, folder, **settings)
    config = TrainConfig(dtype="float32", lora_rank=4, lora_alpha=4)
    batch = examples(seed)
    roles = load_roles(folder, config, CPU)
    check_roles(roles, batch[0])
    said = Said()
    logger = logging.getLogger("dail.train.packing")
    logger.setLevel(logging.INFO)
    logger.addHandler(said)
    try:
        roles = choose_packing(roles, batch, packing)  # type: ignore[arg-type]
    finally:
        logger.removeHandler(said)
    stir(roles)
    wanted_loss, wanted = oracle(folder, roles, batch)
    loss, found = gradients(roles, batch)
    error = max(abs(loss - wanted_loss) / abs(wanted_loss), difference(found, wanted))
    if error > LIMIT:
        roles.peft.double()
        plain_experts(roles.peft.get_base_model())
        loss, wide = gradients(roles, batch)
        exact = max(abs(loss - wanted_loss) / abs(wanted_loss), difference(wide, wanted))
        error = exact if exact < WIDE_LIMIT and error < 1e-2 else error
        found = wide
    with recomputing(roles) as can:
        again = difference(gradients(roles, batch)[1], found) if can else None
    way = "packed" if roles.packs else "one by one" if roles.alone else "padded"
    return Outcome(kind, way, error, said.text, again)


class Said(logging.Handler):
    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage()


def outcome(kind: str) -> Outcome:
    if kind in LEFT_OUT:
        return Outcome(kind, "not tried", why=LEFT_OUT[kind])
    with tempfile.TemporaryDirectory() as folder:
        try:
            with at_most(200):
                return held(kind, Path(folder))
        except UsageError as error:
            return Outcome(kind, "refused", why=str(error))
        except Exception as error:
            return Outcome(kind, "failed", why=f"{type(error).__name__}: {str(error)[:300]}")


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


HEAD = """# Architectures

What comes out for each causal language model that transformers {version} knows, made small and random and held against
an oracle in float64: plain transformers, eager attention, each sequence alone. Exact: loss and LoRA gradients of
traces on both sides of windows of {window} tokens agree to {limit:g} in float32, or in float64 where rounding alone is
more; so do those of a step that computes its activations again. `python -m tests.train.architectures` makes this anew.

- **packed**: sequences are joined; **padded**: they lie beside each other; **one by one**: each goes through alone.
- **refused**: before step 1, with a message. **not tried**: and why.

| architecture | result | why no faster, or not at all |
|---|---|---|
"""


def row(one: Outcome) -> str:
    """Its line of the table. Raises AssertionError for one that is neither exact nor refused."""
    if one.result in ("refused", "not tried"):
        return f"| {one.kind} | {one.result} | {short(one.why)} |"
    assert one.error is not None and one.error < LIMIT, f"{one.kind}: {one.result}, off by {one.error}: {one.why}"
    assert one.recomputed is not None and one.recomputed < LIMIT, f"{one.kind}: {one.recomputed} off when recomputed"
    return f"| {one.kind} | exact, {one.result} | {short(one.why)} |"


def short(why: str) -> str:
    """Without what is the same for all, and what differs between machines."""
    why = why.split("; ")[0].replace("\n", " ").replace("|", "/")
    reasons = dict.fromkeys(re.findall(r"they cannot be (\w+)[^(]*\((.*?)\)(?=sequences|$)", why))
    why = "; ".join(f"not {way}: {reason}" for way, reason in reasons) or why
    why = re.sub(r" by \d\S*", "", re.sub(r"/\S*/tmp\S*|/tmp/\S*", "the folder", why))
    return why if len(why) < 120 else why[:117] + "..."


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if kinds := sys.argv[1:]:
        for kind in kinds:
            print(outcome(kind))
        return
    rows = []
    for kind in sorted(KINDS):
        one = outcome(kind)
        print(one, flush=True)
        rows.append(row(one))
    head = HEAD.format(version=transformers.__version__, window=WINDOW, limit=LIMIT)
    TABLE.write_text(head + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
