"""The pool on a real Ray: every unit comes back exactly once, whatever happens to the actors."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.errors import EngineDead, UsageError
from dail.synth.rollout.base import Rollout
from dail.synth.run import pool as pool_module
from dail.synth.run.actor import UnitFailure
from dail.synth.run.pool import RolloutPool, rollout_pool
from tests.synth.run.stub_pair import Refusing, StubPair, config, request, stub_tokens

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "EXCHANGE_S", 0.05)
    monkeypatch.setattr(pool_module, "RESTART_PAUSE_S", 0.05)


async def drain(pool: RolloutPool, num_units: int, retry: bool = True) -> tuple[list[Rollout], list[UnitFailure]]:
    """Until so many units ended; what died with an engine is tried again, as a worker's source would."""
    finished: list[Rollout] = []
    failed: list[UnitFailure] = []
    while len(finished) + len(failed) < num_units:
        results = await asyncio.wait_for(pool.next_results(), 60.0)
        finished += results.finished
        again = [failure.unit_id for failure in results.failed if retry and failure.retryable]
        failed += [failure for failure in results.failed if failure.unit_id not in again]
        pool.submit([request(unit_id) for unit_id in again])
    return finished, failed


def run(
    names: Sequence[str], marker: Path, retry: bool = True, stub: Any = None, actors: int = 1, **settings: object
) -> tuple[list[Rollout], list[UnitFailure], RolloutPool]:
    async def go() -> tuple[list[Rollout], list[UnitFailure], RolloutPool]:
        async with rollout_pool(config(actors=actors, **settings), stub or partial(StubPair, marker=marker)) as pool:
            while pool.room() < 5 * actors:
                await asyncio.sleep(0.05)
            pool.submit([request(name) for name in names])
            return *(await drain(pool, len(names), retry)), pool

    return asyncio.run(go())


def names(*special: str, plain: int = 40) -> list[str]:
    return [*(f"unit-{number}" for number in range(plain // 2)), *special, *(f"late-{n}" for n in range(plain // 2))]


def test_two_actors_finish_every_unit_once(tmp_path: Path) -> None:
    finished, failed, _ = run(names(), tmp_path / "done", actors=2)
    assert sorted(rollout.unit_id for rollout in finished) == sorted(names())
    assert failed == []
    assert len({rollout.tokens.ids[0] for rollout in finished}) == 2, "one actor did all the work"


def test_an_actor_never_holds_more_than_its_engine_and_a_quarter(tmp_path: Path) -> None:
    finished, _, _ = run(names(), tmp_path / "done", actors=1)
    assert max(rollout.tokens.ids[1] for rollout in finished) == 10  # 8 rows and a quarter more


def test_a_killed_actor_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    units = names("sigkill-1")
    finished, failed, pool = run(units, tmp_path / "done", actors=2)
    assert sorted(rollout.unit_id for rollout in finished) == sorted(units)
    assert (failed, pool.num_restarts) == ([], 1)


def test_a_dead_engine_costs_no_unit_anything(tmp_path: Path) -> None:
    finished, failed, pool = run(names("dead-1"), tmp_path / "done", retry=False, actors=1)
    assert sorted(rollout.unit_id for rollout in finished) == sorted(names("dead-1"))
    assert (failed, pool.num_restarts) == ([], 1)


def test_a_unit_that_kills_its_engine_is_found_and_the_others_finish(tmp_path: Path) -> None:
    units = names("dead-1-always", "sigkill-2-always", plain=16)
    finished, failed, _ = run(units, tmp_path / "done", retry=False, actors=2)
    assert sorted((failure.unit_id, failure.code, failure.retryable) for failure in failed) == [
        ("dead-1-always", "poisoned_item", False), ("sigkill-2-always", "poisoned_item", False),
    ]  # fmt: skip
    assert any("the engine is on fire" in failure.detail for failure in failed)
    assert sorted(rollout.unit_id for rollout in finished) == sorted(names(plain=16))


def test_a_unit_that_kills_its_engine_by_itself_is_found(tmp_path: Path) -> None:
    finished, failed, pool = run(["dead-1-always"], tmp_path / "done", retry=False, actors=1)
    assert [(failure.unit_id, failure.code) for failure in failed] == [("dead-1-always", "poisoned_item")]
    assert finished == [] and pool.num_restarts == 2


def test_engines_that_somebody_kills_again_and_again_cost_no_unit_anything(tmp_path: Path) -> None:
    """More often than the budget has restarts, since something moved in between."""
    units = [f"unit-{number}" for number in range(12)]

    async def go() -> tuple[list[Rollout], list[UnitFailure]]:
        stub = partial(StubPair, marker=tmp_path / "done", step_s=0.1, steps=12)
        async with rollout_pool(config(actors=1, restarts=2), stub) as pool:
            await pool.ready()
            pool.submit([request(name) for name in units])
            drained = asyncio.create_task(drain(pool, len(units), retry=False))
            for _ in range(6):
                before = sum(len(written.tokens) for written in pool.written.values())
                while not drained.done():
                    await asyncio.sleep(0.05)
                    moved = sum(len(written.tokens) for written in pool.written.values()) > before + 2
                    if moved and pool._slots[0].limits is not None:
                        break
                actor, died = pool._slots[0].actor, pool.num_restarts
                os.kill((await actor.health.remote()).pid, signal.SIGKILL)
                while pool.num_restarts == died:
                    await asyncio.sleep(0.05)
            return await drained

    finished, failed = asyncio.run(go())
    assert sorted(rollout.unit_id for rollout in finished) == sorted(units) and failed == []


def test_a_second_attempt_gets_nothing_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled and submitted again while its exchange runs."""
    monkeypatch.setattr(pool_module, "EXCHANGE_S", 2.0)  # the first attempt ends in the one in which it is cancelled

    async def go() -> list[Rollout]:
        stub = partial(StubPair, marker=tmp_path / "done", step_s=0.3, steps=2)
        async with rollout_pool(config(actors=1), stub) as pool:
            await pool.ready()
            pool.submit([request("a")])
            while "a" not in pool._slots[0].units:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            pool.cancel("a")
            pool.submit([replace(request("a"), prefix=stub_tokens(1))])
            finished, _ = await drain(pool, 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.next_results(), 1.5)
            return finished

    (rollout,) = asyncio.run(go())
    assert rollout.tokens.ids[2] == 1, "the second attempt goes on from one token"


def test_a_unit_that_is_here_already_goes_on_as_it_is(tmp_path: Path) -> None:
    async def go() -> list[Rollout]:
        async with rollout_pool(config(actors=1), partial(StubPair, marker=tmp_path / "done", step_s=0.1)) as pool:
            await pool.ready()
            pool.submit([request("a")])
            pool.submit([request("a")])
            finished, _ = await drain(pool, 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.next_results(), 0.5)
            return finished

    assert [rollout.unit_id for rollout in asyncio.run(go())] == ["a"]


def test_a_hung_step_is_found_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "HANG_S", 1.0)
    monkeypatch.setattr(pool_module, "HEALTH_EVERY_S", 0.3)
    finished, failed, pool = run(names("hang-1", plain=4), tmp_path / "done", retry=False, actors=1)
    assert (len(finished), failed, pool.num_restarts) == (5, [], 1)
    assert "no step ended" in pool._slots[0].cause


def test_a_stopped_process_is_found_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "HANG_S", 1.0)
    monkeypatch.setattr(pool_module, "HEALTH_EVERY_S", 0.3)
    pids: list[int] = []

    async def go() -> list[Rollout]:
        async with rollout_pool(config(actors=1), partial(StubPair, marker=tmp_path / "done", step_s=0.2)) as pool:
            await pool.ready()
            pool.submit([request("a"), request("b")])
            while not any(len(written.tokens) for written in pool.written.values()):
                await asyncio.sleep(0.05)
            pids.append((await pool._slots[0].actor.health.remote()).pid)
            while pool._slots[0].health is None:
                await asyncio.sleep(0.05)
            os.kill(pids[0], signal.SIGSTOP)
            return (await drain(pool, 2))[0]

    assert {rollout.unit_id for rollout in asyncio.run(go())} == {"a", "b"}
    assert b"ray::" not in _command(pids[0]), "the stopped process was left behind"


def _command(pid: int) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


def test_a_spent_restart_budget_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineDead, match=r"no engine is left: each died more than 1 times.*the engine is on fire"):
        run([f"dead-{number}-always" for number in range(4)], tmp_path / "done", actors=1, restarts=1)


def test_settings_that_never_work_are_not_retried(tmp_path: Path) -> None:
    async def go() -> None:
        async with rollout_pool(config(actors=2), partial(Refusing, marker=tmp_path / "done")) as pool:
            try:
                await asyncio.wait_for(pool.ready(), 60.0)
            finally:
                assert pool.num_restarts <= 1  # the second actor may be on its way meanwhile

    with pytest.raises(UsageError, match="a poem"):
        asyncio.run(go())


def test_a_poisoned_unit_fails_alone(tmp_path: Path) -> None:
    finished, failed, _ = run(names("poisoned"), tmp_path / "done", actors=1)
    assert [failure.unit_id for failure in failed] == ["poisoned"]
    assert len(finished) == 40


def test_nothing_comes_of_a_cancelled_unit(tmp_path: Path) -> None:
    async def go() -> list[Rollout]:
        async with rollout_pool(config(actors=1), partial(StubPair, marker=tmp_path / "done", step_s=0.1)) as pool:
            await pool.ready()
            pool.submit([request(name) for name in ("waits", "goes")])
            while not len(pool.written["goes"].tokens):
                await asyncio.sleep(0.02)
            pool.cancel("goes")
            finished, _ = await drain(pool, 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.next_results(), 0.5)
            return finished

    assert [rollout.unit_id for rollout in asyncio.run(go())] == ["waits"]


def test_room_counts_what_is_in_flight(tmp_path: Path) -> None:
    async def go() -> tuple[int, int, int]:
        async with rollout_pool(config(actors=1), partial(StubPair, marker=tmp_path / "done", step_s=1.0)) as pool:
            before = pool.room()
            await pool.ready()
            empty = pool.room()
            pool.submit([request("a"), request("b")])
            return before, empty, pool.room()

    assert asyncio.run(go()) == (0, 5, 8), "a lazy rollout takes one of the 8 rows"
