"""Migrations: a store of an older version is brought to this one when it is opened, forward only.

They run in the transaction that opens the store, which no other process shares: a kill leaves the old version whole.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from dail.serve.store.counts import Counts
from dail.serve.store.databases import Database
from dail.serve.store.tables import METADATA, SHARDS, STORE_VERSION
from dail.synth.core.errors import StorageError


def migrate(sql: sa.Connection, database: Database) -> None:
    """Raises StorageError for a store that is newer than this build, or older than the oldest step."""
    version = database.version(sql)
    while version in _STEPS:
        _STEPS[version](sql)
        version += 1
    if version not in (0, STORE_VERSION):  # 0: a new one
        way_out = "upgrade dail" if version > STORE_VERSION else "serve it with the release of dail that wrote it"
        raise StorageError(
            f"the store {database.name} has version {version}, this build reads {STORE_VERSION}; {way_out}, or choose "
            f"another place for it"
        )
    METADATA.create_all(sql)
    database.stamp(sql, STORE_VERSION)


def _add_missing(sql: sa.Connection) -> None:
    """Columns and indexes that the tables have and the file lacks; new tables are made afterwards, whole."""
    seen = sa.inspect(sql)
    for table in METADATA.sorted_tables:
        if not seen.has_table(table.name):
            continue
        columns = {column["name"] for column in seen.get_columns(table.name)}
        for column in table.columns:
            if column.name not in columns:
                definition = sa.schema.CreateColumn(column).compile(dialect=sql.dialect)
                sql.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
        for index in table.indexes:
            index.create(sql, checkfirst=True)
    _let_shards_hold_several(sql)
    Counts(sql).fill()


def _let_shards_hold_several(sql: sa.Connection) -> None:
    """A shard's key was unique, and SQLite changes no constraint of a table that is there."""
    sql.exec_driver_sql("CREATE TEMPORARY TABLE kept AS SELECT * FROM shards")
    sql.exec_driver_sql("DROP TABLE shards")
    SHARDS.create(sql)
    names = ", ".join(f'"{column.name}"' for column in SHARDS.columns)
    sql.exec_driver_sql(f"INSERT INTO shards ({names}) SELECT {names} FROM kept")
    sql.exec_driver_sql("DROP TABLE kept")


# by the version that each starts from
_STEPS: dict[int, Callable[[sa.Connection], None]] = {5: _add_missing, 6: _add_missing}
