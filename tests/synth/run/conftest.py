"""What several tests of this room need: the demo model, its prompts, and one Ray for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray, started the way a worker starts it."""
    import ray

    from dail.synth.run.ray_cluster import ray_cluster
    from tests.synth.run import faulty_pair, stub_pair

    with ray_cluster():
        for module in (stub_pair, faulty_pair):
            ray.cloudpickle.register_pickle_by_value(module)  # actors have no tests on their path
        yield
