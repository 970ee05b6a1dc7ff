"""Shards: the files that committed units became."""

from __future__ import annotations

import sqlalchemy as sa

from dail.serve.store.tables import MANIFESTS, SHARDS
from dail.synth.schema.units import ShardRef

SHARD_COLUMNS = [SHARDS.c[name] for name in ShardRef.model_fields]


class Shards:
    """Part of a transaction. Units are named by their number in the store."""

    def __init__(self, connection: sa.Connection) -> None:
        self._sql = connection

    def add(self, unit: int, batch_id: str, shard: ShardRef) -> bool:
        """Whether it is the first trace of its file."""
        query = sa.select(SHARDS.c.unit).where(SHARDS.c.key == shard.key).limit(1)
        is_first = self._sql.execute(query).first() is None
        row = {"unit": unit, "batch_id": batch_id, **shard.model_dump()}
        self._sql.execute(SHARDS.insert().values(row))
        return is_first

    def get(self, unit_id: str, key: str) -> ShardRef | None:
        query = sa.select(*SHARD_COLUMNS).where(SHARDS.c.key == key, SHARDS.c.unit_id == unit_id)
        row = self._sql.execute(query).one_or_none()
        return ShardRef.model_validate(row._mapping) if row else None

    def named(self) -> set[str]:
        """The keys of everything that the store names: shards and manifests."""
        return {key for table in (SHARDS, MANIFESTS) for key in self._sql.scalars(sa.select(table.c.key))}

    def set_damaged(self, unit: int, is_damaged: bool) -> None:
        self._sql.execute(SHARDS.update().where(SHARDS.c.unit == unit).values(damaged=is_damaged))

    def damaged(self, batch_id: str) -> set[int]:
        """Units whose shards were not what they must be when they were last read."""
        return set(self._sql.scalars(sa.select(SHARDS.c.unit).where(SHARDS.c.batch_id == batch_id, SHARDS.c.damaged)))

    def of_batch(self, batch_id: str) -> list[ShardRef]:
        query = sa.select(*SHARD_COLUMNS).where(SHARDS.c.batch_id == batch_id).order_by(SHARDS.c.unit)
        return [ShardRef.model_validate(row._mapping) for row in self._sql.execute(query)]
