"""Finished traces become shards: several a file, written by their number, their bytes or the time they have waited.

Every trace of a shard is still committed alone. What waits here is held by the worker, whose heartbeats keep its lease:
a worker that is killed loses what it had not written, and each of those units goes on from its checkpoint elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from dail.synth.core.errors import StorageError
from dail.synth.run.trace_rows import located, reference
from dail.synth.run.unit_source import Fenced
from dail.synth.schema.shards import ShardEncoder, TraceRow
from dail.synth.schema.units import ShardRef

_log = logging.getLogger(__name__)

MOST_TRACES, MOST_BYTES = 256, 8 << 20
WAIT_S = 10.0
_MOST_FULL = 2  # shards that wait for the disk, before more traces are taken
_CHECK_S = 0.5
_DISK_PAUSE_S, _LONGEST_DISK_PAUSE_S = 1.0, 30.0


class Ended(NamedTuple):
    """A trace whose unit is committed once its shard lies safely.

    `ref` does not know yet which file that is. `rows`: what the trace took of the engines.
    """

    ref: ShardRef
    correct: bool | None
    rows: int | None


@dataclass
class _Shard:
    """A file in the making. It takes no more traces once its `data` are known."""

    batch_id: str
    begun_at: float
    encoder: ShardEncoder = field(default_factory=ShardEncoder)
    traces: list[Ended] = field(default_factory=list)
    data: bytes = b""

    def add(self, row: TraceRow, correct: bool | None, rows: int | None) -> int:
        size = self.encoder.add(row)
        self.traces.append(Ended(reference(row, len(self.traces)), correct, rows))
        return size

    def end(self) -> None:
        """Its bytes are known, and to its traces, where they are."""
        if not self.data:
            self.data = self.encoder.end()
            refs = located([one.ref for one in self.traces], self.batch_id, self.data)
            self.traces = [one._replace(ref=ref) for one, ref in zip(self.traces, refs, strict=True)]


class ShardWriter:
    """Takes finished traces of any batch, a file of each open at a time.

    Args:
        is_held: whether a unit is still the worker's; a trace of another is committed by nobody.
        put: stores a shard, in the name of a unit that is held, by its key. Raises Fenced if that is over.
        commit: makes a trace that is stored its unit's result.
    """

    def __init__(
        self,
        is_held: Callable[[str], bool],
        put: Callable[[str, str, bytes], Awaitable[None]],
        commit: Callable[[Ended], Awaitable[None]],
    ) -> None:
        self._is_held, self._store, self._commit = is_held, put, commit
        self._open: dict[str, _Shard] = {}
        self._full: deque[_Shard] = deque()
        self._woken = asyncio.Event()
        self._is_refused = False  # by the disk

    def waiting(self) -> dict[str, ShardRef]:
        """By unit, what is known of the traces that are not committed yet."""
        shards = (*self._full, *self._open.values())
        return {one.ref.unit_id: one.ref for shard in shards for one in shard.traces if self._is_held(one.ref.unit_id)}

    async def add(self, row: TraceRow, correct: bool | None, rows: int | None) -> None:
        """Waits while the disk is behind, so that no more is drawn than can be written."""
        while len(self._full) >= _MOST_FULL:
            await asyncio.sleep(_CHECK_S)
        shard = self._open.setdefault(row.batch_id, _Shard(row.batch_id, time.monotonic()))
        size = shard.add(row, correct, rows)
        if len(shard.traces) >= MOST_TRACES or size >= MOST_BYTES:
            self._close(shard)

    def hurry(self) -> None:
        """What waits is written now, since nothing else runs."""
        for shard in list(self._open.values()):
            self._close(shard)

    async def run(self) -> None:
        """Writes what is due, forever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S):
                    await self._woken.wait()
            self._woken.clear()
            for shard in list(self._open.values()):
                if time.monotonic() - shard.begun_at >= WAIT_S:
                    self._close(shard)
            await self._write_full()

    async def end(self) -> None:
        """Writes all that waits, after `run` was cancelled."""
        self.hurry()
        await self._write_full()

    def _close(self, shard: _Shard) -> None:
        del self._open[shard.batch_id]
        self._full.append(shard)
        self._woken.set()

    async def _write_full(self) -> None:
        """One after the other; forgotten when it is done, so that writing it can be broken off and repeated."""
        while self._full:
            shard = self._full[0]
            shard.end()
            if await self._put(shard):
                await asyncio.gather(*map(self._commit, shard.traces))
            self._full.popleft()

    async def _put(self, shard: _Shard) -> bool:
        """Waits for a disk that refuses, while one of the units is ours. False: none is."""
        pause_s = _DISK_PAUSE_S
        while held := [one.ref for one in shard.traces if self._is_held(one.ref.unit_id)]:
            try:
                await self._store(held[0].unit_id, held[0].key, shard.data)
            except Fenced:
                continue
            except StorageError as error:
                self._say_refused(str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_DISK_PAUSE_S)
            else:
                self._say_refused("")
                return True
        return False

    def _say_refused(self, why: str) -> None:
        if why and not self._is_refused:
            _log.error(f"finished traces wait for the disk, which is tried again and again: {why}")
        elif self._is_refused and not why:
            _log.info("the disk takes traces again")
        self._is_refused = bool(why)
