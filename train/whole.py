"""Full fine-tuning: every weight of the decoder is trained, and no adapter stands between the student and the model.

There is one copy of the weights, so the references, which are the model as it was, can be read off it only before the
first step: their hidden states must be in the cache by then, and live references are refused. The head stays as it is,
and with it an embedding that is tied to it: all three roles are folded before one head.

Weights, gradients and both moments are float32, 16 bytes a weight (10 with 8-bit moments), against 2 and a little for
an adapter on a frozen model in bfloat16. Every rank holds all of it, or with `shard_weights` its part (FSDP2); then
every pass sends each layer to all ranks, and the first rank has the whole model in main memory when it is saved, with
both moments at each checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from dail.synth.core.errors import UsageError
from dail.train import sharding
from dail.train.config import TrainConfig
from dail.train.loading import load_base
from dail.train.optimizers import state_bytes
from dail.train.record import Given

GIB = 2**30


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


def cost(whole: Whole, config: TrainConfig, num_ranks: int) -> str:
    """What training every weight takes, for people; the parts are of the same size but for a row of each weight."""
    trained = [weight for weight in whole.parameters() if weight.requires_grad]
    numbers = sum(weight.numel() for weight in trained)
    size = (8 * numbers + state_bytes(trained, config)) / GIB
    told = (
        f"tune=full: {numbers:,} weights are trained, which take {size:.3g} GiB as float32 with gradients and moments"
    )
    if config.shard_weights:
        told += (
            f" on one rank, and {size / num_ranks:.3g} on each of {num_ranks}, among which every pass sends them all"
        )
    return f"{told}; the head stays as it is, and an embedding that is tied to it"


def as_one(divided: Whole, folder: Path, is_first: bool) -> Whole:
    """The trained model whole, in the first rank's main memory: read again, with the trained weights put in.

    All ranks must ask; the others get what they gave.
    """
    one = Whole(load_base(folder, "float32")) if is_first else None
    places = dict(one.named_parameters()) if one else {}
    for name, weight in divided.named_parameters():
        if weight.requires_grad:
            all_of_it = sharding.whole(weight.detach())
            if one:
                places[name].data.copy_(all_of_it)
    return one or divided


def check_whole(config: TrainConfig, given: Given) -> None:
    """Raises UsageError for settings that mean nothing, or cannot be kept, where every weight is trained."""
    if config.tune != "full":
        return
    wrong = {
        "--init-adapter": given.init_adapter,
        "--reference-adapter": given.reference_adapter,
        "optimizer=paged_adamw_8bit and shard_weights=true, whose parts would share other scales than the whole": (
            config.shard_weights and config.optimizer == "paged_adamw_8bit"
        ),
        "quantise=nf4": config.quantise != "none",
        "dtype=bfloat16": config.dtype == "bfloat16",
        "reference_states=live": config.reference_states == "live" and config.objective != "nll",
    }
    if found := [name for name, is_set in wrong.items() if is_set]:
        raise UsageError(
            "tune=full trains every weight, as float32, against references that are computed "
            f"before the first step; it cannot go with {', '.join(found)}; leave that out, or set tune=lora "
            "(`dail merge` puts an adapter into the weights, to go on from)"
        )
