"""Worker, pool and actors as they are, on a clock that jumps: no Ray, no threads, no engine, and nothing waits.

    API (here)  ──lease, heartbeat, commit, fail──  Worker ── Pool ──  Cluster (here) ── EngineActor ── Writer (here)

Hours pass in a second, and the same steps give the same run. What each trace must be is known from its unit's name.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Literal

from ray.exceptions import RayActorError, RayTaskError

from dail.synth.config import SynthConfig
from dail.synth.core.errors import EngineDead, ItemError
from dail.synth.engine.base import Limits
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.run.actor import EngineActor, Exchange, Health, Request
from dail.synth.run.pool import Pool
from dail.synth.run.unit_source import Fenced, Progress, Standing
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import BLAMELESS, BeatReply, Failure, LeaseReply, ShardRef, Unit

LEASE_S = 5.0
LATENCY_S = 0.05
MAX_FAILURES = 3


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time is that of its next timer."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time  # so that it stands for the module `time` too

    def pass_time(self, seconds: float) -> None:
        self.run_until_complete(asyncio.sleep(seconds))


class _Jumping(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing will ever happen again"
        self._clock.now += max(0.0, timeout)
        return super().select(0)


@dataclass
class Script:
    """What becomes of a unit: how long its trace is, at which place it kills its engine, whether it can run at all."""

    length: int
    kills_at: int | None = None
    is_refused: bool = False

    @property
    def end(self) -> str:
        """Its state when nothing more will happen to it."""
        return "failed" if self.is_refused or self.kills_at is not None else "committed"


def written(unit_id: str, length: int) -> Tokens:
    """The first tokens of a unit's trace, which are the same whoever writes them."""
    ids = [40 + (hash_of(unit_id) + 7 * place) % 50 for place in range(length)]
    return Tokens(ids, [1.0] * length, [None] * length, [-0.1] * length, [-0.1] * length)


def hash_of(unit_id: str) -> int:
    return sum(map(ord, unit_id))


class Writer:
    """Writes a token a step of every unit in it; as strict about its callers as a pair."""

    engine_name = "simulated"
    limits = Limits(model_tokens=2000, rows=8, step_tokens=4096, kv_tokens=1 << 20, kv_block=16)

    def __init__(self, scripts: dict[str, Script]) -> None:
        self._scripts = scripts
        self._written: dict[str, Tokens] = {}

    def add(self, request: RolloutRequest) -> None:
        name = request.unit_id
        assert name not in self._written, f"{name} is here already"
        assert request.prefix == written(name, len(request.prefix)), f"{name} goes on from what is not its trace"
        if self._scripts[name].is_refused:
            raise ItemError("context_length_exceeded", "too long")
        self._written[name] = request.prefix[:]

    def cancel(self, unit_id: str) -> None:
        self._written.pop(unit_id, None)

    def step(self) -> list[Rollout]:
        ended = []
        for name, tokens in list(self._written.items()):
            script = self._scripts[name]
            if script.kills_at is not None and len(tokens) >= script.kills_at:
                raise EngineDead(f"{name} kills")
            self._written[name] = written(name, min(len(tokens) + 1, script.length))
            if len(self._written[name]) == script.length:
                ended.append(Rollout(name, self._written.pop(name), "length", "lazy", rows=script.length))
        return ended

    def pending(self) -> int:
        return len(self._written)

    def progress(self) -> dict[str, Tokens]:
        return {name: tokens[:] for name, tokens in self._written.items()}

    def close(self) -> None: ...


class _Inner(EngineActor):
    """Leaves the process alone, which is the tests'."""

    def _die(self, what: str, error: Exception) -> Any:
        raise EngineDead(f"{what}: {error}") from error


class Actor:
    """An actor's handle: its calls run one after another, until its process ends."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._inner = cluster, _Inner()
        self._tail: asyncio.Future[Any] | None = None
        self.ended = asyncio.Event()
        self.is_murdered = False
        self.hangs: Literal["", "step", "process"] = ""
        self._hangs_since = 0.0
        for verb in ("start", "exchange", "health", "stop"):
            setattr(self, verb, SimpleNamespace(remote=getattr(self, f"_{verb}")))

    def _start(self, config: SynthConfig, make: Any, threads: int | None) -> Awaitable[Any]:
        return self._behind(3.0, lambda: self._inner.start(config, make, None))

    def _exchange(self, new: Sequence[Request], cancel: Sequence[str], for_s: float) -> Awaitable[Exchange[Any]]:
        sent: list[Any] = [replace(request, prefix=request.prefix[:]) for request in new]  # type: ignore[type-var]
        cancelled = list(cancel)
        return self._behind(for_s, lambda: self._cluster.seen(self._inner.exchange(sent, cancelled, for_s)))

    def _health(self) -> Awaitable[Health]:
        quiet_s = self._cluster.clock.now - self._hangs_since if self.hangs else 0.0
        return self._alive(0.01, self.hangs == "process", lambda: Health(quiet_s, 0, "/no/log"))

    def _stop(self) -> Awaitable[None]:
        return self._behind(0.0, self._inner.stop)

    def hang(self, how: Literal["step", "process"]) -> None:
        self.hangs, self._hangs_since = how, self._cluster.clock.now

    def end(self) -> None:
        self.ended.set()

    def _behind(self, takes_s: float, act: Callable[[], Any]) -> asyncio.Future[Any]:
        self._tail = _kept(self._after(self._tail, takes_s, act))
        return self._tail

    async def _after(self, before: asyncio.Future[Any] | None, takes_s: float, act: Callable[[], Any]) -> Any:
        if before:
            await asyncio.wait([before])
        return await self._alive(takes_s, bool(self.hangs), act)

    async def _alive(self, takes_s: float, hangs: bool, act: Callable[[], Any]) -> Any:
        """What `act` gives after so long, if the process lives then, and does not hang before or meanwhile."""
        try:
            async with asyncio.timeout(None if hangs else takes_s):
                await self.ended.wait()
        except TimeoutError:
            if self.hangs and act.__name__ != "health":
                await self.ended.wait()
            else:
                return self._done(act)
        raise RayActorError

    def _done(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except EngineDead as error:
            if not isinstance(error.__cause__, EngineDead):
                self._cluster.mistakes.append(repr(error.__cause__))
            self.end()
            raise RayTaskError("exchange", "", error) from None


def _kept(call: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    """The call as a task whose error nobody need ask for."""
    task = asyncio.ensure_future(call)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


@dataclass
class Cluster:
    """Stands for the module `ray` in the pool."""

    clock: Clock
    actors: list[Actor] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    murdered_alone: list[str] = field(default_factory=list)  # units in whose engine nothing else was when it was killed
    pool: Pool[Any, Any] | None = None

    def new_actor(self, gpus: int) -> Actor:
        self.actors.append(Actor(self))
        return self.actors[-1]

    def cluster_resources(self) -> dict[str, float]:
        return {}

    def kill(self, actor: Actor) -> None:
        actor.end()
        for slot in self.pool._slots if self.pool else ():
            if slot.actor is actor and (actor.is_murdered or actor.hangs) and len(slot.units) == 1:
                self.murdered_alone += slot.units

    def living(self) -> list[Actor]:
        return [actor for actor in self.actors if not actor.ended.is_set()]

    def seen(self, exchange: Exchange[Any]) -> Exchange[Any]:
        self.mistakes += [failure.code for failure in exchange.failed if failure.code == "added_twice"]
        return exchange


@dataclass
class Record:
    """A unit as the API has it. `kept`: what it was told of the trace."""

    unit: Unit
    state: str = "queued"  # leased, committed, failed, cancelled
    owner: str = ""
    until: float = 0.0
    is_cancelled: bool = False
    failures: int = 0
    kept: int = 0
    shard: ShardRef | None = None
    failure: Failure | None = None


class Api:
    """The source: leases lapse, the connection is cut, replies are lost, another worker takes what lapsed.

    A call whose reply is lost is repeated by the client, when it has been done already.
    """

    def __init__(self, clock: Clock, root: str) -> None:
        self._clock, self._root = clock, root
        self.records: dict[str, Record] = {}
        self.is_away = False
        self.loses_reply = False
        self.mistakes: list[str] = []

    def add(self, unit: Unit) -> None:
        self.records[unit.unit_id] = Record(unit)

    def open(self) -> list[str]:
        self.sweep()
        return [name for name, record in self.records.items() if record.state in ("queued", "leased")]

    def lapse(self, name: str) -> None:
        if record := self.records.get(name):
            record.until = 0.0

    def another_takes(self, name: str, scripts: dict[str, Script]) -> None:
        """Leases it for another worker, which writes half of what is left and is not heard of again, or commits it."""
        self.sweep()
        record = self.records.get(name)
        if record is None or record.state != "queued":
            return
        script = scripts[name]
        (record.unit,) = self.lease("another", 1, name).units
        if script.end == "committed":
            record.kept += (script.length - record.kept) // 2
            if record.unit.epoch % 2:
                record.state, record.shard = "committed", None

    def cancel(self, name: str) -> None:
        if (record := self.records.get(name)) and record.state in ("queued", "leased"):
            record.is_cancelled = True
            record.state = "cancelled" if record.state == "queued" else record.state

    def retry(self, name: str) -> None:
        if (record := self.records.get(name)) and record.state in ("failed", "cancelled"):
            record.state, record.is_cancelled, record.failures = "queued", False, 0

    def view(self, worker: str) -> Source:
        return Source(self, worker)

    async def call(self, act: Callable[[], Any]) -> Any:
        while True:
            await asyncio.sleep(LATENCY_S)
            if self.is_away:
                continue
            try:
                result = act()
            except Fenced as error:
                result = error
            await asyncio.sleep(LATENCY_S)
            if self.is_away or self.loses_reply:
                self.loses_reply = False
                continue
            if isinstance(result, Fenced):
                raise result
            return result

    def sweep(self) -> None:
        """A cancelled unit whose lease lapsed is over; any other can be leased."""
        for record in self.records.values():
            if record.state == "leased" and record.until < self._clock.now:
                record.state = "cancelled" if record.is_cancelled else "queued"

    def lease(self, worker: str, count: int, only: str = "") -> LeaseReply:
        self.sweep()
        queued = [record for record in self.records.values() if record.state == "queued"]
        free = [record for record in queued if only in ("", record.unit.unit_id)][:count]
        for record in free:
            record.state, record.owner, record.until = "leased", worker, self._clock.now + LEASE_S
            prefix = written(record.unit.unit_id, record.kept)
            record.unit = record.unit.model_copy(update={"epoch": record.unit.epoch + 1, "prefix": prefix})
        return LeaseReply(units=tuple(record.unit for record in free), lease_s=LEASE_S, output_root=self._root)

    def held(self, unit: Unit, worker: str) -> Record:
        record = self.records[unit.unit_id]
        if (record.state, record.owner, record.unit.epoch) != ("leased", worker, unit.epoch):
            raise Fenced("this lease is over")
        return record

    def heartbeat(self, worker: str, unit: Unit, progress: Progress) -> BeatReply:
        record = self.held(unit, worker)
        told = progress.checkpoint or Tokens()
        if told and progress.start > record.kept:
            self.mistakes.append(f"{unit.unit_id}: told from {progress.start}, but {record.kept} are known")
        elif told:
            end = progress.start + len(told)
            if told != written(unit.unit_id, end)[progress.start :]:
                self.mistakes.append(f"{unit.unit_id}: what was told is not its trace")
            record.kept = max(record.kept, end)
        record.until = self._clock.now + LEASE_S
        return BeatReply(unit_id=unit.unit_id, epoch=unit.epoch, cancel=record.is_cancelled, known=record.kept)

    def commit(self, worker: str, unit: Unit, shard: ShardRef) -> None:
        record = self.records[unit.unit_id]
        if record.shard == shard:
            return
        record = self.held(unit, worker)
        record.state, record.shard = "committed", shard

    def fail(self, worker: str, unit: Unit, failure: Failure) -> None:
        record = self.held(unit, worker)
        record.failure = failure
        if record.is_cancelled:
            record.state = "cancelled"
        elif failure.code in BLAMELESS:
            record.state = "queued"
        else:
            record.failures += 1
            record.state = "queued" if failure.retryable and record.failures < MAX_FAILURES else "failed"


class Source:
    """The API as one worker has it."""

    def __init__(self, api: Api, worker: str) -> None:
        self._api, self._worker = api, worker

    async def present(self) -> None: ...

    async def lease(self, count: int) -> LeaseReply:
        return await self._api.call(lambda: self._api.lease(self._worker, count))

    async def heartbeat(self, unit: Unit, progress: Progress) -> BeatReply:
        return await self._api.call(lambda: self._api.heartbeat(self._worker, unit, progress))

    async def commit(self, unit: Unit, shard: ShardRef, correct: bool | None = None, rows: int | None = None) -> None:
        await self._api.call(lambda: self._api.commit(self._worker, unit, shard))

    async def fail(self, unit: Unit, failure: Failure) -> None:
        await self._api.call(lambda: self._api.fail(self._worker, unit, failure))

    def finished(self) -> bool:
        return False

    def standing(self) -> Standing:
        return Standing(0, 0, {})
