"""Servers that die at any moment: nothing acknowledged is lost, nothing is doubled, and all of it ends."""

from __future__ import annotations

import pytest

from tests.chaos.history import violations
from tests.chaos.killing import Servers, random_kills, run
from tests.chaos.serving import POINTS


@pytest.mark.parametrize(
    ("count", "kills", "seed"),
    [
        (1, 3, 1),
        (2, 3, 2),
        *(pytest.param(count, 50, seed, marks=pytest.mark.soak) for count in (1, 2) for seed in range(10, 15)),
    ],
)
def test_what_servers_said_before_they_were_killed_holds(tmp_path, model_folder, model, count, kills, seed):
    with Servers(tmp_path / "api", model_folder, count) as servers:
        history, found = run(servers.urls, model, seed, lambda dice: random_kills(servers, kills, dice))
    assert len(servers.down_s) == kills and history.of("post") and history.of("commit")
    assert violations(history, found) == []


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("kills", "seed"), [(3, 3), pytest.param(100, 20, marks=pytest.mark.soak)])
def test_a_server_that_dies_at_this_point_keeps_what_it_said(tmp_path, model_folder, model, point, kills, seed):
    def die(dice):
        return [servers.die_at(0, point, dice.randint(1, 4)) for _ in range(kills)]

    with Servers(tmp_path / "api", model_folder) as servers:
        history, found = run(servers.urls, model, seed, die)
    assert len(servers.down_s) == kills and history.of("post") and history.of("commit")
    assert violations(history, found) == []
