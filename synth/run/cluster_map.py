"""A function over many arguments, as tasks on the Ray cluster of RAY_ADDRESS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from dail.synth.run.ray_cluster import ray_cluster

Done = TypeVar("Done")


def map_on_cluster(function: Callable[..., Done], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Done]:
    """What the function gives, in the order in which tasks end. Its first error ends the others, and is raised here."""
    with ray_cluster():
        task = ray.remote(function)
        open_tasks = [task.remote(*one) for one in arguments]
        try:
            while open_tasks:
                (done,), open_tasks = ray.wait(open_tasks)
                yield ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        finally:
            for left in open_tasks:
                ray.cancel(left, force=True)
