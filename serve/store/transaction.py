"""One store holds the truth: a row in it is the promise, files are only bytes.

All SQL is in this folder, by table; a transaction joins it, and `databases.py` opens what it lies in. Times are Unix
seconds by the store's clock: no worker's clock counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from dail.serve.store.batches import Batches
from dail.serve.store.checkpoints import Checkpoints
from dail.serve.store.counts import Counts
from dail.serve.store.databases import Database, database_at
from dail.serve.store.events import Events
from dail.serve.store.figures import Figures, Held, figures, held
from dail.serve.store.migrations import migrate
from dail.serve.store.noted import Noted
from dail.serve.store.shards import Shards
from dail.serve.store.tables import NOW, STORE_VERSION
from dail.serve.store.tokens import Tokens
from dail.serve.store.units import Units
from dail.serve.store.workers import Workers
from dail.synth.core.errors import StorageError


class Store:
    """Opens the store, or makes it. `write` and `read` give a transaction; nothing else touches SQL.

    Args:
        place: an SQLite file, or the URL of a PostgreSQL database.
    """

    def __init__(self, place: Path | str) -> None:
        self.database = database_at(place)
        self._tenant: str | None = None
        self.on_commit: list[Callable[[Noted], None]] = []  # each is told what is on disk now
        self.is_traced = False  # whether `on_commit` makes spans
        self.on_transaction: Callable[[str, float, bool], None] = lambda op, seconds, is_refused: None
        with self.write() as tx:
            tx.prepare(self.database)

    @property
    def name(self) -> str:
        """Where it lies, to be told: without a password."""
        return self.database.name

    def seen_by(self, tenant: str) -> Self:
        """The same store, in which there are no batches but this tenant's."""
        view = copy(self)
        view._tenant = tenant
        return view

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Durable when it returns, and after every write before it. Raises StorageError if the store refuses."""
        with self._timed("write"), self.database.writing() as connection:
            tx = Transaction(connection, self._tenant)
            yield tx
            tx.events.write()
            if self.is_traced:
                tx.batches.look_up_traces()
        for tell in self.on_commit:
            tell(tx.noted)

    @contextmanager
    def _timed(self, op: str) -> Iterator[None]:
        """Tells how long it took, and whether the store refused; what the rules refuse is no error of its."""
        begun_at, is_refused = time.monotonic(), False
        try:
            yield
        except StorageError:
            is_refused = True
            raise
        finally:
            self.on_transaction(op, time.monotonic() - begun_at, is_refused)

    def check_write(self) -> None:
        """The cheapest real write, for a health check. Raises StorageError."""
        with self.database.writing() as connection:
            self.database.stamp(connection, STORE_VERSION)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent view; does not wait for writers longer than their commit."""
        with self._timed("read"), self.database.reading() as connection:
            yield Transaction(connection, self._tenant)

    def version(self) -> int:
        """Of its tables: a newer server over the same store may have changed them."""
        with self.database.reading() as connection:
            return self.database.version(connection)

    def clock(self) -> float:
        """Unix seconds."""
        with self.read() as tx:
            return tx.now()

    def figures(self) -> Figures:
        with self._timed("read"), self.database.reading() as connection:
            return figures(connection)

    def held(self, limit: int) -> list[Held]:
        """What workers have, of all tenants."""
        with self._timed("read"), self.database.reading() as connection:
            return held(connection, limit)

    def close(self) -> None:
        self.database.close()


class Transaction:
    """What one connection reads and writes between BEGIN and COMMIT; of batches only a tenant's, if one is given."""

    def __init__(self, connection: sa.Connection, tenant: str | None = None) -> None:
        self._sql = connection
        self.checkpoints = Checkpoints(connection)
        self.shards = Shards(connection)
        counts = self.counts = Counts(connection)
        noted = self.noted = Noted(counts)
        self.units = Units(connection, self.checkpoints, self.shards, noted)
        self.batches = Batches(connection, self.checkpoints, noted, counts, tenant)
        self.events = Events(connection, noted, counts)
        self.tokens = Tokens(connection)
        self.workers = Workers(connection)

    def now(self) -> float:
        """Unix seconds by the store's clock."""
        return self._sql.scalar(sa.select(NOW)) or 0.0

    def prepare(self, database: Database) -> None:
        migrate(self._sql, database)
