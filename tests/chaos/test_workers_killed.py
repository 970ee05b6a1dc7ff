"""Workers that die, stand still longer than their leases, or have another time of day than the API."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.chaos.history import violations
from tests.chaos.killing import ENV, LEASE_S, Servers, run
from tests.chaos.working import Workers, clock_of, set_clock
from tests.conftest import DEMO_MODEL
from tests.serve.conftest import start_api

SYNTHESIS = {"max_tokens": 24}
HOUR_S = 3600


@pytest.fixture(scope="module")
def all_workers(tmp_path_factory):
    with Workers(tmp_path_factory.mktemp("chaos") / "workers") as workers:
        yield workers


@pytest.fixture
def workers(all_workers):
    yield all_workers
    all_workers.clear()


def held(url, workers, seed, trouble):
    """What nobody may break, whatever befalls three workers; a history of all their commits."""
    for _ in range(3):
        workers.start(url)
    history, found = run([url], None, seed, trouble, synthesis=SYNTHESIS, pause_s=1.0)
    workers.check()
    history.calls += workers.told()
    assert history.of("post") and history.of("commit")
    assert violations(history, found) == []
    return history


@pytest.mark.parametrize(("times", "seed"), [(3, 8), pytest.param(100, 40, marks=pytest.mark.soak)])
def test_workers_that_die_or_stand_still_for_two_leases(tmp_path, workers, times, seed):
    def trouble(dice):
        for n in range(times):
            time.sleep(dice.uniform(0.2, 1.0))
            pid = dice.choice(workers.pids)
            if n % 2:
                workers.kill(pid)
                workers.start(servers.urls[0])
            else:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(2 * LEASE_S)
                os.kill(pid, signal.SIGCONT)

    with Servers(tmp_path / "api", DEMO_MODEL) as servers:
        held(servers.urls[0], workers, seed, trouble)


@pytest.mark.parametrize(("times", "seed"), [(4, 9), pytest.param(50, 41, marks=pytest.mark.soak)])
def test_clocks_that_are_set_by_an_hour(tmp_path, workers, times, seed):
    def trouble(dice):
        for n in range(times):
            by_s = dice.choice((-HOUR_S, HOUR_S))
            if n % 2:
                workers.set_clocks(by_s)
            else:
                set_clock(clock, by_s)
            time.sleep(dice.uniform(1.2, 2.0))

    clock = tmp_path / "clock"
    # long enough for a machine that is busy, and an hour past it lapses all the same
    lease = {"DAIL_LEASE_S": "60"}
    server = start_api(tmp_path / "api", DEMO_MODEL, **(ENV | lease | clock_of(clock)))
    try:
        history = held(server.url, workers, seed, trouble)
    finally:
        server.kill()
    assert not history.of("commit", "refused"), "a lease lapsed for a clock"
