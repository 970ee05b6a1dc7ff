"""`dail serve` as a process that starts in a fraction of a second, and dies at a named point when asked to.

    server = Server(data_dir, model_folder, port=0, DAIL_LEASE_S="2")
    server.die_at("before the manifest", 3)  # the third time that it gets there, by SIGKILL
    server.wait()

It is forked from a process that has imported everything. The product has no hook for it: the points lie around what
every change goes through, `Store.write` and `Objects.put`.
"""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dail.serve.store.transaction import Store, Transaction
from dail.synth.core.files import Objects
from tests.serve.conftest import clean_environment

POINTS = (
    "in validation",  # a batch is written and not committed
    "before the commit",  # a unit's shard is written and not committed
    "after the commit",  # of a batch or a unit, and nobody has been told
    "before the manifest",
    "after the manifest",  # it is there, and the batch has not ended
)
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["dail.serve.app", "dail.serve.cli", "dail.serve.commands", "dail.serve.server"])
_PATIENCE_S = 120


class Server:
    """`url` answers once this is made. It ends with the process that made it."""

    def __init__(self, data_dir: Path, model_folder: Path, port: int = 0, **env: str) -> None:
        flags = ("--port", str(port), "--data-dir", str(data_dir), "--model", f"tiny={model_folder}", "--json")
        self._way, theirs = _FORKS.Pipe()
        self.process = _FORKS.Process(target=_serve, args=(theirs, ("serve", *flags), clean_environment() | env))
        self.process.start()
        theirs.close()
        self.url = str(json.loads(self._told())["url"])

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def die_at(self, point: str, nth: int) -> str:
        """Returns once it is dead: what it was doing there."""
        self._way.send((POINTS.index(point), nth))
        doing = self._told()
        self.wait()
        assert self.process.exitcode == -signal.SIGKILL
        return doing

    def send(self, sig: signal.Signals) -> None:
        os.kill(self.pid, sig)

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.wait()

    def wait(self) -> None:
        self.process.join(_PATIENCE_S)
        assert self.process.exitcode is not None, f"server {self.pid} does not end"

    def _told(self) -> str:
        assert self._way.poll(_PATIENCE_S), f"server {self.pid} said nothing for {_PATIENCE_S} s"
        try:
            return str(self._way.recv())
        except EOFError:
            self.wait()
            raise AssertionError(f"server {self.pid} ended with {self.process.exitcode}") from None


class _Out(io.TextIOBase):
    """Standard output of a server, sent to who started it."""

    def __init__(self, way: Connection) -> None:
        self._way = way

    def write(self, text: str) -> int:
        if text.strip():
            self._way.send(text)
        return len(text)


def _serve(way: Connection, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    from dail.serve.cli import main

    os.environ.clear()
    os.environ.update(environment)
    points = _Points(way)
    threading.Thread(target=points.listen, daemon=True).start()
    sys.stdout = _Out(way)
    sys.argv = ["dail", *arguments]
    main()


class _Points:
    """Where this process dies, if it was told to."""

    def __init__(self, way: Connection) -> None:
        self._way = way
        self._armed = (-1, 0)
        self._count = itertools.count(1)
        self._wrap_store(Store.write)
        self._wrap_objects(Objects.put)

    def listen(self) -> None:
        while True:
            try:
                armed = self._way.recv()
            except EOFError:  # nobody is left who would stop us
                os._exit(1)
            self._count, self._armed = itertools.count(1), armed

    def _reach(self, point: str, doing: str) -> None:
        number, nth = self._armed
        if point == POINTS[number] and number >= 0 and next(self._count) == nth:
            self._way.send(doing)
            os.kill(os.getpid(), signal.SIGKILL)

    def _wrap_store(self, write: Any) -> None:
        before = {"Batches.create": "in validation", "Leases.commit": "before the commit"}

        @contextmanager
        def writing(store: Store) -> Iterator[Transaction]:
            doing = sys._getframe(2).f_code.co_qualname  # 1 is contextlib's
            with write(store) as tx:
                yield tx
                if doing in before:
                    self._reach(before[doing], doing)
            if doing in before:
                self._reach("after the commit", doing)

        Store.write = writing  # type: ignore[method-assign]

    def _wrap_objects(self, put: Any) -> None:
        def putting(objects: Objects, key: str, data: bytes) -> None:
            is_manifest = key.startswith("manifests/")
            if is_manifest:
                self._reach("before the manifest", key)
            put(objects, key, data)
            if is_manifest:
                self._reach("after the manifest", key)

        Objects.put = putting  # type: ignore[method-assign]
