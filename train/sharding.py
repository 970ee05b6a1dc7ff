"""Weights divided among ranks (FSDP2), for models that one card does not hold.

Each layer is whole only while it is used. Under an adapter the frozen weights of the layers are divided. The adapter,
the embedding and the head stay whole on every rank: they are small, the loss multiplies by the head directly, and the
adapter's gradients are added up as without sharding. With tune=full all that is trained is divided, and its gradients
and moments with it; the head, which is not trained, stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dail.synth.core.errors import UsageError
from dail.train.distributed import Ranks


def own_part(weight: Tensor) -> Tensor:
    """What this rank holds of a weight."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def whole(tensor: Tensor) -> Tensor:
    """All of it. All ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor], is_first: bool) -> dict[str, Tensor]:
    """The whole tensors, those that were divided in the first rank's main memory; nothing on other ranks.

    All ranks must ask. One tensor at a time is whole on the device.
    """
    found = {}
    for name, tensor in tensors.items():
        all_of_it = whole(tensor)
        if is_first:
            found[name] = all_of_it.cpu() if isinstance(tensor, DTensor) else all_of_it
    return found


def divided_as(weight: Tensor, tensor: Tensor) -> Tensor:
    """Of a whole tensor of the weight's shape what this rank holds, if the weight is divided. Tells no other rank."""
    if not isinstance(weight, DTensor) or tensor.shape != weight.shape:
        return tensor
    return distribute_tensor(tensor.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)


def shard(peft: Any, device: torch.device, ranks: Ranks) -> None:
    """The frozen weights of the layers, in place; moves the layers to the device one by one, so that no card ever
    holds them all.

    Raises:
        UsageError: one rank alone has nobody to share with, or the model has no list of layers.
    """
    decoder = peft.get_base_model().get_decoder()
    layers = _layers(decoder, peft.config.model_type, ranks)
    # the decoder holds nothing itself; it lets one layer come while one computes
    _divide(decoder, layers, {weight for weight in layers.parameters() if not weight.requires_grad}, device, ranks)


def shard_trained(decoder: Any, device: torch.device, ranks: Ranks) -> None:
    """All weights of the decoder that are trained, in place; a backward pass leaves to each rank its part of the sum
    of all ranks' gradients.

    Args:
        decoder: what is called for hidden states, which then lets embedding and last norm come and go.

    Raises:
        UsageError: as `shard`, or torch is too old.
    """
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise UsageError(
            "tune=full with shard_weights=true needs torch 2.13, where ranks may use different experts, and this is "
            f"{torch.__version__}; upgrade torch, or leave shard_weights off"
        )
    divided = {weight for weight in decoder.parameters() if weight.requires_grad}
    _divide(decoder, _layers(decoder, decoder.config.model_type, ranks), divided, device, ranks)
    for part in decoder.modules():
        if isinstance(part, FSDPModule):
            # the loss is divided by the whole batch already, and FSDP's own mean over ranks would divide it again
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no sum that multiplies first
            # an expert may get tokens on one rank and none on another
            part.set_reduce_scatter_unused_params(True, recurse=False)


def _layers(decoder: Any, kind: str, ranks: Ranks) -> nn.ModuleList:
    if ranks.size == 1:
        raise UsageError("shard_weights divides the weights among ranks, and there is one; start several with torchrun")
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UsageError(f"{kind} models have no list of layers to divide; leave shard_weights off")
    return layers


def _divide(
    decoder: Any, layers: nn.ModuleList, divided: set[nn.Parameter], device: torch.device, ranks: Ranks
) -> None:
    stays_whole = {weight for weight in decoder.parameters() if weight not in divided}
    mesh = init_device_mesh(device.type, (ranks.size,))
    for part in (*layers, decoder):
        # said, since what is divided last is left whole otherwise when a pass without gradient is through
        fully_shard(part, mesh=mesh, ignored_params=stays_whole, reshard_after_forward=True)
