"""What a run will take, said before its first step, and refused if it cannot fit.

Memory is what is known (adapter, optimizer, the loss's buffers) and what autograd keeps of a token, which is counted on
a short piece of a real sequence. Time is that of the dearest microbatch, run and thrown away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from dail.synth.core.errors import UsageError
from dail.synth.core.machine import main_memory
from dail.train.data import Example, TrainingSet, microbatches, student_input
from dail.train.model import Roles
from dail.train.objective import is_own
from dail.train.recompute import recompute
from dail.train.sharding import own_part
from dail.train.step import GradientStep

_log = logging.getLogger(__name__)

GIB = 2**30
_PIECES = (64, 128)  # tokens on which what autograd keeps is counted
# Float32 logits of a chunk that the loss holds at a time, at the most. A user's objective may hold any number; forward
# KL takes 8, Jensen-Shannon 11.
_FOLDED_BUFFERS, _OTHER_BUFFERS = 5, 14


@dataclass(frozen=True)
class Needs:
    """Bytes beyond the frozen weights and the adapter. `per_token`: of a microbatch, for its backward pass."""

    fixed: float
    per_token: float

    def of(self, tokens: int) -> float:
        return self.fixed + tokens * self.per_token

    def tokens_within(self, free: float) -> int:
        return max(0, int((free - self.fixed) / self.per_token))


def fit(scorer: GradientStep, data: TrainingSet, free: float | None = None) -> None:
    """Says how much memory the run needs; lets activations be computed again where that is needed and allowed.

    Args:
        free: bytes; those of the device, if left out.

    Raises:
        UsageError: it does not fit, with the setting that would.
    """
    config, roles = scorer.config, scorer.roles
    free = min(scorer.ranks.gather(free_bytes(roles.device) if free is None else free))  # all ranks decide alike
    tokens = sum(example.student_tokens for example in _dearest(scorer, data.examples))
    needs = count(scorer, data.examples[0])
    if config.recompute == "on" or (config.recompute == "auto" and needs.of(tokens) > free):
        needs = _recomputed(needs, roles)
        recompute(roles)
        _log.info("every layer's activations are computed again in the backward pass, which takes a third more time")
    _log.info(
        f"memory: {weights_bytes(roles) / GIB:.3g} GiB of weights; for optimizer, loss and a microbatch of {tokens} "
        f"tokens about {needs.of(tokens) / GIB:.3g} GiB, of {free / GIB:.3g} that are free"
    )
    if needs.of(tokens) > free:
        raise UsageError(_refusal(scorer, data, needs, tokens, free))


def time_left(scorer: GradientStep, data: TrainingSet, done: int, total: int) -> None:
    """Says how long the steps that are left will take, by a pass of the dearest microbatch, after one to warm up."""
    if done == total:
        return
    examples = _dearest(scorer, data.examples)
    for _ in range(2):
        started = time.perf_counter()
        scorer.backward(examples, examples)
        if scorer.roles.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    for weight in scorer.roles.adapter().values():
        weight.grad = None
    per_token = seconds / sum(example.student_tokens for example in examples)
    tokens = scorer.config.epochs * sum(example.student_tokens for example in data.examples) * (total - done) / total
    _log.info(f"time: about {_duration(per_token * tokens / scorer.ranks.size)} for {total - done} steps")


def count(scorer: GradientStep, example: Example) -> Needs:
    """Counted, not measured: the same on every device, and without filling it."""
    few, many = (_kept_bytes(scorer.roles, example, tokens) for tokens in _PIECES)
    per_token = (many - few) / (_PIECES[1] - _PIECES[0])
    head_VD = scorer.roles.head.matrix_VD
    folds = scorer.roles.folds and not is_own(scorer.config.objective)
    buffers = _FOLDED_BUFFERS if folds else _OTHER_BUFFERS
    loss = 4 * buffers * scorer.config.token_chunk * head_VD.shape[0]
    if head_VD.dtype == torch.bfloat16 and not head_VD.is_cuda:
        loss += 4 * head_VD.numel()  # a CPU multiplies it as float32
    adapter = 12 * sum(weight.numel() for weight in scorer.roles.adapter().values())  # gradient and two moments
    if scorer.ranks.share_weights:  # of which two layers are whole at a time
        shape = scorer.roles.peft.config.get_text_config()
        constant = 2 * scorer.ranks.size * weights_bytes(scorer.roles) / shape.num_hidden_layers
    else:
        constant = max(0.0, few - _PIECES[0] * per_token)
    return Needs(adapter + loss + constant, per_token)


def weights_bytes(roles: Roles) -> int:
    """On this rank."""
    return sum(weight.numel() * weight.element_size() for weight in map(own_part, roles.peft.parameters()))


def free_bytes(device: torch.device) -> float:
    if device.type != "cuda":
        return main_memory()[1]
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _kept_bytes(roles: Roles, example: Example, tokens: int) -> int:
    """Bytes that autograd keeps of the student's pass over so many tokens, which may repeat the example's."""
    ids = (*example.student_prompt_ids, *example.trace_ids)
    ids = (ids * -(-tokens // len(ids)))[:tokens]
    piece = replace(example, student_prompt_ids=ids[:1], trace_ids=ids[1:])
    known = {weight.untyped_storage().data_ptr() for weight in map(own_part, roles.peft.parameters())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = roles.student(student_input([piece], roles.device, roles.packs))
    del hidden
    return sum(kept.values())


def _recomputed(needs: Needs, roles: Roles) -> Needs:
    """What is kept of a token: each layer's input, and all of one layer."""
    layers = roles.peft.config.get_text_config().num_hidden_layers
    matrix_VD = roles.head.matrix_VD
    return replace(needs, per_token=needs.per_token / layers + layers * matrix_VD.shape[1] * matrix_VD.element_size())


def _dearest(scorer: GradientStep, examples: Sequence[Example]) -> list[Example]:
    """The longest traces that one microbatch may hold."""
    longest = sorted(examples, key=lambda example: -example.student_tokens)[: scorer.config.batch_size]
    return microbatches(longest, scorer.config.microbatch_tokens, packed=scorer.roles.packs)[0]


def _refusal(scorer: GradientStep, data: TrainingSet, needs: Needs, tokens: int, free: float) -> str:
    config, fits = scorer.config, needs.tokens_within(free)
    longest = max(example.student_tokens for example in data.examples)
    if fits >= longest:
        advice = f"set microbatch_tokens={fits}"
    elif config.recompute == "off" and _recomputed(needs, scorer.roles).of(longest) <= free:
        advice = f"set recompute=on and microbatch_tokens={_recomputed(needs, scorer.roles).tokens_within(free)}"
    else:
        advice = (
            f"the longest trace alone has {longest}, so no microbatch_tokens would do: set token_chunk lower (now "
            f"{config.token_chunk}), start several ranks with shard_weights=true, or take a larger card"
        )
    return (
        f"a microbatch of {tokens} tokens needs about {needs.of(tokens) / GIB:.3g} GiB, and {free / GIB:.3g} are free, "
        f"in which {fits} tokens fit; {advice}"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
