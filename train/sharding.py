"""The frozen weights of the layers divided among ranks (FSDP2), for models that one card does not hold.

Each layer is whole only while it is used. The adapter, the embedding and the head stay whole on every rank: they are
small, the loss multiplies by the head directly, and the adapter's gradients are added up as without sharding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dail.synth.core.errors import UsageError
from dail.train.distributed import Ranks


def own_part(weight: Tensor) -> Tensor:
    """What this rank holds of a weight."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def shard(peft: Any, device: torch.device, ranks: Ranks) -> None:
    """In place; moves the layers to the device one by one, so that no card ever holds them all.

    Raises:
        UsageError: one rank alone has nobody to share with, or the model has no list of layers.
    """
    if ranks.size == 1:
        raise UsageError("shard_weights divides the weights among ranks, and there is one; start several with torchrun")
    decoder = peft.get_base_model().get_decoder()
    layers = getattr(decoder, "layers", None)
    if layers is None:
        raise UsageError(f"{peft.config.model_type} models have no list of layers to divide; leave shard_weights off")
    divided = {weight for weight in layers.parameters() if not weight.requires_grad}
    whole = {weight for weight in decoder.parameters() if weight not in divided}
    mesh = init_device_mesh(device.type, (ranks.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    fully_shard(
        decoder, mesh=mesh, ignored_params=whole
    )  # holds nothing itself; lets one layer come while one computes
