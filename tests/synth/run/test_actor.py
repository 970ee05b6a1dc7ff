"""The actor without Ray: what one exchange does, and how it ends its process."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import pytest

from dail.synth.core.errors import EngineDead, UsageError
from dail.synth.run import actor
from dail.synth.run.actor import EngineActor
from tests.synth.run.stub_pair import Refusing, StubPair, config, request


@pytest.fixture
def exited(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the actor ends its process, which here it only believes to do."""
    event = threading.Event()
    monkeypatch.setattr(actor, "_EXIT_AFTER_S", 0.0)
    monkeypatch.setattr(os, "_exit", lambda code: event.set())
    return event


@pytest.fixture
def engine(tmp_path: Path) -> EngineActor:
    started = EngineActor()
    started.start(config(), partial(StubPair, marker=tmp_path / "done"), None)
    return started


def test_an_exchange_returns_early_when_all_is_done(engine: EngineActor) -> None:
    exchange = engine.exchange([request("a"), request("b")], [], for_s=60.0)
    assert {rollout.unit_id for rollout in exchange.finished} == {"a", "b"}
    assert exchange.pending == 0


def test_an_exchange_ends_after_its_time_and_the_next_goes_on(engine: EngineActor) -> None:
    first = engine.exchange([request("a")], [], for_s=0.001)
    assert (first.finished, first.pending, first.written["a"].ids) == ([], 1, [0])
    second = engine.exchange([], [], for_s=60.0)
    assert [rollout.unit_id for rollout in second.finished] == ["a"]


def test_a_poisoned_request_fails_alone(engine: EngineActor) -> None:
    exchange = engine.exchange([request("poisoned"), request("a")], [], for_s=60.0)
    assert [rollout.unit_id for rollout in exchange.finished] == ["a"]
    (failure,) = exchange.failed
    assert (failure.unit_id, failure.code, failure.retryable) == ("poisoned", "context_length_exceeded", False)


def test_a_cancelled_unit_gives_no_trace(engine: EngineActor) -> None:
    engine.exchange([request("a"), request("b")], [], for_s=0.001)
    exchange = engine.exchange([], ["a"], for_s=60.0)
    assert [rollout.unit_id for rollout in exchange.finished] == ["b"]


def test_a_second_add_of_a_unit_is_its_error_and_not_the_engines(engine: EngineActor) -> None:
    engine.exchange([request("a"), request("b")], [], for_s=0.001)
    exchange = engine.exchange([request("a")], [], for_s=60.0)
    assert [(failure.unit_id, failure.code, failure.retryable) for failure in exchange.failed] == [
        ("a", "added_twice", True)
    ]
    assert [rollout.unit_id for rollout in exchange.finished] == ["b"]
    again = engine.exchange([request("a")], [], for_s=60.0)
    assert again.failed == [] and [rollout.unit_id for rollout in again.finished] == ["a"]


def test_a_failed_step_ends_the_process_and_tells_the_cause(engine: EngineActor, exited: threading.Event) -> None:
    with pytest.raises(EngineDead, match="the engine stopped: EngineDead: the engine is on fire"):
        engine.exchange([request("dead-1")], [], for_s=60.0)
    assert exited.wait(5.0)


def test_settings_that_never_work_do_not_look_like_a_crash(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a poem"):
        EngineActor().start(config(), partial(Refusing, marker=tmp_path / "done"), None)


def test_health_is_quiet_between_exchanges(engine: EngineActor) -> None:
    engine.exchange([request("a")], [], for_s=0.001)
    assert engine.health().quiet_s == 0.0
    assert engine.health().pid == os.getpid()
