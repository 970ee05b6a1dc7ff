"""Which linear layers `lora_targets` means in a model: looked up, said, and refused where the engine cannot serve them.

`all-linear` is every linear layer of the decoder but the head, less what an adapter would be lost on. Each of these was
tried in vLLM 0.32 on tiny models, against PEFT's own logits: some adapters it refuses to load, and others, which is
worse, it loads and ignores.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dail.synth.core.errors import UsageError
from dail.train.sharding import whole

_log = logging.getLogger(__name__)

# Models whose head vLLM adapts (`embedding_modules` in their classes there); of others it refuses the whole adapter.
_HEADS = {
    *("apertus", "exaone4", "exaone_moe", "falcon_h1", "granite", "granitemoe", "granitemoehybrid", "jamba", "lfm2"),
    *("lfm2_moe", "llama", "mixtral", "nemotron", "nemotron_h", "phi3", "phimoe", "qwen3", "qwen3_moe", "solar"),
}
# Models of which vLLM serves no adapter at all (`SupportsLoRA` is missing from their classes there).
_NO_ADAPTERS = {
    *("bloom", "dbrx", "falcon", "falcon_mamba", "gemma3n_text", "gpt2", "gptj", "mamba", "mamba2", "stablelm"),
    "zamba2",
}
# Layers of single models, by model and kind, that vLLM has cut in another way.
_CUT_ANOTHER_WAY = {
    ("glm4", "gate_up_proj"): "is one layer here and two in vLLM, which refuses an adapter on it",
    ("gpt_bigcode", "c_attn"): "is cut in another way by vLLM, which ignores an adapter on it",
}
# Models to whose layers PEFT adds no adapter where this is their name, since their kernels go around it.
_PEFT_MAMBA = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
_ROUTER = re.compile(r"(.*_)?(router|router_gate)|gate")


class Targets(NamedTuple):
    """`names`: full ones, of the layers to adapt. `left_out`: why → those that were meant but are left out."""

    names: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]


def find_targets(base: PreTrainedModel, wanted: str | Sequence[str]) -> Targets:
    """What to adapt.

    Args:
        wanted: `all-linear`, or names as PEFT reads them: the last part of a layer's full name, or several, with dots.

    Raises:
        UsageError: a name is of no linear layer, or only of such as no adapter can be served on.
    """
    linear = {name: layer for name, layer in base.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    if wanted == "all-linear":
        head = base.get_output_embeddings()
        meant = [name for name, layer in linear.items() if layer is not head]
    else:
        _refuse_unmatched(base, linear, wanted)
        meant = [name for name in linear if any(_matches(target, name) for target in wanted)]
    why_not = _why_not(base, linear)
    left_out: dict[str, list[str]] = defaultdict(list)
    for name in meant:
        if name in why_not:
            left_out[why_not[name]].append(name)
    names = tuple(name for name in meant if name not in why_not)
    if wanted != "all-linear":
        _refuse_unserved(wanted, names, why_not)
    if base.config.model_type in _NO_ADAPTERS:
        _log.warning(
            f"vLLM serves no adapters of {base.config.model_type} models, so `dail eval` cannot judge this one; merge "
            "it into the weights first (`dail merge`)"
        )
    if not names:
        raise UsageError(
            f"{base.config.model_type} models have no linear layer that an adapter can be served on; train another"
        )
    return Targets(names, {why: tuple(found) for why, found in left_out.items()})


def linear_layers(base: PreTrainedModel) -> set[str]:
    """Full names of all of the running model but the head; those that an adapter is on end in `.base_layer`."""
    head = base.get_output_embeddings()
    heads = {head, getattr(head, "base_layer", None)}
    return {n for n, layer in base.named_modules() if isinstance(layer, nn.Linear | Conv1D) and layer not in heads}


def _matches(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _refuse_unmatched(base: nn.Module, linear: Mapping[str, nn.Module], wanted: Sequence[str]) -> None:
    kinds = Counter(map(_kind, linear))
    wrong = []
    for target in wanted:
        if any(_matches(target, name) for name in linear):
            continue
        other = next((layer for name, layer in base.named_modules() if name and _matches(target, name)), None)
        is_weight = any(_matches(target, name) for name, _ in base.named_parameters())
        near = _nearest(target, linear)
        if other is not None:
            wrong.append(f"{target} is a {type(other).__name__}, no linear layer")
        elif is_weight:
            wrong.append(f"{target} is a weight of its own, no linear layer")
        else:
            wrong.append(f"{target!r} matches no layer" + (f" (near: {', '.join(near)})" if near else ""))
    if wrong:
        there = ", ".join(f"{kind} × {count}" for kind, count in kinds.items())
        raise UsageError(
            f"lora_targets: {'; '.join(wrong)}; linear layers here are {there}; name some of them, or set all-linear"
        )


def _nearest(target: str, linear: Iterable[str]) -> list[str]:
    """Ends of layers' names, with as many parts, that are written alike but for case."""
    parts = target.count(".") + 1
    ends = {end.lower(): end for name in linear if (end := ".".join(name.split(".")[-parts:]))}
    if parts == 1:
        ends["all-linear"] = "all-linear"
    return [ends[near] for near in difflib.get_close_matches(target.lower(), ends)]


def _refuse_unserved(wanted: Sequence[str], names: Sequence[str], why_not: Mapping[str, str]) -> None:
    wrong = []
    for target in wanted:
        if not any(_matches(target, name) for name in names):
            reasons = sorted({why for name, why in why_not.items() if _matches(target, name)})
            wrong.append(f"{target} {' and '.join(reasons)}")
    if wrong:
        raise UsageError(f"lora_targets: {'; '.join(wrong)}; leave it out, or set all-linear, which does")


def _why_not(base: PreTrainedModel, linear: Mapping[str, nn.Module]) -> dict[str, str]:
    """By name, the layers that no adapter can be served on."""
    kind_of_model = base.config.model_type
    head, decoder = base.get_output_embeddings(), set(base.get_decoder().modules())
    users = _users(base)
    swallowed: dict[str, bool] = {}
    found = {}
    for name, layer in linear.items():
        kind, parent = _kind(name), base.get_submodule(name.rpartition(".")[0])
        if layer is head:
            if kind_of_model not in _HEADS:
                found[name] = f"is the head, on which vLLM takes no adapter in {kind_of_model} models"
        elif layer not in decoder:
            found[name] = "lies outside the decoder, which alone reads text"
        elif _ROUTER.fullmatch(kind) or (kind.endswith("gate") and _holds_experts(parent)):
            found[name] = "is a router of experts, on which vLLM refuses an adapter or ignores it"
        elif isinstance(layer, nn.Linear) and not _is_plain(layer):
            found[name] = "does more than multiply by its matrix, which PEFT's adapter does not know"
        elif len(users[layer]) > 1:
            found[name] = f"is used in {len(users[layer])} places, and PEFT would adapt one of them"
        elif why := _CUT_ANOTHER_WAY.get((kind_of_model, kind)):
            found[name] = why
        elif kind == "kv_b_proj":
            found[name] = "is multiplied into the attention's other weights by vLLM, which ignores an adapter on it"
        elif kind == "out_proj" and kind_of_model in _PEFT_MAMBA:
            found[name] = f"is passed by in the kernels of {kind_of_model} models, and PEFT refuses it"
        elif swallowed.setdefault(kind, _is_taken_for_experts(base, name)):
            found[name] = "has a name that PEFT takes for the experts' when it loads the adapter"
    return found


def _holds_experts(module: nn.Module) -> bool:
    return any("expert" in name for name, _ in module.named_children())


def _is_plain(layer: nn.Linear) -> bool:
    """Whether it is a matrix and a bias, tried out where it has a forward pass of its own."""
    if type(layer).forward is nn.Linear.forward or layer.weight.dtype == torch.uint8:  # two weights of a matrix each
        return True
    probe = torch.ones(1, 1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
    with torch.no_grad():
        wanted = nn.functional.linear(probe, layer.weight, layer.bias)
        try:
            found = layer(probe)
        except (RuntimeError, ValueError, TypeError, IndexError):  # it wants another shape
            return False
    return isinstance(found, torch.Tensor) and found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-2)


def _users(base: nn.Module) -> dict[nn.Module, set[nn.Module]]:
    """By layer, the modules that have it as their own."""
    found: dict[nn.Module, set[nn.Module]] = defaultdict(set)
    for module in base.modules():
        for child in module.children():
            found[child].add(module)
    return found


def _is_taken_for_experts(base: PreTrainedModel, name: str) -> bool:
    """transformers 5 keeps experts as one parameter, and PEFT turns the names that their layers had into its name; of
    other layers with such a name (shared experts, dense first layers) nothing is left then."""
    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, base, None)
    except ValueError:  # it wants gate_proj and up_proj together
        return True
    return name not in config.target_modules


def describe(adapted_base: nn.Module, targets: Targets) -> list[str]:
    """What is adapted and what is not, in a few lines to be logged."""
    kinds = Counter(map(_kind, targets.names))
    weights = sum(weight.numel() for weight in adapted_base.parameters() if weight.requires_grad)
    total, outside = _weights(adapted_base, set(targets.names))
    adapted = ", ".join(f"{kind} × {count}" for kind, count in kinds.items())
    lines = [f"the adapter has {weights:,} parameters, on {len(targets.names)} linear layers: {adapted}"]
    if outside:
        large = [f"{what} {share:.0%}" for what, count in outside.most_common() if (share := count / total) >= 0.005]
        lines.append(
            f"without adapter are {outside.total() / total:.0%} of the model's weights: {', '.join(large) or 'norms'}"
        )
    lines += [f"left out: {_named(names)}, since it {why}" for why, names in targets.left_out.items()]
    return lines


def _weights(adapted_base: nn.Module, adapted: set[str]) -> tuple[int, Counter[str]]:
    """How many numbers the frozen model has, and how many of them in modules without adapter, by kind."""
    total, outside, seen = 0, Counter[str](), set[int]()
    for full_name, module in adapted_base.named_modules():
        name = full_name.removesuffix(".base_layer")
        for weight_name, weight in module.named_parameters(recurse=False):
            if weight.requires_grad or id(weight) in seen:
                continue
            seen.add(id(weight))
            count = weight.numel() * (2 if weight.dtype == torch.uint8 else 1)  # two weights in 4 bits
            total += count
            if name not in adapted:
                is_expert = "experts" in name.split(".") and weight.ndim == 3
                outside[f"experts ({weight_name})" if is_expert else _kind(name)] += count
    return total, outside


def check_gradients(weights: Mapping[str, nn.Parameter], step: int, *, reads_alike: bool = False) -> None:
    """Names the layers whose adapter the first backward pass did not reach, as all of these go on as they are.

    Args:
        weights: of the adapter, by name, with the gradients of a whole batch.
        step: counted from 0.
        reads_alike: whether student and references read the same and the loss is 0, where no gradient is right: a
            model that is distilled onto itself has nothing to learn.

    Raises:
        UsageError: it reached none, and should have.
    """
    # the second matrices: as long as these are zero, as they are at first, the first ones get none
    second = {name: weight for name, weight in weights.items() if ".lora_B." in name} or dict(weights)
    # sums, since of a small weight that is divided a rank may hold nothing
    sizes = torch.stack([w.new_zeros(()) if w.grad is None else w.grad.abs().sum() for w in second.values()])
    reached = dict(zip(second, whole(sizes).tolist(), strict=True))
    dead = [name.partition(".lora_B.")[0] for name, size in reached.items() if size == 0]
    if len(dead) == len(second) and reads_alike:
        _log.warning(
            f"step {step + 1}: the loss and its gradient are 0, since student and references read the same contexts; "
            "the adapter stays what it was unless later traces have others"
        )
        return
    if len(dead) == len(second):
        raise UsageError(
            f"step {step + 1}: no gradient reaches the adapter; either the roles agree on every token of the batch, or "
            "this model cuts its layers off from the loss; look at the traces' three contexts, or train another model"
        )
    if dead:
        _log.warning(
            f"in step {step + 1} no gradient reaches {len(dead)} of {len(second)} adapted layers, which stay as they "
            f"are unless later traces use them: {_named(dead)}"
        )


def _named(names: Sequence[str], shown: int = 3) -> str:
    """`gate × 2 (model.layers.0.mlp.gate, …)`."""
    kinds = ", ".join(f"{kind} × {count}" for kind, count in Counter(map(_kind, names)).items())
    plain = [name.removeprefix("base_model.model.") for name in names[:shown]]
    return f"{kinds} ({', '.join(plain)}{', …' if len(names) > shown else ''})"
