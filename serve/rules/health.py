"""Can this server do its work? Each question is really tried, has two seconds, and is asked every two seconds at most.

A question that hangs (a disk or a database that does not answer) fails by its deadline, holds up neither the others nor
whoever asks, and is not asked again before it came back.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from dail.serve.rules.workers import work_that_nobody_can_do
from dail.serve.store.tables import STORE_VERSION
from dail.serve.store.transaction import Store
from dail.synth.core.config import Frozen
from dail.synth.core.errors import DailError, StorageError
from dail.synth.core.files import Objects
from dail.synth.core.objects import Bucket, check_mark, mark

HEADROOM_BYTES = 256 << 20  # below it no new work is taken; what is accepted can still be finished
DEADLINE_S = 2.0
KEPT_S = 2.0
_CLOCKS_APART_S = 60.0


class Check(Frozen):
    ok: bool
    detail: str


class Ready(Frozen):
    ok: bool
    checks: dict[str, Check]


class Readiness:
    def __init__(self, store: Store, objects: Objects) -> None:
        self._store, self._objects = store, objects
        self._questions: dict[str, Callable[[], Check]] = {
            "store": self._write_to_store,
            "schema": self._schema,
            "disk": self._disk,
            "objects": self._write_object,
            "clock": self._clock,
            "work": self._work,
            store.database.kind: lambda: Check(ok=True, detail=store.database.about),
        }
        self._threads = ThreadPoolExecutor(len(self._questions), "readyz")
        self._open: dict[str, Future[Check]] = {}  # of questions that have not come back
        self._lock = threading.Lock()
        self._mark: str | None = None
        self._last: Ready | None = None
        self._asked_at = float("-inf")

    def ask(self) -> Ready:
        """The last answer while it is fresh, or while another asks anew."""
        if self._last is not None and time.monotonic() - self._asked_at < KEPT_S:
            return self._last
        if not self._lock.acquire(blocking=self._last is None):
            assert self._last is not None, "who did not wait has an answer"
            return self._last
        try:
            if self._last is None or time.monotonic() - self._asked_at >= KEPT_S:
                self._last, self._asked_at = self._ask_all(), time.monotonic()
            return self._last
        finally:
            self._lock.release()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask_all(self) -> Ready:
        for name, question in self._questions.items():
            if name not in self._open:
                self._open[name] = self._threads.submit(question)
        wait(self._open.values(), DEADLINE_S)
        checks = {name: _answer(self._open[name]) for name in self._questions}
        self._open = {name: future for name, future in self._open.items() if not future.done()}
        return Ready(ok=all(check.ok for check in checks.values()), checks=checks)

    def _write_to_store(self) -> Check:
        self._store.check_write()
        return Check(ok=True, detail="a write reached the disk")

    def _schema(self) -> Check:
        version = self._store.version()
        detail = f"version {version}" if version == STORE_VERSION else f"version {version}; wanted {STORE_VERSION}"
        return Check(ok=version == STORE_VERSION, detail=detail)

    def _disk(self) -> Check:
        folder = room_of(self._store, self._objects)
        if folder is None:
            return Check(ok=True, detail="neither the store nor the shards lie on a disk of this machine")
        free = free_bytes(folder)
        return Check(ok=free >= HEADROOM_BYTES, detail=f"{free} bytes free; {HEADROOM_BYTES} are kept")

    def _write_object(self) -> Check:
        self._mark = self._mark or mark(self._objects)  # a disk that is no longer mounted would get another one
        check_mark(self._objects, self._mark)
        return Check(ok=True, detail=f"a read and a write reached {self._objects.url}")

    def _clock(self) -> Check:
        """Between this machine and the store's: times that people see; leases do not go by it."""
        apart = self._store.clock() - time.time()
        return Check(ok=abs(apart) < _CLOCKS_APART_S, detail=f"{apart:+.1f} s from the store's")

    def _work(self) -> Check:
        """A note: that nobody can do some work is no fault of this server's."""
        return Check(ok=True, detail=work_that_nobody_can_do(self._store))


def check_headroom(store: Store, objects: Objects) -> None:
    """Raises StorageError if new work would take the room of what is accepted."""
    folder = room_of(store, objects)
    if folder and (free := free_bytes(folder)) < HEADROOM_BYTES:
        raise StorageError(f"{folder} has {free} bytes left; {HEADROOM_BYTES} are kept for accepted work; free some")


def room_of(store: Store, objects: Objects) -> Path | None:
    """Whose disk fills with the work; a bucket and a database server have none here."""
    if not isinstance(objects, Bucket):
        return objects.root
    return Path(store.name).parent if store.database.kind == "sqlite" else None


def free_bytes(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


def _answer(future: Future[Check]) -> Check:
    if not future.done():
        return Check(ok=False, detail=f"no answer within {DEADLINE_S:g} s")
    try:
        return future.result()
    except (DailError, OSError) as error:
        return Check(ok=False, detail=str(error))
