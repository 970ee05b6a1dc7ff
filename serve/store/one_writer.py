"""One writer of a store's file at a time, over threads and processes.

SQLite's own wait is a sleeping poll; and its write-ahead log, before 3.51.3, can be ruined by two connections of which
one writes while the other checkpoints. Both happen inside this lock alone: SQLite checkpoints at a commit, and at the
close of the last connection. A killed process lets go of it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dail.synth.core.errors import StorageError

_POLL_S = 0.001


class OneWriter:
    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.lock")
        self._thread = threading.Lock()

    @contextmanager
    def holding(self, wait_s: float) -> Iterator[bool]:
        """Whether the lock was had within the time; it is let go at the end."""
        until = time.monotonic() + wait_s
        if not self._thread.acquire(timeout=wait_s):
            yield False
            return
        try:
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise StorageError(
                    f"cannot open {self._path}: {error.strerror}; nothing was changed; "
                    f"free some space or check the folder"
                ) from error
            try:
                yield _locked(descriptor, until)
            finally:
                os.close(descriptor)
        finally:
            self._thread.release()


def _locked(descriptor: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        else:
            return True
