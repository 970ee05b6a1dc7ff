"""LongRoPE, whose factors depend on how long a sequence is (Phi-3.5, Phi-4-mini).

transformers picks short or long factors by the longest sequence of a batch, so that a trace's gradient would depend on
its neighbours. Here each sequence gets what it would get alone. vLLM picks once for an engine: the long ones for all if
its context (`max_model_len`) is longer than what the short ones were made for. Which of these a rollout had is not
written down, so all three can be chosen.

The other kind that depends on lengths, `dynamic` NTK scaling, changes only beyond `max_position_embeddings`, up to
which sequences are read here; vLLM's does not change at all unless its config says `max_trained_positions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dail.train.data import Sequences, on_device

RopeChoice = Literal["each", "long", "short"]
_FOR_EVER = 2**60  # tokens


class LongRope:
    """Takes the place of the model's own choice. `choice`: each sequence by its own length, or one for all."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.choice: RopeChoice = "each"
        self._lengths: tuple[int, ...] = (0,)
        self._is_pack = False
        for module in modules:
            module.forward = _Chosen(self, module, module.forward)

    def read(self, batch: Sequences) -> None:
        """To be told before each pass which sequences it is over."""
        self._lengths, self._is_pack = batch.lengths, batch.is_packed

    def is_long(self, limit: int, like: Tensor) -> Tensor | bool:
        """Where the long factors belong: by token of a pack [1, T, 1], by row [B, 1, 1], or everywhere alike."""
        if self.choice != "each":
            return self.choice == "long"
        rows, width = like.shape[:2]
        if (rows, width) == (1, sum(self._lengths)) or (rows, width) == (len(self._lengths), max(self._lengths)):
            longer = [length > limit for length in self._lengths]
        else:  # a pass that nobody has told of
            longer = [width > limit]
        if all(longer) or not any(longer):
            return any(longer)
        if not self._is_pack:
            return on_device(torch.tensor(longer)[:, None, None], like.device)
        by_token = torch.tensor(longer).repeat_interleave(torch.tensor(self._lengths))
        return on_device(by_token[None, :, None], like.device)


@dataclass
class _Chosen:
    """The forward pass of one rotary embedding, cosines and sines, called as the model calls it."""

    rope: LongRope
    module: nn.Module
    own: Callable[..., tuple[Tensor, Tensor]]

    def __call__(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        parameters = _parameters(self.module, layer_type)
        named = {} if layer_type is None else {"layer_type": layer_type}
        if parameters["rope_type"] != "longrope":
            return self.own(x, position_ids, **named)
        limit = parameters["original_max_position_embeddings"]
        is_long = self.rope.is_long(limit, x)
        if is_long is False:
            return self._short(x, position_ids, named, parameters)
        if is_long is True:
            return self._long(x, position_ids, named, limit)
        short, long = self._short(x, position_ids, named, parameters), self._long(x, position_ids, named, limit)
        cos, sin = (torch.where(is_long, *pair) for pair in zip(long, short, strict=True))
        return cos, sin

    def _short(
        self, x: Tensor, position_ids: Tensor, named: dict[str, str], parameters: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        limit = parameters["original_max_position_embeddings"]
        parameters["original_max_position_embeddings"] = _FOR_EVER  # or a long neighbour would choose
        try:
            return self.own(x, position_ids, **named)
        finally:
            parameters["original_max_position_embeddings"] = limit

    def _long(self, x: Tensor, position_ids: Tensor, named: dict[str, str], limit: int) -> tuple[Tensor, Tensor]:
        longer = torch.nn.functional.pad(position_ids, (0, 1), value=limit)  # one position more makes any row long
        cos, sin = self.own(x, longer, **named)
        # transformers 5 takes its own copy for one it has not looked up yet, and fails at the second call
        vars(self.module).pop(f"{named.get('layer_type')}_long_inv_freq", None)
        return cos[:, :-1], sin[:, :-1]


def take_over(peft: Any) -> LongRope | None:
    """For a model with LongRoPE, in place; none for others."""
    found = [module for module in peft.modules() if _is_long_rope(module)]
    return LongRope(found) if found else None


def rope_choices(rope: LongRope | None) -> tuple[RopeChoice, ...]:
    """What `choice` may be where it matters, the default first; empty where nothing depends on lengths."""
    return get_args(RopeChoice) if rope else ()


@contextmanager
def chosen(rope: LongRope, choice: RopeChoice) -> Iterator[None]:
    """For a while."""
    before, rope.choice = rope.choice, choice
    try:
        yield
    finally:
        rope.choice = before


def _is_long_rope(module: nn.Module) -> bool:
    kinds = getattr(module, "rope_type", None)
    return "longrope" in (kinds.values() if isinstance(kinds, dict) else [kinds])


def _parameters(module: nn.Module, layer_type: str | None) -> dict[str, Any]:
    parameters: dict[str, Any] = module.config.rope_parameters  # type: ignore[assignment, union-attr]
    return parameters if layer_type is None else parameters[layer_type]
