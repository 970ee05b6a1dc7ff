"""Servers that die at any moment: nothing acknowledged is lost, nothing is doubled, and all of it ends."""

from __future__ import annotations

import pytest

from tests.chaos.history import violations
from tests.chaos.killing import Servers, run


@pytest.mark.parametrize(
    ("count", "kills", "seed"),
    [
        (1, 3, 1),
        (2, 3, 2),
        *(pytest.param(count, 50, seed, marks=pytest.mark.soak) for count in (1, 2) for seed in range(10, 15)),
    ],
)
def test_what_servers_said_before_they_were_killed_holds(tmp_path, model_folder, model, count, kills, seed):
    servers = Servers(tmp_path / "api", model_folder, count)
    try:
        history, found = run(servers, model, kills, seed)
    finally:
        servers.stop()
    assert len(servers.down_s) == kills and history.of("post") and history.of("commit")
    assert violations(history, found) == []
