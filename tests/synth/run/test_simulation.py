"""Worker × pool × an API whose leases lapse, in any order of faults: nothing lost, nothing twice, no engine harmed."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dail.synth.core.errors import StorageError
from dail.synth.core.files import Objects
from dail.synth.method.prompts import Prompts
from dail.synth.run import actor as actor_module
from dail.synth.run import pool as pool_module
from dail.synth.run import worker as worker_module
from dail.synth.run.pool import rollout_pool
from dail.synth.run.worker import Worker
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import identify
from dail.synth.schema.shards import decode_shard
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Unit
from tests.conftest import DEMO_MODEL
from tests.synth.run.simulation import LEASE_S, Api, Clock, Cluster, Script, Writer, written
from tests.synth.run.stub_pair import config

PROMPTS = Prompts(DEMO_MODEL)
MODEL = identify(DEMO_MODEL)
UNITS = st.integers(0, 11)
AT_THE_END_S = 5_400.0  # three engines, one after the other, that hang at their start


class Faults(RuleBasedStateMachine):
    """One worker with two engines; `teardown` mends everything and waits, and then each unit has its end."""

    def __init__(self, actors: int = 2, restarts: int = 1000) -> None:
        super().__init__()
        self.config = config(actors=actors, restarts=restarts)
        self.clock = Clock()
        asyncio.set_event_loop(self.clock)
        self.cluster, self.api = Cluster(self.clock), Api(self.clock, "/none")
        self.scripts: dict[str, Script] = {}
        self.files: dict[str, bytes] = {}
        self.is_disk_full = False
        self.beside_s = 0.01  # how long work in a thread takes
        self.num_workers = 0
        self._patch()
        self._begin()

    def _patch(self) -> None:
        self._patches = pytest.MonkeyPatch()
        for module in (worker_module, pool_module):
            self._patches.setattr(module, "time", self.clock)
        self._patches.setattr(actor_module, "time", _Steps())
        self._patches.setattr(pool_module._log, "disabled", True)
        self._patches.setattr(pool_module, "ray", self.cluster)
        self._patches.setattr(pool_module, "_new_actor", self.cluster.new_actor)
        self._patches.setattr(worker_module, "CHECKPOINT_TOKENS", 4)
        self._patches.setattr(asyncio, "to_thread", self._beside)
        self._patches.setattr(Objects, "put", lambda _, key, data: self._put(key, data))

    async def _beside(self, function: Any, *arguments: Any) -> Any:
        await asyncio.sleep(self.beside_s)
        return function(*arguments)

    def _put(self, key: str, data: bytes) -> None:
        if self.is_disk_full:
            raise StorageError("No space left on device")
        self.files[key] = data

    def _begin(self) -> None:
        self.num_workers += 1
        self.stop = asyncio.Event()
        self.running = self.clock.create_task(self._work(f"w{self.num_workers}"))

    async def _work(self, name: str) -> None:
        async with rollout_pool(self.config, partial(_make, self.scripts)) as self.pool:
            self.cluster.pool = self.pool
            self.worker = Worker(self.api.view(name), self.pool, PROMPTS)
            await self.worker.run(self.stop)

    @rule(length=st.integers(1, 30), kind=st.sampled_from(["fine"] * 6 + ["kills", "refused"]), place=st.integers(0, 5))
    def submit(self, length: int, kind: str, place: int) -> None:
        name = f"u{len(self.scripts)}"
        self.scripts[name] = Script(length, min(place, length - 1) if kind == "kills" else None, kind == "refused")
        unit = Unit(
            unit_id=name, batch_id="b", item_id=name, sample=0, epoch=0, item=ExpertSolution(problem="A", solution="7"),
            synthesis=Synthesis(max_tokens=40), model=MODEL,
        )  # fmt: skip
        self.api.add(unit)

    @rule(seconds=st.sampled_from([0.1, 0.4, 1.0, 3.0, 10.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.clock.pass_time(seconds)

    @rule(is_away=st.booleans())
    def cut_or_mend(self, is_away: bool) -> None:
        self.api.is_away = is_away

    @rule()
    def lose_a_reply(self) -> None:
        self.api.loses_reply = True

    @rule(unit=UNITS)
    def lapse(self, unit: int) -> None:
        self.api.lapse(f"u{unit}")

    @rule(unit=UNITS)
    def another_takes(self, unit: int) -> None:
        self.api.another_takes(f"u{unit}", self.scripts)

    @rule(unit=UNITS)
    def cancel(self, unit: int) -> None:
        self.api.cancel(f"u{unit}")

    @rule(unit=UNITS)
    def retry(self, unit: int) -> None:
        self.api.retry(f"u{unit}")

    @rule(number=st.integers(0, 1))
    def kill(self, number: int) -> None:
        for engine in self.cluster.living()[number : number + 1]:
            engine.is_murdered = True
            engine.end()

    @rule(number=st.integers(0, 1), how=st.sampled_from(["step", "process"]))
    def hang(self, number: int, how: Any) -> None:
        for engine in self.cluster.living()[number : number + 1]:
            engine.hang(how)

    @rule(is_full=st.booleans())
    def fill_the_disk(self, is_full: bool) -> None:
        self.is_disk_full = is_full

    @rule(beside_s=st.sampled_from([0.01, 0.3, 2.0]))
    def slow_down(self, beside_s: float) -> None:
        self.beside_s = beside_s

    @rule()
    def restart_the_worker(self) -> None:
        self.stop.set()
        self.clock.run_until_complete(asyncio.wait([self.running]))
        self.running.result()
        self._begin()

    @invariant()
    def nobody_made_a_mistake(self) -> None:
        assert not self.cluster.mistakes, "an engine was told what it must not be"
        assert not self.api.mistakes
        assert not self.running.done(), "the worker ended by itself"

    def teardown(self) -> None:
        try:
            self._mend_and_check()
        finally:
            self._end()

    def _mend_and_check(self) -> None:
        self.api.is_away = self.api.loses_reply = self.is_disk_full = False
        self.beside_s = 0.01
        deadline = self.clock.now + AT_THE_END_S
        while self.api.open() and self.clock.now < deadline and not self.running.done():
            self.clock.pass_time(LEASE_S)
        self.clock.pass_time(LEASE_S)
        self.nobody_made_a_mistake()
        self._check_ends()
        self._check_nothing_is_left()

    def _check_ends(self) -> None:
        for name, record in self.api.records.items():
            script = self.scripts[name]
            if record.is_cancelled and record.state == "cancelled":
                continue
            if record.state == "committed":
                self._check_trace(name)
            if record.state == script.end:
                continue
            assert record.state == "failed", f"{name} is {record.state} for ever: {record.failure}"
            assert record.failure and record.failure.code == "poisoned_item"
            assert self.cluster.murdered_alone.count(name) > 1, f"{name} is innocent: {record.failure}"

    def _check_trace(self, name: str) -> None:
        record = self.api.records[name]
        if record.shard is None:
            return  # another worker's
        row = decode_shard(self.files[record.shard.key], record.shard.key)[record.shard.row]
        assert list(row.trace_ids) == written(name, self.scripts[name].length).ids

    def _check_nothing_is_left(self) -> None:
        assert not self.worker._held and not self.worker._prepared and not self.worker._known
        assert not self.pool.written and not self.pool.broken_off and not self.pool._suspects._records
        assert not self.pool._waiting and not self.pool._untried
        assert not any(slot.units or slot.trial for slot in self.pool._slots)

    def _end(self) -> None:
        self.api.is_away = False
        self.stop.set()
        self.clock.run_until_complete(asyncio.wait([self.running]))
        for task in asyncio.all_tasks(self.clock):
            task.cancel()
        self.clock.pass_time(1.0)
        self.clock.close()
        asyncio.set_event_loop(None)
        self._patches.undo()


class _Steps:
    """Stands for the module `time` in an actor: some steps of its engine fill an exchange."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += 0.1
        return self._now


def _make(scripts: dict[str, Script], _: object) -> Any:
    return Writer(scripts)


def run(examples: int, steps: int, is_random: bool) -> None:
    settings = hypothesis_settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=not is_random
    )
    run_state_machine_as_test(Faults, settings=settings)


def test_any_order_of_faults() -> None:
    run(40, 30, is_random=False)


@pytest.mark.parametrize("kinds", ["kk", "ffkk", "kkff", "kfkf"])
def test_two_that_kill_their_one_engine_at_once_leave_it_to_the_others(kinds: str) -> None:
    """Neither says anything of the other, so the third may have to be asked before the engine is given up."""
    faults = Faults(actors=1, restarts=3)
    for kind in kinds + "f" * 6 * ("f" in kinds):
        faults.submit(10, "kills" if kind == "k" else "fine", 0)
    faults.teardown()


@pytest.mark.parametrize("how", ["step", "process"])
@pytest.mark.parametrize("trouble", ["cancel", "lapse"])
def test_an_engine_that_hangs_when_its_last_unit_is_taken_from_it_is_ended_all_the_same(trouble: str, how: str) -> None:
    """Nothing is left in it then, but what it was told last never comes back, and whoever waits would wait for ever."""
    faults = Faults(actors=1)
    faults.submit(30, "fine", 0)
    faults.wait(0.1)
    while not faults.pool._slots[0].units:
        faults.wait(0.1)
    faults.hang(0, how)
    getattr(faults, trouble)(0)
    faults.submit(10, "fine", 0)
    faults.api.sweep()
    faults.teardown()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_ten_thousand_orders_of_faults() -> None:
    run(10_000, 60, is_random=True)
