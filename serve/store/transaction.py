"""One SQLite file holds the truth: a row in it is the promise, files are only bytes.

All SQL is in this folder, by table; a transaction joins it. Times are Unix seconds by the store's clock: no worker's
clock counts.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dail.serve.store.batches import Batches
from dail.serve.store.checkpoints import Checkpoints
from dail.serve.store.counts import Counts
from dail.serve.store.events import Events
from dail.serve.store.noted import Noted
from dail.serve.store.shards import Shards
from dail.serve.store.tables import METADATA, STORE_VERSION, make_engine
from dail.serve.store.units import Units
from dail.synth.core.errors import StorageError


class Store:
    """Opens the file, or makes it. `write` and `read` give a transaction; nothing else touches SQL."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()  # SQLite's own wait is a sleeping poll, and not fair
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path.parent}: {error.strerror}; choose another data folder") from None
        self._engine = make_engine(path)
        with self.write() as tx:
            tx.prepare(path)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One BEGIN IMMEDIATE … COMMIT, on disk when it returns. Raises StorageError if the disk refuses."""
        with self._writing, _refusals(self.path), self._engine.begin() as connection:
            tx = Transaction(connection)
            yield tx
            tx.events.write()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent view; does not wait for writers longer than their commit."""
        with _refusals(self.path), self._engine.connect().execution_options(dail_read=True) as connection:
            yield Transaction(connection)

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise  # our mistake, not the disk's
        raise StorageError(
            f"the store {path} refused: {error.orig}; nothing was changed; free some space or check the folder"
        ) from error


class Transaction:
    """What one connection reads and writes between BEGIN and COMMIT."""

    def __init__(self, connection: sa.Connection) -> None:
        self._sql = connection
        self.checkpoints = Checkpoints(connection)
        self.shards = Shards(connection)
        counts = self.counts = Counts(connection)
        noted = Noted(counts)
        self.units = Units(connection, self.checkpoints, self.shards, noted)
        self.batches = Batches(connection, self.checkpoints, noted, counts)
        self.events = Events(connection, noted, counts)

    def prepare(self, path: Path) -> None:
        version = self._sql.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version == 5:
            self._migrate()
            version = STORE_VERSION
        if version not in (0, STORE_VERSION):  # 0: a new file
            way_out = "upgrade dail" if version > STORE_VERSION else "serve it with the release of dail that wrote it"
            raise StorageError(
                f"the store {path} has version {version}, this build reads {STORE_VERSION}; {way_out}, or choose "
                f"another data folder"
            )
        METADATA.create_all(self._sql)
        self.stamp()

    def _migrate(self) -> None:
        """Version 5 to 6: columns that the tables have and the file lacks; new tables are made by `prepare`."""
        for table in METADATA.sorted_tables:
            there = {row[1] for row in self._sql.exec_driver_sql(f"PRAGMA table_info({table.name})")}
            for column in table.columns if there else ():
                if column.name not in there:
                    definition = sa.schema.CreateColumn(column).compile(self._sql.engine)
                    self._sql.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
            for index in table.indexes if there else ():
                index.create(self._sql, checkfirst=True)
        self.counts.fill()

    def stamp(self) -> None:
        """Writes the store's version into its header: also the cheapest real write, for a health check."""
        self._sql.exec_driver_sql(f"PRAGMA user_version={STORE_VERSION}")
