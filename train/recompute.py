"""Activations computed again in the backward pass: of each layer its input alone is kept.

Layers are wrapped here and not by transformers' own switch, which wants them in training mode: there the dropout of
OPT, Falcon and others wakes up, and trains another model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from dail.train.model import Roles


@dataclass
class _Again:
    """A layer's forward pass."""

    forward: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        # the state of the random generator is kept, so that the adapter's dropout drops the same again
        return checkpoint(self.forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)


def recompute(roles: Roles) -> bool:
    """Keeps of each layer its input alone from now on; False if the model has no layers that can be told apart."""
    layers = layers_of(roles)
    for layer in layers:
        if not isinstance(layer.forward, _Again):
            layer.forward = _Again(layer.forward)
    return bool(layers)


@contextmanager
def recomputing(roles: Roles) -> Iterator[bool]:
    """The same for a while."""
    before = [(layer, layer.forward) for layer in layers_of(roles)]
    try:
        yield recompute(roles)
    finally:
        for layer, forward in before:
            layer.forward = forward


def layers_of(roles: Roles) -> list[nn.Module]:
    """The decoder's layers: what transformers itself would compute again, else its longest list of modules."""
    decoder = roles.decoder
    if layers := _outermost(decoder, GradientCheckpointingLayer):
        return layers
    lists = [list(found.children()) for found in _outermost(decoder, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _outermost(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    if isinstance(module, kind):
        return [module]
    return [found for child in module.children() for found in _outermost(child, kind)]
