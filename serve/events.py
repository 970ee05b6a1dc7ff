"""Events of a batch for all who watch it, as server-sent events: one reading of the store for all of a process.

GET /v1/batches/batch_…/events
id: 3
event: progress
data: {"status": "in_progress", "generation": 1, "request_counts": {…}, "units": {…}, "tokens": 4096, "items": […]}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from dail.serve.store.events import EventRecord
from dail.serve.store.transaction import Store
from dail.synth.core.errors import DailError

PING_S = 15.0  # proxies close a connection that is silent for long
_TICK_S = 0.3
_CHECK_S = 1.0  # how long a token still watches that is known to be revoked
_PAGE = 500

log = logging.getLogger("dail.serve")


class _Tail:
    """The newest events of one batch. Whoever is further behind reads the store himself."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.events: deque[EventRecord] = deque(maxlen=2 * _PAGE)
        self.final: EventRecord | None = None  # once the batch has ended and this tail has all of it
        self.changed = asyncio.Event()
        self.watchers = 0

    def take(self, new: list[EventRecord], final: EventRecord | None) -> None:
        if new or final != self.final:
            self.events.extend(new)
            self.last, self.final = (new[-1].n if new else self.last), final
            self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Watching:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._tails: dict[str, _Tail] = {}
        self._is_stopped = False

    def stop(self) -> None:
        """Ends all streams within a moment; may be called by a signal."""
        self._is_stopped = True

    async def run(self) -> None:
        """Reads what is new of every batch that somebody watches, for ever."""
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                for batch_id, tail in list(self._tails.items()):
                    tail.take(*await asyncio.to_thread(self._read, batch_id, tail.last))
                    if self._is_stopped:
                        tail.wake()
            except DailError as error:
                log.warning("events are put off: %s", error)

    def _read(self, batch_id: str, last: int) -> tuple[list[EventRecord], EventRecord | None]:
        with self._store.read() as tx:
            new = tx.events.after(batch_id, last, _PAGE)
            return new, tx.events.final(batch_id) if len(new) < _PAGE else None

    def _last(self, batch_id: str) -> int:
        with self._store.read() as tx:
            return tx.events.last(batch_id)

    async def events(
        self, batch_id: str, last: int, check: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[EventRecord | None]:
        """Events after `last`, and None where nothing came for PING_S; ends behind `done`, or when stopped or refused.

        Args:
            check: asked now and then; raises DailError if the watcher may not see this any more.
        """
        last = min(last, await asyncio.to_thread(self._last, batch_id))
        tail = self._tails.setdefault(batch_id, _Tail(last))
        tail.watchers += 1
        checked = spoke = time.monotonic()
        try:
            while not self._is_stopped:
                changed = tail.changed
                for event in await self._since(batch_id, tail, last):
                    yield event
                    last, spoke = event.n, time.monotonic()
                if tail.final is not None and last >= tail.last:
                    yield EventRecord(tail.final.n, "done", tail.final.data)
                    return
                if last >= tail.last:
                    await _wait(changed, _CHECK_S)
                now = time.monotonic()
                if now - spoke >= PING_S:
                    spoke = now
                    yield None
                if now - checked >= _CHECK_S:
                    checked = now
                    await check()
        except DailError:
            return
        finally:
            tail.watchers -= 1
            if not tail.watchers and self._tails.get(batch_id) is tail:
                del self._tails[batch_id]

    async def _since(self, batch_id: str, tail: _Tail, last: int) -> list[EventRecord]:
        if last >= tail.last:
            return []
        if tail.events and tail.events[0].n <= last + 1:
            return [event for event in tail.events if event.n > last]
        new, _ = await asyncio.to_thread(self._read, batch_id, last)
        return [event for event in new if event.n <= tail.last]


async def _wait(changed: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), timeout_s)


def encoded(event: EventRecord | None) -> str:
    """
    >>> encoded(EventRecord(3, "progress", {"status": "in_progress"}))
    'id: 3\\nevent: progress\\ndata: {"status": "in_progress"}\\n\\n'
    >>> encoded(None)
    ': ping\\n\\n'
    """
    if event is None:
        return ": ping\n\n"
    return f"id: {event.n}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n"
