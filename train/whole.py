"""Full fine-tuning: every weight of the decoder is trained, and no adapter stands between the student and the model.

There is one copy of the weights, so the references, which are the model as it was, can be read off it only before the
first step: their hidden states must be in the cache by then, and live references are refused. The head stays as it is,
and with it an embedding that is tied to it: all three roles are folded before one head.

Weights, gradients and both moments are float32, 16 bytes a weight (10 with 8-bit moments), against 2 and a little for
an adapter on a frozen model in bfloat16. Every rank holds all of it: `shard_weights` is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from dail.synth.core.errors import UsageError
from dail.train.config import TrainConfig
from dail.train.record import Given


class Whole(nn.Module):
    """A model in the place where one with PEFT's adapter is otherwise; off and on are the same until it is trained."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base
        self.config = base.config
        trained = {*base.get_decoder().parameters()} - {*base.get_output_embeddings().parameters()}
        for weight in base.parameters():
            weight.requires_grad_(weight in trained)

    def get_base_model(self) -> Any:
        return self.base

    def forward(self, **given: Any) -> Any:
        return self.base(**given)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        yield


def check_whole(config: TrainConfig, given: Given) -> None:
    """Raises UsageError for settings that mean nothing, or cannot be kept, where every weight is trained."""
    if config.tune != "full":
        return
    wrong = {
        "--init-adapter": given.init_adapter,
        "--reference-adapter": given.reference_adapter,
        "shard_weights=true": config.shard_weights,
        "quantise=nf4": config.quantise != "none",
        "dtype=bfloat16": config.dtype == "bfloat16",
        "reference_states=live": config.reference_states == "live" and config.objective != "nll",
    }
    if found := [name for name, is_set in wrong.items() if is_set]:
        raise UsageError(
            "tune=full trains every weight, as float32 and whole on each rank, against references that are computed "
            f"before the first step; it cannot go with {', '.join(found)}; leave that out, or set tune=lora "
            "(`dail merge` puts an adapter into the weights, to go on from)"
        )
