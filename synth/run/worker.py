"""Lease → pool → shard → commit, forever. Knows neither HTTP nor Ray nor how a trace is drawn.

A unit is held from its lease to its commit or failure; while it is held its lease is renewed. What cannot run fails
alone, with a code. A worker that is stopped hands its units back (`worker_stopped`, retryable), so that another can
have them at once; one that is killed lets the leases run out.

    dail worker --api http://127.0.0.1:8765 --model deploy/demo/model --config cpu-tiny --idle-exit 60
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from dail.synth.config import SynthConfig
from dail.synth.core.errors import DailError
from dail.synth.core.logs import tell
from dail.synth.core.progress import Bar, progress
from dail.synth.core.running import Stop, run_to_end
from dail.synth.engine.base import Limits
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout
from dail.synth.run.judging import Verdicts
from dail.synth.run.metrics import End, Metrics
from dail.synth.run.pool import RolloutPool, Written, rollout_pool
from dail.synth.run.ray_cluster import ray_cluster
from dail.synth.run.shard_writer import Ended, ShardWriter
from dail.synth.run.trace_rows import STRAY_MARK, Prepared, prepare, trace_row
from dail.synth.run.unit_source import Fenced, Progress, Standing, UnitSource
from dail.synth.run.uploads import Uploads
from dail.synth.schema.trace_tokens import student_share
from dail.synth.schema.units import CHECKPOINT_MOST, WORKER_STOPPED, Failure, ShardRef, Unit

_log = logging.getLogger(__name__)

_POLL_S, _LONGEST_POLL_S = 0.2, 2.0
_STOP_POLL_S = 0.1
_BEATS_PER_LEASE = 4
CHECKPOINT_TOKENS = 512  # as many at the most are told late, so that a crash costs less than 1,024 of a trace
_CHECK_S = 1.0
_CALLS_AT_ONCE = 16
_RELEASE_S = 10.0
_RATE_OVER_S = 30.0
_STRAYS = 3
_PRESENT_EVERY_S = 15.0


class Worker:
    """Moves units from a source through a pool.

    Args:
        idle_exit_s: end after so long without a unit; none: never.
        metrics: is told what becomes of the units.
        uploads: that know the place already.
    """

    def __init__(
        self,
        source: UnitSource,
        pool: RolloutPool,
        prompts: Prompts,
        idle_exit_s: float | None = None,
        metrics: Metrics | None = None,
        uploads: Uploads | None = None,
    ) -> None:
        self._metrics, self._uploads = metrics or Metrics(), uploads or Uploads(source)
        self._source, self._pool, self._prompts, self._idle_exit_s = source, pool, prompts, idle_exit_s
        self._held: dict[str, Unit] = {}
        self._prepared: dict[str, Prepared] = {}
        self._known: dict[str, int] = {}  # by unit, how many tokens of its trace the source keeps
        self._verdicts = Verdicts()
        self._writer = ShardWriter(self._held.__contains__, self._put, self._commit)
        self._lease_s = 60.0
        self._freed = asyncio.Event()
        self._calls = asyncio.Semaphore(_CALLS_AT_ONCE)
        self.num_committed = self.num_failed = self.tokens = 0
        self._num_stray = 0  # traces that ran past their turn
        self.attributed_tokens = 0
        self.student_tokens = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Works until the source is finished, nothing came for `idle_exit_s`, or `stop` is set.

        Raises:
            DailError: no engine can run, or the source refused us.
        """
        loops = (self._lease(), self._finish_all(), self._writer.run(), self._renew(), self._show(), stop.wait())
        tasks = [asyncio.ensure_future(loop) for loop in loops]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._release()
            self._verdicts.close()

    async def _lease(self) -> None:
        limits = await self._pool.ready()
        pause_s, busy_at = _POLL_S, time.monotonic()
        while not self._source.finished():
            self._freed.clear()
            room = self._pool.room()
            reply = await self._source.lease(room) if room else None
            if reply:
                self._metrics.asked(len(reply.units))
            if reply and reply.units:
                self._lease_s = reply.lease_s
                await self._uploads.look(reply)
                await self._take(reply.units, limits)
                pause_s = _POLL_S
            elif len(self._writer.waiting()) == len(self._held):  # nothing else runs, and nothing else came
                self._writer.hurry()
            if self._held:
                busy_at = time.monotonic()
            elif self._idle_exit_s is not None and time.monotonic() - busy_at >= self._idle_exit_s:
                return
            with contextlib.suppress(TimeoutError):
                # not wait_for, which before Python 3.12 loses a cancellation that comes with what it waits for
                async with asyncio.timeout(pause_s):
                    await self._freed.wait()
            pause_s = min(1.5 * pause_s, _LONGEST_POLL_S)

    async def _take(self, units: Sequence[Unit], limits: Limits) -> None:
        for unit in units:
            self._known[unit.unit_id] = len(unit.prefix)
        again = [unit for unit in units if unit.unit_id in self._held]
        self._held.update({unit.unit_id: unit for unit in units})
        self._metrics.leased(units)
        for unit in again:
            self._take_over(unit)
        for unit in (unit for unit in units if unit not in again):
            try:
                prepared = await asyncio.to_thread(prepare, unit, self._prompts, limits.model_tokens)
            except DailError as error:
                await self._fail(unit.unit_id, _failure(error))
                continue
            if unit.unit_id in self._held:
                # under its newest lease: it may have been taken over meanwhile
                self._prepared[unit.unit_id] = replace(prepared, unit=self._held[unit.unit_id])
                self._pool.submit([prepared.request])

    def _take_over(self, unit: Unit) -> None:
        """A unit that runs on here, whose lease lapsed and that was leased to us again: its rollout stays."""
        if prepared := self._prepared.get(unit.unit_id):
            self._prepared[unit.unit_id] = replace(prepared, unit=unit)

    async def _finish_all(self) -> None:
        while True:
            results = await self._pool.next_results()
            failures = (
                self._fail(failed.unit_id, Failure(code=failed.code, detail=failed.detail, retryable=failed.retryable))
                for failed in results.failed
            )
            await asyncio.gather(*map(self._finish, results.finished), *failures)

    async def _finish(self, rollout: Rollout) -> None:
        """One trace goes into a shard, and once its bytes lie safely, it is the unit's result."""
        prepared = self._prepared.get(rollout.unit_id)
        if prepared is None:
            return
        self._metrics.finished(rollout, prepared.unit.synthesis)
        try:
            row = trace_row(prepared, rollout, self._prompts, self._pool.engine_name)
            correct = await self._verdicts.of(row, prepared.unit.synthesis)
        except DailError as error:
            await self._fail(rollout.unit_id, _failure(error))
            self._check_turns(error)
            return
        # of a trace that another attempt began, that attempt took some too
        is_whole = not prepared.unit.prefix and rollout.unit_id not in self._pool.broken_off
        await self._writer.add(row, correct, rollout.rows if is_whole else None)
        self._freed.set()

    async def _commit(self, ended: Ended) -> None:
        """Again, if the unit was leased to us anew meanwhile: an older lease counts for nothing."""
        unit_id, told = ended.ref.unit_id, None
        while (unit := self._held.get(unit_id)) is not told and unit is not None:
            told = unit
            with contextlib.suppress(Fenced):
                async with self._calls:
                    await self._source.commit(unit, ended.ref, ended.correct, ended.rows)
                self.num_committed += 1
                self.tokens += ended.ref.tokens
                self.attributed_tokens += ended.ref.attributed_tokens
                self.student_tokens += ended.ref.student_tokens
                self._drop(unit_id, "committed")
        if told is not None and self._held.get(unit_id) is told:  # fenced, and not ours again
            self._drop(unit_id, "fenced")

    def _check_turns(self, error: DailError) -> None:
        """Ends the run after the first few traces that ran past their turn, if most do: all will, at full length."""
        self._num_stray += error.code == STRAY_MARK
        num_good = self.num_committed + len(self._writer.waiting())
        if self._num_stray >= _STRAYS and self._num_stray > num_good:
            raise DailError(f"{self._num_stray} of the first traces ran past their turn, so the run ends: {error}")

    async def _put(self, unit_id: str, key: str, data: bytes) -> None:
        unit = self._held[unit_id]
        try:
            await self._uploads.put(unit, key, data)
        except Fenced:
            if self._held.get(unit_id) is unit:
                self._drop(unit_id, "fenced")
            raise

    async def _fail(self, unit_id: str, failure: Failure) -> None:
        told: Unit | None = None
        while (unit := self._held.get(unit_id)) is not told and unit is not None:  # again, if taken over meanwhile
            told = unit
            if failure.retryable and self._num_unknown(unit):
                await self._beat(unit)  # the next attempt goes on from here
            with contextlib.suppress(Fenced):
                async with self._calls:
                    await self._source.fail(unit, failure)
                self.num_failed += not failure.retryable
                self._drop(unit_id, "handed_back" if failure.retryable else "failed", failure.code)
        if told is not None and self._held.get(unit_id) is told:
            self._drop(unit_id, "fenced")

    async def _renew(self) -> None:
        """Beats for every unit so many times a lease, and sooner where much was written that nobody else knows."""
        beaten_at = time.monotonic()
        while True:
            await asyncio.sleep(min(_CHECK_S, self._lease_s / _BEATS_PER_LEASE))
            is_time = time.monotonic() - beaten_at >= self._lease_s / _BEATS_PER_LEASE - _CHECK_S / 2
            beaten_at = time.monotonic() if is_time else beaten_at
            due = [unit for unit in self._held.values() if is_time or self._num_unknown(unit) >= CHECKPOINT_TOKENS]
            await asyncio.gather(*map(self._beat, due))

    def _num_unknown(self, unit: Unit) -> int:
        written = self._pool.written.get(unit.unit_id)
        return len(written.tokens) - self._known.get(unit.unit_id, 0) if written else 0

    async def _beat(self, unit: Unit) -> None:
        written, start = self._pool.written.get(unit.unit_id), self._known.get(unit.unit_id, 0)
        progress = Progress(0, 0, 0.0, start, None)
        if ended := self._writer.waiting().get(unit.unit_id):
            progress = Progress(ended.tokens, ended.attributed_tokens, ended.student_tokens, start, None)
        elif written:
            news = written.tokens[start : start + CHECKPOINT_MOST]
            progress = Progress(
                len(written.tokens), written.attributed_tokens, written.student_tokens, start, news or None
            )
        try:
            reply = await self._source.heartbeat(unit, progress)
        except Fenced:
            if self._held.get(unit.unit_id) is unit:
                self._drop(unit.unit_id, "fenced")
            return
        self._known[unit.unit_id] = reply.known
        if reply.cancel:
            await self._fail(
                unit.unit_id,
                Failure(code="cancelled", detail="cancelled, or not needed"),
            )

    def _drop(self, unit_id: str, end: End, code: str | None = None) -> None:
        if written := self._pool.written.get(unit_id):
            self._metrics.drawn(unit_id, written)
        self._metrics.ended(unit_id, end, code)
        self._held.pop(unit_id, None)
        self._prepared.pop(unit_id, None)
        self._known.pop(unit_id, None)
        self._pool.cancel(unit_id)
        self._freed.set()

    async def _release(self) -> None:
        """Writes what is finished and hands the rest back. Whoever cannot be told lets the leases run out."""
        failure = Failure(code=WORKER_STOPPED, detail="the worker was stopped", retryable=True)
        with contextlib.suppress(TimeoutError, DailError):
            async with asyncio.timeout(_RELEASE_S):
                await self._writer.end()
                await asyncio.gather(*(self._fail(unit_id, failure) for unit_id in list(self._held)))

    async def _show(self) -> None:
        await self._pool.ready()  # until then it is said what is waited for
        with progress("units", self._source.standing().total) as bar:
            seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
            shown: Standing | None = None
            try:
                while True:
                    shown = self._update(bar, seen, shown)
                    self._metrics.turned()
                    await asyncio.sleep(1.0)
            finally:
                self._update(bar, seen, shown)

    def _update(self, bar: Bar, seen: deque[tuple[float, int]], shown: Standing | None) -> Standing:
        """Shows what changed. `seen`: when there were how many tokens, over the last _RATE_OVER_S."""
        standing = self._source.standing()
        written, waiting = self._pool.written.values(), self._writer.waiting().values()
        running: list[Written | ShardRef] = [*written, *waiting]
        for unit_id, one in self._pool.written.items():
            self._metrics.drawn(unit_id, one)
        tokens = self.tokens + sum(len(one.tokens) for one in written) + sum(one.tokens for one in waiting)
        share = student_share(
            self.student_tokens + sum(one.student_tokens for one in running),
            self.attributed_tokens + sum(one.attributed_tokens for one in running),
        )
        if standing.total and (standing != shown or tokens != seen[-1][1]):
            seen.append((time.monotonic(), tokens))
            while seen[-1][0] - seen[0][0] > _RATE_OVER_S:
                seen.popleft()
            rate = (tokens - seen[0][1]) / max(seen[-1][0] - seen[0][0], 1e-3)
            bar.update(standing.done, standing.total, **standing.figures, tokens_per_s=rate, student_share=share)
        return standing


def run_worker(
    config: SynthConfig,
    source: UnitSource,
    idle_exit_s: float | None = None,
    stop: Stop | None = None,
    metrics: Metrics | None = None,
    uploads: Uploads | None = None,
) -> bool:
    """Ray, pool and worker for one source, until it ends or is asked to stop. True: it was stopped."""
    with ray_cluster():
        return run_to_end(
            lambda: _run_worker(config, source, idle_exit_s, stop or Stop(), metrics or Metrics(), uploads)
        )


async def _run_worker(
    config: SynthConfig,
    source: UnitSource,
    idle_exit_s: float | None,
    stop: Stop,
    metrics: Metrics,
    uploads: Uploads | None,
) -> bool:
    tell("started")
    asked = asyncio.Event()
    watch = asyncio.create_task(_watch(stop, asked))
    try:
        with stop.listened_to():
            pool = rollout_pool(config)
            metrics.watch(pool)
            async with pool:
                starting = asyncio.create_task(wait_for_engine(pool, source))
                try:
                    # beside the engine's start, since importing transformers takes seconds
                    prompts = await asyncio.to_thread(Prompts, config.engine.model)
                    await Worker(source, pool, prompts, idle_exit_s, metrics, uploads).run(asked)
                finally:
                    starting.cancel()
                    await asyncio.gather(
                        starting, return_exceptions=True
                    )  # what keeps an engine is the worker's to raise
    finally:
        watch.cancel()
        tell("stopped")
    return asked.is_set()


async def wait_for_engine(pool: RolloutPool, source: UnitSource) -> None:
    """Says what is waited for, which takes minutes, and lets the source know meanwhile that somebody is there."""
    ready = asyncio.ensure_future(pool.ready())
    try:
        while not ready.done():
            await source.present()
            await asyncio.wait([ready], timeout=_PRESENT_EVERY_S)
    finally:
        ready.cancel()
        await asyncio.gather(ready, return_exceptions=True)


async def _watch(stop: Stop, asked: asyncio.Event) -> None:
    """Polls, since what sets `stop` may be another thread or a signal, which no loop can wait for."""
    while not stop.is_set():
        await asyncio.sleep(_STOP_POLL_S)
    asked.set()


def _failure(error: DailError) -> Failure:
    return Failure(code=error.code, detail=str(error), retryable=getattr(error, "retryable", False))
