"""How the whole store stands, for metrics and for who looks after it: read of indexes and kept counts alone."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from dail.serve.store.databases import lease_clock
from dail.serve.store.tables import BATCHES, UNITS

_OPEN = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True)
class Figures:
    """Of the whole store. `units`: of batches that have not ended."""

    batches: dict[str, int]
    units: dict[str, int]
    oldest_s: float
    workers: int


@dataclass(frozen=True)
class Held:
    """A unit that somebody leased. `lapsed`: nobody renews it."""

    worker: str
    batch_id: str
    unit_id: str
    item_id: str
    epoch: int
    tokens: int
    leased_at: float | None
    lapsed: bool


def figures(sql: sa.Connection) -> Figures:
    by_status = sa.select(BATCHES.c.status, sa.func.count()).group_by(BATCHES.c.status)
    units: Counter[str] = Counter()
    for counts in sql.scalars(sa.select(BATCHES.c.counts).where(BATCHES.c.status.in_(_OPEN))):
        units.update({key.removeprefix("units "): n for key, n in (counts or {}).items() if key.startswith("units ")})
    first = sa.select(UNITS.c.batch_id).where(UNITS.c.state == "queued").order_by(UNITS.c.n).limit(1).scalar_subquery()
    posted_at = sql.scalar(sa.select(BATCHES.c.created_at).where(BATCHES.c.id == first))
    live = UNITS.c.state == "leased", UNITS.c.lease_until >= lease_clock()
    return Figures(
        batches=dict(sql.execute(by_status).tuples().all()),
        units=dict(units),
        oldest_s=0.0 if posted_at is None else max(0.0, time.time() - posted_at),
        workers=sql.scalar(sa.select(sa.func.count(UNITS.c.owner.distinct())).where(*live)) or 0,
    )


def held(sql: sa.Connection, limit: int) -> list[Held]:
    """What is leased now, by worker, in the order of the store."""
    query = (
        sa.select(UNITS, (UNITS.c.lease_until < lease_clock()).label("lapsed"))
        .where(UNITS.c.state == "leased")
        .order_by(UNITS.c.owner, UNITS.c.n)
        .limit(limit)
    )
    names = ("batch_id", "unit_id", "item_id", "epoch", "tokens", "leased_at", "lapsed")
    return [Held(row.owner, **{name: row._mapping[name] for name in names}) for row in sql.execute(query)]
