"""Servers that stand still, that those who ask do not reach, or whose database dies: the same promises."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack

import psycopg
import pytest

from tests.chaos.history import violations
from tests.chaos.killing import LEASE_S, Servers, run
from tests.chaos.way import FAULTS, Way


def sizes(short, *long):
    return [*short, *(pytest.param(*one, marks=pytest.mark.soak) for one in long)]


@pytest.mark.parametrize(("count", "stops", "seed"), sizes([(2, 1, 4)], (1, 50, 30), (2, 50, 31)))
def test_servers_that_stand_still_for_two_leases(tmp_path, model_folder, model, count, stops, seed):
    def stand_still(dice):
        for _ in range(stops):
            time.sleep(dice.uniform(0.05, 0.6))
            server = dice.choice(servers.live)
            server.send(signal.SIGSTOP)
            time.sleep(2 * LEASE_S)
            server.send(signal.SIGCONT)

    with Servers(tmp_path / "api", model_folder, count) as servers:
        history, found = run(servers.urls, model, seed, stand_still)
    assert history.of("post") and history.of("commit")
    assert violations(history, found) == []


@pytest.mark.parametrize(("faults", "seed"), sizes([(12, 5)], (300, 32)))
def test_a_network_that_tears_loses_and_falls_silent(tmp_path, model_folder, model, faults, seed):
    def break_lines(dice):
        planned = [fault for fault in FAULTS for _ in range(faults // len(FAULTS))]
        dice.shuffle(planned)
        for fault in planned:
            way = dice.choice(ways)
            way.next.append(fault)
            time.sleep(dice.uniform(0.05, 0.4))
            if dice.random() < 0.3:
                way.cut()
        until = time.monotonic() + 60
        while any(way.next for way in ways):
            assert time.monotonic() < until, "nobody asks any more"
            time.sleep(0.05)

    with Servers(tmp_path / "api", model_folder, 2) as servers, ExitStack() as stack:
        ways = [stack.enter_context(Way(url)) for url in servers.urls]
        history, found = run([way.url for way in ways], model, seed, break_lines, timeout_s=2 * LEASE_S)
        befell = [fault for way in ways for fault in way.befell]
    assert len(befell) == faults and set(befell) == set(FAULTS)
    assert history.of("post") and history.of("commit")
    assert violations(history, found) == []


@pytest.mark.parametrize(("deaths", "seed"), sizes([(4, 6)], (50, 33)))
def test_servers_and_the_backends_of_their_database_die(tmp_path, postgres, model_folder, model, deaths, seed):
    """A backend's SIGKILL takes all connections along: PostgreSQL goes through its recovery, as after a crash."""
    url = postgres()

    def die(dice):
        for n in range(deaths):
            time.sleep(dice.uniform(0.2, 0.8))
            if n % 2:
                servers.kill(dice.randrange(2))
            else:
                kill_a_backend(url, dice)

    with Servers(tmp_path / "api", model_folder, 2, DAIL_STORE=url) as servers:
        history, found = run(servers.urls, model, seed, die)
    assert len(servers.down_s) == deaths // 2 and history.of("post") and history.of("commit")
    assert violations(history, found) == []


def kill_a_backend(url: str, dice: random.Random) -> None:
    with psycopg.connect(url) as sql:
        rows = sql.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'dail'"
        ).fetchall()
    os.kill(dice.choice(rows)[0], signal.SIGKILL)
    until = time.monotonic() + 60
    while True:
        time.sleep(0.1)
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert time.monotonic() < until, "PostgreSQL does not come back"
        else:
            return
