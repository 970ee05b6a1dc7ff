"""One SQLite file holds the truth: a row in it is the promise, files are only bytes.

All SQL is in this folder, by table; a transaction joins it. Times are Unix seconds by the store's clock: no worker's
clock counts.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dail.serve.store.batches import Batches
from dail.serve.store.checkpoints import Checkpoints
from dail.serve.store.counts import Counts
from dail.serve.store.events import Events
from dail.serve.store.migrations import migrate, stamp
from dail.serve.store.noted import Noted
from dail.serve.store.one_writer import OneWriter
from dail.serve.store.shards import Shards
from dail.serve.store.tables import BUSY_S, make_engine
from dail.serve.store.tokens import Tokens
from dail.serve.store.units import Units
from dail.synth.core.errors import StorageError, StoreBusy
from dail.synth.core.machine import remote_file_system

_log = logging.getLogger("dail.serve")


class Store:
    """Opens the file, or makes it. `write` and `read` give a transaction; nothing else touches SQL."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tenant: str | None = None
        self._writer = OneWriter(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path.parent}: {error.strerror}; choose another data folder") from None
        kind = remote_file_system(path)
        if kind is not None:
            _log.warning(f"the store {path} lies on a network disk ({kind}): slower, and for one server only")
        self._engine = make_engine(path, is_remote=kind is not None)
        with self.write() as tx:
            tx.prepare(path)

    def seen_by(self, tenant: str) -> Self:
        """The same store, in which there are no batches but this tenant's."""
        view = copy(self)
        view._tenant = tenant
        return view

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One BEGIN IMMEDIATE … COMMIT, on disk when it returns. Raises StorageError if the disk refuses."""
        with self._writer.holding(BUSY_S) as is_held:
            if not is_held:
                raise _busy(self.path)
            with _refusals(self.path), self._engine.begin() as connection:
                tx = Transaction(connection, self._tenant)
                yield tx
                tx.events.write()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent view; does not wait for writers longer than their commit."""
        with _refusals(self.path), self._engine.connect().execution_options(dail_read=True) as connection:
            yield Transaction(connection, self._tenant)

    def close(self) -> None:
        with self._writer.holding(BUSY_S):  # the last connection checkpoints
            self._engine.dispose()


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise  # our mistake, not the disk's
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise _busy(path) from error
        raise StorageError(
            f"the store {path} refused: {error.orig}; nothing was changed; free some space or check the folder"
        ) from error


def _busy(path: Path) -> StoreBusy:
    return StoreBusy(
        f"the store {path} was held by another writer for {BUSY_S} s; nothing was changed; try again, or find the "
        f"process that holds it"
    )


class Transaction:
    """What one connection reads and writes between BEGIN and COMMIT; of batches only a tenant's, if one is given."""

    def __init__(self, connection: sa.Connection, tenant: str | None = None) -> None:
        self._sql = connection
        self.checkpoints = Checkpoints(connection)
        self.shards = Shards(connection)
        counts = self.counts = Counts(connection)
        noted = Noted(counts)
        self.units = Units(connection, self.checkpoints, self.shards, noted)
        self.batches = Batches(connection, self.checkpoints, noted, counts, tenant)
        self.events = Events(connection, noted, counts)
        self.tokens = Tokens(connection)

    def prepare(self, path: Path) -> None:
        migrate(self._sql, path)

    def stamp(self) -> None:
        """Writes the store's version into its header: also the cheapest real write, for a health check."""
        stamp(self._sql)
