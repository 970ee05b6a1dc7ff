"""Whoever watches a batch is told at once, and again, what it waits for."""

from __future__ import annotations

from typing import Any

import pytest

from dail.serve import waiting
from dail.serve.waiting import Waiting

NO_WORKER = {"reason": "no_worker", "detail": "no worker was heard of; start one: dail worker --api URL --model FOLDER"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`clock[0]` is the time."""
    now = [1000.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.delenv("DAIL_TOKEN", raising=False)
    lines: list[str] = []
    monkeypatch.setattr(waiting, "say", lines.append)
    return lines


def batch(waiting_for: Any = None, status: str = "in_progress", **units: int) -> dict[str, Any]:
    counts = {"waiting": 0, "queued": 0, "leased": 0, **units}
    return {"status": status, "units": counts, "waiting_for": waiting_for, "model": {"name": "tiny"}}


def test_that_there_is_no_worker_is_said_at_once_with_the_command_and_then_counted(clock: list[float], said: list[str]):
    watch = Waiting("http://api:1")
    assert watch.look(batch(NO_WORKER, queued=2)) == "0 s for a worker"
    assert said == ["no worker was heard of; start one: dail worker --api http://api:1 --model FOLDER"]
    clock[0] += 90
    assert watch.look(batch(NO_WORKER, queued=2)) == "90 s for a worker" and len(said) == 1


def test_where_tokens_are_wanted_the_command_says_which(monkeypatch: pytest.MonkeyPatch, said: list[str]):
    monkeypatch.setenv("DAIL_TOKEN", "secret")
    Waiting("http://api:1").look(batch(NO_WORKER, queued=2))
    assert said[0].endswith("(with a token of its own in DAIL_TOKEN: dail token new --name WORKER --scope worker)")


def test_a_worker_whose_engine_starts_is_told_from_none(clock: list[float], said: list[str]):
    watch = Waiting("http://api:1")
    watch.look(batch(NO_WORKER, queued=2))
    assert watch.look(batch(queued=2)) == "0 s for an engine" and len(said) == 1, "one that is ready leases at once"
    clock[0] += 6
    assert watch.look(batch(queued=2)) == "6 s for an engine"
    assert said[1].startswith("a worker with the model tiny is there and has taken nothing of this batch yet")


@pytest.mark.parametrize("found", [batch(queued=1, leased=1), batch(), batch(status="completed")])
def test_nothing_is_waited_for_where_somebody_works_or_all_is_done(found: dict[str, Any], said: list[str]):
    assert Waiting("http://api:1").look(found) is None and not said


def test_who_starts_the_worker_is_not_told_to(said: list[str]):
    assert Waiting("http://api:1", starts_worker=True).look(batch(NO_WORKER, queued=2)) == "0 s for a worker"
    assert not said
