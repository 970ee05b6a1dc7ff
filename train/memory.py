"""What a run will take, said before its first step, and refused if it cannot fit.

Memory is what is known (adapter, optimizer, the loss's buffers) and the most that lives at a time while a piece of the
longest sequence goes forward and backward, counted on pieces of several lengths: scores of every pair of tokens grow
with the square, and what a layer lets go of again counts too. Time is that of the dearest microbatch, run and thrown
away.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from dail.synth.core.errors import UsageError
from dail.synth.core.machine import main_memory
from dail.train.comparison import comparison_of, reference_names
from dail.train.data import (
    Example,
    TrainingSet,
    microbatches,
    out_of_memory,
    reference_input,
    student_input,
    student_tokens,
)
from dail.train.live_bytes import LiveBytes
from dail.train.model import Roles
from dail.train.objective import is_own
from dail.train.optimizers import state_bytes
from dail.train.packing import short_windows
from dail.train.recompute import recompute, recomputing
from dail.train.sharding import own_part
from dail.train.step import GradientStep

_log = logging.getLogger(__name__)

GIB = 2**30
_PIECES = (256, 512, 1024)  # tokens; multiples of the chunks in which some architectures compute
_SHARED_PIECES = (64, 128)  # where layers come and go among ranks, and what autograd keeps is counted alone
# Float32 logits of a chunk that the loss holds at a time, at the most. A user's objective may hold any number; forward
# KL takes 8, Jensen-Shannon 11.
_FOLDED_BUFFERS, _OTHER_BUFFERS = 5, 14


@dataclass(frozen=True)
class Needs:
    """Bytes beyond the frozen weights and the adapter. `per_token`: of sequences as long as the longest."""

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
    tokens = _tokens(roles, _dearest(scorer, data.examples))
    needs = count(scorer, data.examples)
    if config.recompute == "on" or (config.recompute == "auto" and needs.of(tokens) > free):
        needs = _start_again(scorer, data.examples, needs)
    _log.info(
        f"memory: {weights_bytes(roles) / GIB:.3g} GiB of weights; for optimizer, loss and a microbatch of {tokens} "
        f"tokens about {needs.of(tokens) / GIB:.3g} GiB, of {free / GIB:.3g} that are free"
    )
    if needs.of(tokens) > free:
        raise UsageError(_refusal(scorer, data, needs, tokens, free))


def _start_again(scorer: GradientStep, examples: Sequence[Example], needs: Needs) -> Needs:
    try:
        less = count(scorer, examples, again=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:  # layers that keep something between calls fail as they please
        _log.warning(f"activations cannot be computed again in {_kind(scorer)} models: {problem}")
        return needs
    if not recompute(scorer.roles):
        _log.warning(f"nothing can be computed again in {_kind(scorer)} models: they have no list of layers")
        return needs
    _log.info("every layer's activations are computed again in the backward pass, which takes a third more time")
    return less


def _kind(scorer: GradientStep) -> str:
    return str(scorer.roles.peft.config.model_type)


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


def count(scorer: GradientStep, examples: Sequence[Example], again: bool = False) -> Needs:
    """Counted, not measured: the same on every device, and without filling it.

    Args:
        again: as it would be if activations were computed again.
    """
    longest = max(examples, key=lambda example: example.student_tokens)
    head_VD = scorer.roles.head.matrix_VD
    config = scorer.config
    is_kl = bool(reference_names(config)) and not is_own(config.objective)
    folds = scorer.caches and is_kl and comparison_of(config).folds
    buffers = _FOLDED_BUFFERS if folds else _OTHER_BUFFERS
    loss = 4 * buffers * scorer.config.token_chunk * head_VD.shape[0]
    if head_VD.dtype == torch.bfloat16 and not head_VD.is_cuda:
        loss += 4 * head_VD.numel()  # a CPU multiplies it as float32
    trained = [own_part(weight) for weight in scorer.roles.adapter().values()]
    adapter = 4 * sum(weight.numel() for weight in trained) + state_bytes(trained, scorer.config)  # and the gradient
    if scorer.ranks.share_weights:
        passes = _of_shared_layers(scorer, longest)
        passes = _recomputed(passes, scorer.roles) if again else passes
    else:
        # windows that the longest fills are shorter than every piece, so that each has the masks of a longer one
        with (
            recomputing(scorer.roles) if again else nullcontext(),
            short_windows(scorer.roles.peft, longest.student_tokens),
        ):
            passes = _of_passes(scorer, longest)
    return Needs(adapter + loss + passes.fixed, passes.per_token + _of_references(scorer, longest))


def _of_references(scorer: GradientStep, longest: Example) -> float:
    """Bytes for each of the student's tokens of hidden states that are read from the cache, of all references."""
    if not scorer.caches:
        return 0.0
    head_VD = scorer.roles.head.matrix_VD
    share = len(longest.trace_ids) / longest.student_tokens
    return share * len(reference_names(scorer.config)) * head_VD.shape[1] * head_VD.element_size()


def _of_passes(scorer: GradientStep, longest: Example) -> Needs:
    """Of forward and backward passes over sequences as long as the longest, by those of its pieces."""
    length = longest.student_tokens
    lengths = _PIECES if length > _PIECES[-1] else (max(2, length // 2), length)
    peaks: list[float] = []
    for tokens in lengths:
        try:
            peaks.append(_peak(scorer, longest, tokens))
        except torch.OutOfMemoryError:
            if len(peaks) < 2:
                raise out_of_memory([longest.student_tokens], scorer.config) from None
            break
    at = lengths[: len(peaks)]
    slope = (peaks[-1] - peaks[-2]) / max(1, at[-1] - at[-2])
    whole = max(peaks[-1] + (length - at[-1]) * slope, _through(at, peaks, length))
    constant = max(0.0, peaks[0] - (peaks[1] - peaks[0]) / max(1, at[1] - at[0]) * at[0])
    gradients = 4 * sum(weight.numel() for weight in scorer.roles.adapter().values())  # are counted with the adapter
    return Needs(max(0.0, constant - gradients), (whole - constant) / length)


def _through(at: Sequence[int], values: Sequence[float], where: int) -> float:
    """Of the parabola through three points, or the line through two (Lagrange)."""
    return sum(
        value * math.prod((where - other) / (point - other) for other in at if other != point)
        for point, value in zip(at, values, strict=True)
    )


def _peak(scorer: GradientStep, example: Example, tokens: int) -> int:
    """The most bytes that live at a time in a step's passes over a piece of so many tokens; its loss is left out."""
    roles, piece = scorer.roles, _piece(example, tokens)
    with LiveBytes([*roles.peft.parameters(), *roles.peft.buffers()]) as live:
        hidden_RD = roles.student(student_input([piece], roles.device, roles.packs))
        references_RD = None
        if (names := reference_names(scorer.config)) and not scorer.caches:
            references_RD = roles.reference(reference_input([piece], names, roles.device, roles.packs))
        hidden_RD.backward(torch.zeros_like(hidden_RD))
        del hidden_RD, references_RD
    for weight in roles.adapter().values():
        weight.grad = None
    return live.peak


def _piece(example: Example, tokens: int) -> Example:
    """The example shortened in all its parts alike, to so many tokens of the student's sequence."""

    def part(ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids[: max(1, round(len(ids) * tokens / example.student_tokens))]

    trace = part(example.trace_ids)[: tokens - 1]
    prompt = (*example.student_prompt_ids, *example.trace_ids)[: tokens - len(trace)]
    return replace(
        example,
        student_prompt_ids=prompt,
        privileged_prompt_ids=part(example.privileged_prompt_ids),
        negative_prompt_ids=part(example.negative_prompt_ids),
        trace_ids=trace,
        skip_first=0,
        contexts={name: part(ids) for name, ids in example.contexts.items()},
    )


def _of_shared_layers(scorer: GradientStep, example: Example) -> Needs:
    """Where weights are divided: what autograd keeps, and two layers that are whole at a time.

    Of what is trained, a gradient and what is sent of it are whole as well; of a trained embedding too.
    """
    few, many = (_kept_bytes(scorer.roles, example, tokens) for tokens in _SHARED_PIECES)
    per_token = (many - few) / (_SHARED_PIECES[1] - _SHARED_PIECES[0])
    layers = scorer.roles.peft.config.get_text_config().num_hidden_layers
    if scorer.config.tune == "lora":
        return Needs(2 * scorer.ranks.size * weights_bytes(scorer.roles) / layers, per_token)
    sizes = {name: 4 * weight.numel() for name, weight in scorer.roles.adapter().items()}  # of the whole weights
    in_layers = sum(size for name, size in sizes.items() if ".layers." in name)
    return Needs(3 * (2 * in_layers / layers + sum(sizes.values()) - in_layers), per_token)


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
    piece = replace(example, student_prompt_ids=ids[:1], trace_ids=ids[1:], skip_first=0)
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


def _tokens(roles: Roles, examples: Sequence[Example]) -> int:
    """Of a microbatch, pads included."""
    lengths = [example.student_tokens for example in examples]
    return sum(lengths) if roles.packs or roles.alone else len(lengths) * max(lengths)


def _recomputed(needs: Needs, roles: Roles) -> Needs:
    """What is kept of a token: each layer's input, and all of one layer."""
    layers = roles.peft.config.get_text_config().num_hidden_layers
    matrix_VD = roles.head.matrix_VD
    return replace(needs, per_token=needs.per_token / layers + layers * matrix_VD.shape[1] * matrix_VD.element_size())


def _dearest(scorer: GradientStep, examples: Sequence[Example]) -> list[Example]:
    """The longest traces that one microbatch may hold."""
    longest = sorted(examples, key=lambda example: -example.student_tokens)[: scorer.config.batch_size]
    return microbatches(longest, scorer.config.microbatch_tokens, student_tokens, scorer.roles.packs)[0]


def _refusal(scorer: GradientStep, data: TrainingSet, needs: Needs, tokens: int, free: float) -> str:
    config, fits = scorer.config, needs.tokens_within(free)
    longest = max(example.student_tokens for example in data.examples)
    again = count(scorer, data.examples, again=True) if config.recompute == "off" else needs
    if fits >= longest:
        advice = f"set microbatch_tokens={fits}"
    elif again.of(longest) <= free:
        advice = f"set recompute=on and microbatch_tokens={again.tokens_within(free)}"
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
