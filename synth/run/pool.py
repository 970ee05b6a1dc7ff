"""Units over engine actors: back-pressure, restarts within a budget, and nothing lost when an actor dies.

Every actor has one exchange running and one queued behind it, so its engine never waits for this process. An actor
that dies is replaced, and what was in it goes on from what it had written, at first each alone (`suspects.py`). One
that dies again and again, and nothing moves in between, is given up.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, Self

import ray
from ray.exceptions import RayError, RayTaskError

from dail.synth.config import SynthConfig
from dail.synth.core.errors import DailError, EngineDead, UsageError
from dail.synth.core.logs import as_event, tell
from dail.synth.core.progress import waiting
from dail.synth.engine.base import Limits
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.select import contexts
from dail.synth.run.actor import E, Exchange, Health, Make, R, RemoteEngine, Started, UnitFailure, make_pair
from dail.synth.run.suspects import TRIAL_EXCHANGES, Suspects
from dail.synth.schema.trace_tokens import Tokens

_log = logging.getLogger(__name__)

EXCHANGE_S = 0.5
LOAD = 1.25  # of what the engine holds: the rest waits inside the actor, so freed rows are taken at once
HEALTH_EVERY_S = 5.0
HANG_S = 110.0  # such a step will not end; so it is seen within 120 s. vLLM's own health check does not see it
START_S = 1800.0
RESTART_WINDOW_S = 600.0
RESTART_PAUSE_S = 1.0
STOP_S = 5.0


@dataclass
class Written:
    """What is known of a running unit's trace: another attempt can go on from it."""

    tokens: Tokens
    attributed_tokens: int  # whose writer is known
    student_tokens: float  # expected number of those that the student wrote

    @classmethod
    def of(cls, tokens: Tokens) -> Written:
        return cls(tokens, tokens.attributed_tokens, tokens.student_tokens)

    def extend(self, later: Tokens) -> None:
        self.tokens.extend(later)
        self.attributed_tokens += later.attributed_tokens
        self.student_tokens += later.student_tokens


@dataclass(frozen=True)
class Results(Generic[E]):
    finished: list[E]
    failed: list[UnitFailure]


# a request → the lengths of the prompts that are decoded side by side for it, and how many tokens may follow each
Rows = Callable[[R], tuple[list[int], int]]


# Why an engine's process ended: a step that did not end, a start that did not, an error of its own, or anything else
# that ends a process (a signal, the memory).
Reason = Literal["hung", "start_timeout", "failed", "killed"]
EngineState = Literal["ready", "starting", "given_up"]


class Watcher:
    """Is told what becomes of the engines; this one does nothing of it."""

    def engine_started(self, engine: int) -> None: ...

    def engine_restarts(self, engine: int, reason: Reason) -> None: ...

    def engines_used(self, units: Collection[str], device_s: float) -> None:
        """Units that shared an engine for a while: so many seconds times the devices that it spans."""


@dataclass
class _Running(Generic[R]):
    """A unit in an actor, since which of the slot's exchanges."""

    request: R
    since: int


@dataclass
class _Slot(Generic[R]):
    """One actor's place; actors come and go in it."""

    number: int
    actor: Any = None
    limits: Limits | None = None  # none while no engine is ready
    units: dict[str, _Running[R]] = field(default_factory=dict)
    cancels: list[str] = field(default_factory=list)
    leaving: dict[str, int] = field(default_factory=dict)  # taken out, but in the engine until this exchange
    num_sent: int = 0  # exchanges, over all of its actors
    num_out: int = 0  # of these, those that have not come back
    trial: str | None = None  # the suspect that is alone in it
    num_survived: int = 0  # exchanges of the trial
    deaths: deque[float] = field(default_factory=deque)  # since something moved in it
    health: Health | None = None
    verdict: str = ""  # why we killed the actor ourselves
    cause: str = ""  # of the last death
    given_up: bool = False
    moved_at: float = field(default_factory=time.monotonic)  # a token of it, or it had nothing to draw
    charged_at: float = 0.0  # until then it is known which units used it

    @property
    def state(self) -> EngineState:
        return "given_up" if self.given_up else "ready" if self.limits else "starting"

    @property
    def takes_suspects(self) -> bool:
        """Now, or once its engine is ready."""
        return self.trial is not None or (self.limits is None and not self.given_up)


class Pool(Generic[R, E]):
    """Engine actors for one event loop, on a Ray that is already there.

    Args:
        config: how many engines, and which.
        make: builds inside each actor what draws there.
        rows: what a request takes of an engine.
        goes_on: whether what was written of a request can be gone on from, by its `prefix`.
    """

    watcher = Watcher()

    def __init__(self, config: SynthConfig, make: Make[R, E], rows: Rows[R], goes_on: bool = False) -> None:
        self._config, self._make, self._rows, self._goes_on = config, make, rows, goes_on
        self._gpus, num_actors = _placement(config)
        self._slots = [_Slot[R](number) for number in range(num_actors)]
        self._waiting: deque[R] = deque()
        self._untried: deque[R] = deque()  # suspects
        self._suspects = Suspects()
        self._results: asyncio.Queue[Results[E] | DailError] = asyncio.Queue()
        self._work = asyncio.Event()
        self._ready = asyncio.Event()
        self._is_awaited = False
        self._broken: DailError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._limits: Limits | None = None  # one engine's; all are alike
        self.engine_name = ""
        self.num_restarts = 0
        self.written: dict[str, Written] = {}  # by unit, until it ends or is cancelled
        self.broken_off: set[str] = set()  # units of which more than one attempt was made here, until cancelled

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        for task in self._tasks:
            task.add_done_callback(self._pass_on)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(_stop(slot) for slot in self._slots))

    @property
    def num_engines(self) -> int:
        return len(self._slots)

    def states(self) -> list[EngineState]:
        """Of its engines, in their order. May be asked from another thread, as `quiet_s` may."""
        return [slot.state for slot in self._slots]

    def quiet_s(self) -> list[float | None]:
        """By engine, how long no token has moved in it; none where it has nothing to draw.

        One that starts anew while units wait has: it is why they do.
        """
        now, there_is_work = time.monotonic(), bool(self.written)
        return [
            now - slot.moved_at if slot.units or (there_is_work and not slot.limits) else None for slot in self._slots
        ]

    async def ready(self) -> Limits:
        """Waits for the first engine, and says so to whoever listens. Raises what keeps every engine from starting."""
        with nullcontext() if self._is_awaited else waiting(self._starting()):
            self._is_awaited = True
            await self._ready.wait()
        if self._limits is None:
            assert self._broken is not None, "a pool is ready with limits or broken"
            raise self._broken
        return self._limits

    def _starting(self) -> str:
        config, engines = self._config.engine, "1 engine" if self.num_engines == 1 else f"{self.num_engines} engines"
        does = (
            "the fake engine, to try things out" if config.kind == "fake" else "vLLM loads the weights, then warms up"
        )
        return f"starting {engines} for {config.model.name}: {does}"

    def room(self) -> int:
        """How many more units may be submitted now."""
        num_live = sum(slot.limits is not None for slot in self._slots)
        if not num_live or self._limits is None:
            return 0
        running = (unit.request for slot in self._slots for unit in slot.units.values())
        requests = [*self._waiting, *self._untried, *running]
        loads = [self._load(request, self._limits) for request in requests]
        load_of_one = loads[-1] if loads else 2 / self._limits.rows  # the next ones will be like the newest
        return max(0, int((LOAD * num_live - sum(loads)) / load_of_one), int(not loads))

    def submit(self, requests: Sequence[R]) -> None:
        """A unit that is here already goes on as it is."""
        new = [request for request in requests if request.unit_id not in self.written]
        for request in new:
            self.written[request.unit_id] = Written.of(request.prefix[:])
        self._waiting.extend(new)
        self._work.set()

    def cancel(self, unit_id: str) -> None:
        """Forgets a unit: nothing more comes of it."""
        self._waiting = deque(request for request in self._waiting if request.unit_id != unit_id)
        self._untried = deque(request for request in self._untried if request.unit_id != unit_id)
        self._forget(unit_id)
        for slot in self._slots:
            self._take_out(slot, unit_id)

    def _forget(self, unit_id: str) -> None:
        self.written.pop(unit_id, None)
        self.broken_off.discard(unit_id)
        self._suspects.forget(unit_id)

    def _take_out(self, slot: _Slot[R], unit_id: str) -> None:
        if slot.units.pop(unit_id, None):
            slot.cancels.append(unit_id)
            slot.leaving[unit_id] = slot.num_sent
            slot.trial = None if slot.trial == unit_id else slot.trial
            self._work.set()

    async def next_results(self) -> Results[E]:
        """Waits for what was drawn, or failures.

        Raises:
            DailError: every actor was given up; says why.
        """
        results = await self._results.get()
        if isinstance(results, DailError):
            self._results.put_nowait(results)
            raise results
        return results

    async def _keep(self, slot: _Slot[R]) -> None:
        """Runs one actor after another in a slot until the restart budget is spent."""
        while True:
            slot.actor = _new_actor(self._gpus)
            watch = asyncio.create_task(self._watch(slot))
            try:
                await self._start(slot)
                await self._feed(slot)
            except (RayError, TimeoutError) as error:
                slot.cause = _cause(error, slot)
                hopeless = _is_usage_error(error) and not slot.deaths and not self._ready.is_set()
                self._bury(slot, _reason(error, slot), hopeless)
                if hopeless:
                    self._break(UsageError(slot.cause))
                    return
            finally:
                watch.cancel()
            if slot.given_up:
                if all(slot.given_up for slot in self._slots):
                    self._break(EngineDead(self._obituary(slot)))
                return
            await asyncio.sleep(RESTART_PAUSE_S)

    async def _start(self, slot: _Slot[R]) -> None:
        threads = None if self._gpus else max(1, len(os.sched_getaffinity(0)) // len(self._slots))
        reference = slot.actor.start.remote(self._config, self._make, threads)
        async with asyncio.timeout(START_S):
            started: Started = await reference
        self.engine_name = started.engine
        slot.limits = self._limits = started.limits
        self.watcher.engine_started(slot.number)
        self._ready.set()

    async def _feed(self, slot: _Slot[R]) -> None:
        exchanges: deque[tuple[int, Any]] = deque()
        while True:
            while len(exchanges) < 2:
                new = self._draw(slot)
                if not slot.units and not slot.cancels:
                    break
                exchanges.append((slot.num_sent, slot.actor.exchange.remote(new, slot.cancels, EXCHANGE_S)))
                slot.num_sent += 1
                slot.num_out = len(exchanges)
                slot.cancels = []
            if exchanges:
                number, exchange = exchanges.popleft()
                brought = await exchange
                slot.num_out = len(exchanges)
                self._absorb(slot, brought, number)
            else:
                self._work.clear()
                await self._work.wait()

    def _draw(self, slot: _Slot[R]) -> list[R]:
        """Takes waiting requests up to what the engine holds, and to a fair share of what there is; a suspect alone."""
        assert slot.limits is not None, "an actor is fed before it started"
        self._charge(slot)
        if slot.trial is not None:
            return []
        if suspect := self._next_suspect():
            if not slot.units:
                return self._try_alone(slot, suspect)
            if not any(other.takes_suspects for other in self._slots if other is not slot):
                return []  # it empties, and takes them
        num_live = sum(other.limits is not None for other in self._slots)
        share = math.ceil((len(self._waiting) + sum(len(other.units) for other in self._slots)) / num_live)
        load = sum(self._load(running.request, slot.limits) for running in slot.units.values())
        new: list[R] = []
        while self._waiting and len(slot.units) < share:
            load += self._load(self._waiting[0], slot.limits)
            if load > LOAD and slot.units:
                break
            request = self._waiting.popleft()
            slot.units[request.unit_id] = _Running(request, slot.num_sent)
            new.append(request)
        return new

    def _charge(self, slot: _Slot[R]) -> None:
        """Shares what the engine did since it was last asked among its units; one on the CPU is a device."""
        now = time.monotonic()
        since, slot.charged_at = slot.charged_at, now
        if slot.units:
            self.watcher.engines_used(slot.units, (now - since) * max(1, self._gpus))
        else:
            slot.moved_at = now

    def _next_suspect(self) -> R | None:
        """Whom to try alone now. None, while others could first show that it is not the engines."""
        if not self._untried:
            return None
        running = (unit_id for slot in self._slots for unit_id in slot.units if unit_id != slot.trial)
        others = [*(request.unit_id for request in (*self._waiting, *self._untried)), *running]
        ready = (one for one in self._untried if not self._suspects.lets_go_first(one.unit_id, others))
        return next(ready, None)

    def _try_alone(self, slot: _Slot[R], request: R) -> list[R]:
        self._untried.remove(request)
        slot.units[request.unit_id] = _Running(request, slot.num_sent)
        slot.trial, slot.num_survived = request.unit_id, 0
        return [request]

    def _load(self, request: R, limits: Limits) -> float:
        """Which part of an engine a request takes, by rows or by KV cache, whichever is scarcer."""
        prompts, max_tokens = self._rows(request)
        tokens = sum(min(length + max_tokens, limits.model_tokens) for length in prompts)
        return max(len(prompts) / limits.rows, tokens / limits.kv_tokens)

    def _absorb(self, slot: _Slot[R], exchange: Exchange[E], number: int) -> None:
        """Passes on what the exchange of this number brought, less what was cancelled meanwhile.

        A unit that was cancelled and submitted again since it was sent is another attempt, which nothing of this is of.
        """
        self._charge(slot)
        slot.leaving = {unit_id: last for unit_id, last in slot.leaving.items() if last > number}
        known = {unit_id for unit_id, running in slot.units.items() if running.since <= number}
        finished = [ended for ended in exchange.finished if ended.unit_id in known]
        failed = [failure for failure in exchange.failed if failure.unit_id in known]
        written = {unit_id: tokens for unit_id, tokens in exchange.written.items() if unit_id in known}
        for unit_id, tokens in written.items():
            self.written[unit_id].extend(tokens)
        moved = {*written, *(ended.unit_id for ended in finished)}
        if moved:
            slot.deaths.clear()
            slot.moved_at = time.monotonic()
            self._suspects.went_on(moved)
        for unit_id in [*(ended.unit_id for ended in finished), *(failure.unit_id for failure in failed)]:
            slot.units.pop(unit_id, None)
            self.written.pop(unit_id, None)
            self._suspects.forget(unit_id)
            self._end_trial(slot, unit_id)
        if finished or failed:
            self._results.put_nowait(Results(finished, failed))
        if slot.trial in known and (slot.trial in written or not self._goes_on):
            self._clear(slot)

    def _clear(self, slot: _Slot[R]) -> None:
        """A suspect under which the engine lived is none; it makes room for the next one and goes on later."""
        slot.num_survived += 1
        if slot.trial is None or slot.num_survived < TRIAL_EXCHANGES:
            return
        unit_id, slot.trial = slot.trial, None
        if self._untried:
            request = slot.units[unit_id].request
            self._take_out(slot, unit_id)
            self._waiting.append(self._going_on(request))
        self._work.set()

    def _end_trial(self, slot: _Slot[R], unit_id: str) -> None:
        if slot.trial == unit_id:
            slot.trial = None
            self._work.set()

    def _going_on(self, request: R) -> R:
        """The request with what was written of it."""
        if not self._goes_on:
            return request
        self.broken_off.add(request.unit_id)
        going_on: Any = request
        return replace(going_on, prefix=self.written[request.unit_id].tokens[:])

    def _bury(self, slot: _Slot[R], reason: Reason, hopeless: bool = False) -> None:
        """Counts a death and suspects who was in there; another one would die as well if it is hopeless."""
        self._charge(slot)
        ray.kill(slot.actor)
        _kill_here(slot.health)
        dead = {unit_id: len(self.written[unit_id].tokens) for unit_id in slot.units}
        others = [unit_id for unit_id in self.written if unit_id not in dead]
        now = time.monotonic()
        slot.deaths.append(now)
        while now - slot.deaths[0] > RESTART_WINDOW_S:
            slot.deaths.popleft()
        if not slot.leaving and self._suspects.convicted(dead, others):  # else it was not alone
            self._condemn(slot)
        lost = [self._going_on(running.request) for running in slot.units.values()]
        self._untried.extend(lost)
        slot.units, slot.cancels, slot.leaving, slot.trial, slot.num_out = {}, [], {}, None, 0
        log = slot.health.log if slot.health else None
        slot.limits, slot.health, slot.verdict = None, None, ""
        slot.given_up = hopeless or len(slot.deaths) > self._config.restarts
        after = "given up" if slot.given_up else "restarting"
        _log.error(
            f"engine {slot.number} died with {len(dead)} units in it, {after}: {slot.cause}",
            extra=as_event("engine_died", engine=slot.number, code=reason, count=len(dead), log=log),
        )
        if slot.given_up:
            tell("engine_given_up", engine=slot.number)
        else:
            self.num_restarts += 1
            self.watcher.engine_restarts(slot.number, reason)
        self._work.set()

    def _condemn(self, slot: _Slot[R]) -> None:
        """The engine's deaths were its only unit's fault."""
        slot.deaths.clear()
        ((unit_id, _),) = slot.units.items()
        slot.units = {}
        self.written.pop(unit_id, None)
        detail = f"engines died twice with this unit alone in them, at the same place: {slot.cause}"
        self._results.put_nowait(Results([], [UnitFailure(unit_id, "poisoned_item", detail, False)]))

    def _pass_on(self, task: asyncio.Task[None]) -> None:
        """Our own mistake in a slot's task must not leave its units waiting for ever."""
        if not task.cancelled() and (error := task.exception()):
            self._break(DailError(f"the pool failed: {type(error).__name__}: {error}; please report this"))

    def _break(self, error: DailError) -> None:
        self._broken = error
        self._ready.set()
        self._results.put_nowait(error)

    def _obituary(self, slot: _Slot[R]) -> str:
        return (
            f"no engine is left: each died more than {self._config.restarts} times within "
            f"{RESTART_WINDOW_S / 60:.0f} minutes; the last cause: {slot.cause}; cure it and start the command again"
        )

    async def _watch(self, slot: _Slot[R]) -> None:
        """Kills the actor when a step does not end; whoever awaits its exchange then sees it die."""
        answered = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(HEALTH_EVERY_S):
                    health: Health = await slot.actor.health.remote()
                slot.health, answered, quiet_s = health, time.monotonic(), health.quiet_s
            except TimeoutError:  # a process that is starting, or stopped by someone
                quiet_s = time.monotonic() - answered
            except RayError:
                return
            # not whether it has units: they may all have been taken from it, and it would stand still for ever
            if slot.num_out and quiet_s > HANG_S:
                slot.verdict = f"no step ended for {quiet_s:.0f} s, so it was killed"
                ray.kill(slot.actor)
                _kill_here(slot.health)
            await asyncio.sleep(HEALTH_EVERY_S)


RolloutPool = Pool[RolloutRequest, Rollout]


def rollout_pool(config: SynthConfig, make: Make[RolloutRequest, Rollout] = make_pair) -> RolloutPool:
    """The pool of a synthesis: pairs, which draw traces."""

    def rows(request: RolloutRequest) -> tuple[list[int], int]:
        prompts = [len(ids) for ids in contexts(request, config.strategy)]
        return prompts, request.synthesis.max_tokens

    return Pool(config, make, rows, goes_on=True)


def _placement(config: SynthConfig) -> tuple[int, int]:
    """GPUs per actor (0: on the CPU) and the number of actors. Raises UsageError if the cluster is too small."""
    cluster_gpus = int(ray.cluster_resources().get("GPU", 0))
    if not cluster_gpus or config.engine.kind == "fake":
        return 0, config.actors or 1
    per_actor = config.engine.tensor_parallel
    actors = config.actors or max(1, cluster_gpus // per_actor)
    if actors * per_actor > cluster_gpus:
        raise UsageError(
            f"{actors} engines on {per_actor} GPUs each need {actors * per_actor} GPUs; the cluster has "
            f"{cluster_gpus}; lower --actors or engine.tensor_parallel"
        )
    return per_actor, actors


def _new_actor(gpus: int) -> Any:
    return RemoteEngine.options(num_gpus=gpus).remote()


async def _stop(slot: _Slot[Any]) -> None:
    if slot.actor is None:
        return
    if slot.limits is not None:
        with suppress(RayError, TimeoutError):
            async with asyncio.timeout(STOP_S):
                await slot.actor.stop.remote()
    ray.kill(slot.actor)


def _is_usage_error(error: Exception) -> bool:
    return isinstance(error, RayTaskError) and isinstance(error.cause, UsageError)


def _cause(error: Exception, slot: _Slot[Any]) -> str:
    """Why an actor died, on one line, as well as it can be known from outside."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, DailError):
        return str(error.cause)
    if isinstance(error, TimeoutError):
        return f"it did not start within {START_S:.0f} s"
    if isinstance(error, RayTaskError):
        return f"the engine's process failed: {type(error.cause).__name__}: {error.cause}"
    why = slot.verdict or "its process ended (killed, out of memory, or crashed)"
    return f"{why} (log: {slot.health.log})" if slot.health else f"{why}: {str(error).splitlines()[-1]}"


def _reason(error: Exception, slot: _Slot[Any]) -> Reason:
    if slot.verdict:
        return "hung"
    if isinstance(error, TimeoutError):
        return "start_timeout"
    return "failed" if isinstance(error, RayTaskError) else "killed"


def _kill_here(health: Health | None) -> None:
    """SIGKILL by process id, if it runs on this machine: Ray asks a process to end, which a stopped one never hears."""
    if health and Path(health.log).exists():
        with suppress(OSError):  # it is gone already, or not ours
            if b"ray::" in Path(f"/proc/{health.pid}/cmdline").read_bytes():
                os.kill(health.pid, signal.SIGKILL)
