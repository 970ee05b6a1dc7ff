"""Which optimizer takes the steps: torch's AdamW, or AdamW with 8-bit moments through bitsandbytes (`dail[bnb]`).

Both have the same betas (0.9, 0.999), epsilon and decoupled weight decay. The second keeps a byte for each moment of a
weight, with a scale for 256 of them (Dettmers et al. 2021), and on a GPU in pages that the driver may move to main
memory; tensors of fewer than 4,096 weights keep 32 bits. The paper does not name its optimizer; its authors' code has
this one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from dail.synth.core.errors import UsageError
from dail.train.config import TrainConfig

_BLOCK, _SMALL = 256, 4096  # weights that share a scale; tensors of fewer keep 32 bits
# What a step leaves behind for the next, by optimizer; its tables of 256 values are the same for all weights.
_ADAMW = ("step", "exp_avg", "exp_avg_sq")
_8BIT = ("step", "state1", "state2", "absmax1", "absmax2")


def check_optimizer(config: TrainConfig) -> None:
    """Raises UsageError if the optimizer's package is not there."""
    if config.optimizer == "paged_adamw_8bit":
        _bitsandbytes()


def make_optimizer(weights: Iterable[Tensor], config: TrainConfig) -> Optimizer:
    if config.optimizer == "adamw":
        return AdamW(weights, lr=config.lr, weight_decay=config.weight_decay)
    made: Optimizer = _bitsandbytes().optim.PagedAdamW8bit(weights, lr=config.lr, weight_decay=config.weight_decay)
    return made


def state_bytes(weights: Iterable[Tensor], config: TrainConfig) -> float:
    """Of both moments of all weights, once a step was taken."""
    sizes = [weight.numel() for weight in weights]
    if config.optimizer == "adamw":
        return 8 * sum(sizes)
    return sum(8 * size if size < _SMALL else 2 * size + 8 * -(-size // _BLOCK) for size in sizes)


def state_of(optimizer: Optimizer, weight: Tensor) -> dict[str, Tensor]:
    """What must be kept of a weight's state to go on bit for bit, by name; nothing before its first step."""
    state = optimizer.state.get(weight, {})
    return {name: torch.as_tensor(state[name]) for name in (*_ADAMW, *_8BIT[1:]) if name in state}


def put_state(optimizer: Optimizer, weight: Tensor, kept: Mapping[str, Tensor]) -> None:
    """Raises KeyError or RuntimeError if it is not the state of this weight with this optimizer."""
    if not kept:
        return
    if isinstance(optimizer, AdamW):
        moments = {name: kept[name].to(weight.device) for name in _ADAMW[1:]}
        optimizer.state[weight] = {"step": kept["step"], **moments}
        return
    own: Any = optimizer
    with quiet():
        own.init_state(own.param_groups[0], weight, 0, 0)  # which makes pages and tables anew
    state = own.state[weight]
    state["step"] = int(kept["step"])
    for name in (name for name in _8BIT[1:] if name in state):
        if state[name].dtype != kept[name].dtype:
            raise RuntimeError(f"{name} is {kept[name].dtype}, wanted {state[name].dtype}")
        state[name].copy_(kept[name])


class quiet(warnings.catch_warnings):
    """Without the warning, for every weight, that nothing is paged on a CPU, where there is nothing to page to."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        return entered


def bitsandbytes_for(setting: str, instead: str) -> Any:
    """The package. Raises UsageError, with the setting that asks for it and one that does not, if it is not there."""
    try:
        import bitsandbytes
    except ImportError:
        raise UsageError(
            f"{setting} needs the package bitsandbytes; run: pip install 'dail[bnb]', or set {instead}"
        ) from None
    return bitsandbytes


def _bitsandbytes() -> Any:
    return bitsandbytes_for("optimizer=paged_adamw_8bit", "optimizer=adamw")
