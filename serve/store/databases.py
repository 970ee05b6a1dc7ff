"""Where a store lies: one SQLite file, or a schema of a PostgreSQL server. The one place that knows either.

Both write one transaction at a time, over threads and servers, so that a rule may read before it writes: a file by its
lock (`one_writer.py`), PostgreSQL by an advisory lock of the transaction. And both have one clock for all servers.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from dail.serve.store.one_writer import OneWriter
from dail.synth.core.errors import DailError, StorageError, StoreAway, StoreBusy, UsageError
from dail.synth.core.machine import remote_file_system

BUSY_S = 30
_CONNECTIONS = 40  # as many as the API has threads, so no request waits for a connection
_NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "gfs", "ocfs")

_log = logging.getLogger("dail.serve")


class now(FunctionElement[float]):
    """The time of day in Unix seconds, by the store's clock."""

    type = sa.Float()
    inherit_cache = True


class lease_clock(FunctionElement[float]):
    """Seconds by which leases run: setting a server's or a worker's time of day moves none.

    Of a file: the machine's monotonic clock, which every process on it shares; a server that starts extends every
    lease, so also after a boot none lapses early. Of PostgreSQL: its own clock.
    """

    type = sa.Float()
    inherit_cache = True


@compiles(now, "sqlite")
def _(element: now, compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(lease_clock, "sqlite")
def _(element: lease_clock, compiler: Any, **_: Any) -> str:
    return "dail_monotonic()"


@compiles(now, "postgresql")
@compiles(lease_clock, "postgresql")
def _(element: now, compiler: Any, **_: Any) -> str:
    return "CAST(extract(epoch from clock_timestamp()) AS double precision)"


class Database(Protocol):
    """`name` is told in errors and has no password; `about` is what a readiness check says."""

    name: str
    kind: str
    about: str

    def writing(self) -> Any:
        """A context: one connection whose changes are durable when it is left. Raises StoreBusy, StorageError."""

    def reading(self) -> Any:
        """A context: one consistent view."""

    def version(self, sql: sa.Connection) -> int:
        """0 where no store is yet."""

    def stamp(self, sql: sa.Connection, version: int) -> None: ...

    def close(self) -> None: ...


def database_at(place: Path | str) -> Database:
    """Of a file's path or a URL. Raises UsageError, StorageError."""
    return Postgres(place) if isinstance(place, str) else SqliteFile(place)


@contextmanager
def _told_as(refusal: Callable[[DBAPIError], DailError | None]) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if (told := refusal(error)) is None:
            raise
        raise told from error


class SqliteFile:
    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._writer = OneWriter(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path.parent}: {error.strerror}; choose another data folder") from None
        disk = remote_file_system(path)
        if disk is not None and disk.startswith(_NETWORK):
            raise UsageError(
                f"the store {path} would lie on a network disk ({disk}), whose locks SQLite cannot trust; give "
                f"--data-dir on a disk of this machine, or DAIL_STORE=postgresql://… for a store of several servers"
            )
        if disk is not None:
            _log.warning(f"the store {path} may lie on a network disk ({disk}): slower, and for one server only")
        # a write-ahead log is shared through this machine's memory, which another machine does not see
        self._journal = "WAL" if disk is None else "DELETE"
        self.about = "write-ahead log, one writer at a time" if disk is None else f"rollback journal, on {disk}"
        self._engine = self._make_engine(path)

    def _make_engine(self, path: Path) -> sa.Engine:
        """The one way to open the file: writes are serialised, synced, and hold to the foreign keys."""
        engine = sa.create_engine(
            f"sqlite:///{path}", connect_args={"timeout": BUSY_S}, pool_size=_CONNECTIONS, max_overflow=0
        )

        @sa.event.listens_for(engine, "connect")
        def settle(connection: Any, _: Any) -> None:
            # Python's own BEGIN is deferred: a read-modify-write under it loses updates of other threads in silence.
            connection.isolation_level = None
            # before 3.51.3 two connections that write and checkpoint at once can ruin it: the lock keeps them apart
            connection.execute(f"PRAGMA journal_mode={self._journal}")
            connection.execute(
                "PRAGMA synchronous=FULL"
            )  # NORMAL may roll back acknowledged commits after a power loss
            connection.execute("PRAGMA foreign_keys=ON")
            connection.create_function("dail_monotonic", 0, time.monotonic)

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            is_read = connection.get_execution_options().get("dail_read", False)
            connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")

        return engine

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One BEGIN IMMEDIATE … COMMIT, on disk when it returns."""
        with self._writer.holding(BUSY_S) as is_held:
            if not is_held:
                raise _busy(self.name)
            with _told_as(self._refusal), self._engine.begin() as connection:
                yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Does not wait for writers longer than their commit."""
        with _told_as(self._refusal), self._engine.connect().execution_options(dail_read=True) as connection:
            yield connection

    def _refusal(self, error: DBAPIError) -> DailError | None:
        """What to tell; none for a mistake of ours."""
        if isinstance(error, IntegrityError | ProgrammingError):
            return None
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return _busy(self.name)
        return StorageError(
            f"the store {self.name} refused: {error.orig}; nothing was changed; free some space or check the folder"
        )

    def version(self, sql: sa.Connection) -> int:
        return int(sql.exec_driver_sql("PRAGMA user_version").scalar_one())

    def stamp(self, sql: sa.Connection, version: int) -> None:
        sql.exec_driver_sql(f"PRAGMA user_version={version}")

    def close(self) -> None:
        with self._writer.holding(BUSY_S):  # the last connection checkpoints
            self._engine.dispose()


_URL_FORM = "postgresql://USER[:PASSWORD]@HOST[:PORT]/DATABASE"
_CONNECT = {
    "connect_timeout": 10,
    # a server that is cut off must not hold a thread, nor a lock, for longer than that
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 40_000,
    "application_name": "dail",
    "options": f"-c lock_timeout={BUSY_S}s -c statement_timeout=120s -c idle_in_transaction_session_timeout=120s",
}
_FULL = ("53100", "53200")  # disk, memory
_NOT_ALLOWED = re.compile("does not exist|authentication failed|permission denied|no pg_hba.conf entry")
_LOCKED = ("55P03", "40001", "40P01", "57014")  # lock not available, serialisation, deadlock, statement time-out


class Postgres:
    """Tables in the schema that the user's search path begins with; several servers may share them."""

    kind = "postgresql"

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self.name = parsed.set(drivername="postgresql").render_as_string(hide_password=True)
        self.about = "one writer at a time, by an advisory lock"
        try:
            self._engine = sa.create_engine(
                parsed, connect_args=_CONNECT, pool_size=_CONNECTIONS, max_overflow=0, pool_pre_ping=True
            )
        except ModuleNotFoundError as error:
            raise UsageError(f"a store on PostgreSQL needs {error.name}; run: pip install 'dail[postgres]'") from None
        self._snapshot = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with _told_as(self._refusal), self._engine.connect() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise UsageError(f"the database {self.name} has encoding {encoding}; wanted UTF8: createdb -E UTF8 …")

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """READ COMMITTED: behind the lock, each statement sees all that was committed before."""
        with _told_as(self._refusal), self._engine.begin() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('dail ' || current_schema()))")
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with _told_as(self._refusal), self._snapshot.connect() as connection:
            yield connection

    def _refusal(self, error: DBAPIError) -> DailError | None:
        """What to tell; none for a mistake of ours."""
        state = getattr(error.orig, "sqlstate", None)
        why = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        if state in _LOCKED:
            return _busy(self.name)
        if state in _FULL:
            return StorageError(f"the store {self.name} refused: {why}; nothing was changed; free some space there")
        if state == "42501" or (state is None and _NOT_ALLOWED.search(str(error.orig))):
            return UsageError(f"the store {self.name} refused: {why}; check DAIL_STORE and the user's rights")
        if isinstance(error, IntegrityError | ProgrammingError):
            return None
        return StoreAway(f"the store {self.name} does not answer: {why}; nothing was changed; try again")

    def version(self, sql: sa.Connection) -> int:
        if not sa.inspect(sql).has_table(_VERSION.name):
            return 0
        return sql.scalar(sa.select(_VERSION.c.version)) or 0

    def stamp(self, sql: sa.Connection, version: int) -> None:
        _VERSION.create(sql, checkfirst=True)
        if not sql.execute(_VERSION.update().values(version=version)).rowcount:
            sql.execute(_VERSION.insert().values(version=version))

    def close(self) -> None:
        self._engine.dispose()


# beside the store's own tables, since it says which they are
_VERSION = sa.Table("dail_store", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False))


def _parsed(url: str) -> sa.URL:
    """Raises UsageError, without showing the URL: it may have a password."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError(f"DAIL_STORE is no URL that can be read; wanted {_URL_FORM}") from None
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise UsageError(
            f"DAIL_STORE begins with {parsed.drivername}:, and stores are a file in the data folder, or {_URL_FORM}"
        )
    return parsed.set(drivername="postgresql+psycopg")


def _busy(name: str) -> StoreBusy:
    return StoreBusy(
        f"the store {name} was held by another writer for {BUSY_S} s; nothing was changed; try again, or find the "
        f"process that holds it"
    )
