"""Several processes that train one adapter: which of them this is, and what they tell each other.

torchrun starts them, or whatever else sets its variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT);
without them there is one. Every rank holds the whole model, scores its share of each batch, and adds its gradient to
the others': all make the same step, with the gradient that one rank alone would have. The first one writes the files.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

# Its functions keep as their default the group that there is when they are imported; one that outlives its end goes on
# in threads, which take the process down if they let go of a tensor while Python ends. So before there is any.
import torch.distributed.nn
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from dail.train.data import Example

_PATIENCE = dt.timedelta(hours=2)  # the first rank may be long at reading or writing while others wait
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One of several processes.

    `share_weights`: all of them must go through the layers the same number of times, since weights are divided.
    """

    rank: int = 0
    size: int = 1
    share_weights: bool = False

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, batch: Sequence[Example]) -> list[Example]:
        """This rank's traces of a batch, of about the same lengths as the others'; one rank takes all, in order."""
        if self.size == 1:
            return list(batch)
        return sorted(batch, key=lambda example: -example.student_tokens)[self.rank :: self.size]

    def add_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Gives every rank the sum of all ranks' gradients, in one message. A rank without traces has none yet.

        Weights that are divided have their part of the sum since the backward pass.
        """
        trained = [weight for weight in weights if not isinstance(weight, DTensor)]
        if self.size == 1 or not trained:
            return
        flat = torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).reshape(-1) for w in trained])
        dist.all_reduce(flat)
        for weight, gradient in zip(trained, flat.split([w.numel() for w in trained]), strict=True):
            weight.grad = gradient.view_as(weight)

    def in_step(self, parts: Sequence[T], filler: T) -> list[tuple[T, bool]]:
        """This rank's parts, and whether they are; where weights are shared, then the filler until all have as many."""
        ours = [(part, True) for part in parts]
        most = max(self.gather(len(parts))) if self.share_weights else 0
        return ours + [(filler, False)] * (most - len(parts))

    def gather(self, value: T) -> list[T]:
        """What each rank has, by rank. All ranks must ask."""
        if self.size == 1:
            return [value]
        found: list[T | None] = [None] * self.size
        dist.all_gather_object(found, value)
        return [one for one in found if one is not None]


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meets the other ranks."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if dist.is_initialized():  # by Ray Train, which also ends it
        yield Ranks(dist.get_rank(), size)
        return
    has_gpus = torch.cuda.is_available()
    if has_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"  # objects are gathered on the CPU, gradients where they are
    store, rank, _ = next(rendezvous("env://"))
    # torchrun keeps one store over its restarts: the addresses of ranks that died would still be in it
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    attempt = dist.PrefixStore(f"attempt-{restart}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        ranks = Ranks(dist.get_rank(), size)
        yield ranks
        ranks.gather(True)  # nobody leaves, and takes its connections along, while another still writes
    finally:
        dist.destroy_process_group()
