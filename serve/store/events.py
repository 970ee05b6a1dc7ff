"""Events: what happened to a batch, numbered from 1 in the order of the commits, each with all counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dail.serve.store.noted import Noted
from dail.serve.store.tables import BATCHES, EVENTS, UNITS
from dail.serve.store.units import ITEM_STATES, UNIT_STATES, item_states

KEPT = 10_000  # newest events of a batch; each holds all counts, so that older ones are history only
_TRIM_EVERY = 1_000


@dataclass(frozen=True)
class EventRecord:
    n: int
    kind: str
    data: dict[str, Any]


class Events:
    """Part of a transaction, which writes one event for every batch that it changed."""

    def __init__(self, connection: sa.Connection, noted: Noted) -> None:
        self._sql, self._noted = connection, noted

    def write(self) -> None:
        for batch_id, changed in self._noted.batches.items():
            self._write(batch_id, changed.is_status, sorted(changed.items))
        self._noted.batches.clear()

    def _write(self, batch_id: str, is_status: bool, items: list[str]) -> None:
        # the number is the batch's own, and taking it locks the row: numbers have no gaps and follow the commits
        row = self._sql.execute(
            BATCHES.update()
            .where(BATCHES.c.id == batch_id)
            .values(num_events=BATCHES.c.num_events + 1)
            .returning(BATCHES.c.num_events, BATCHES.c.status, BATCHES.c.generation)
        ).one()
        data = {"status": row.status, "generation": row.generation, **self._counts(batch_id)}
        if items:
            data["items"] = self._items(batch_id, items)
        kind = row.status if is_status else "progress"
        self._sql.execute(EVENTS.insert().values(batch_id=batch_id, n=row.num_events, kind=kind, data=data))
        if row.num_events % _TRIM_EVERY == 0:
            is_old = EVENTS.c.n <= row.num_events - KEPT
            self._sql.execute(EVENTS.delete().where(EVENTS.c.batch_id == batch_id, is_old))

    def after(self, batch_id: str, last: int, limit: int) -> list[EventRecord]:
        query = sa.select(EVENTS).where(EVENTS.c.batch_id == batch_id, EVENTS.c.n > last).order_by(EVENTS.c.n)
        return [EventRecord(row.n, row.kind, row.data) for row in self._sql.execute(query.limit(limit))]

    def last(self, batch_id: str) -> int:
        return self._sql.scalar(sa.select(BATCHES.c.num_events).where(BATCHES.c.id == batch_id)) or 0

    def final(self, batch_id: str) -> EventRecord | None:
        """The last event of a batch that has ended; None while it goes on."""
        query = (
            sa.select(EVENTS)
            .join(BATCHES, sa.and_(BATCHES.c.id == EVENTS.c.batch_id, BATCHES.c.num_events == EVENTS.c.n))
            .where(BATCHES.c.id == batch_id, BATCHES.c.ended_at.is_not(None))
        )
        row = self._sql.execute(query).one_or_none()
        return EventRecord(row.n, row.kind, row.data) if row else None

    def _counts(self, batch_id: str) -> dict[str, Any]:
        states = item_states(batch_id)
        by_item: dict[str, int] = dict(
            self._sql.execute(sa.select(states.c.status, sa.func.count()).group_by(states.c.status)).tuples().all()
        )
        of_unit = (UNITS.c.state, sa.func.count(), sa.func.sum(UNITS.c.tokens))
        rows = self._sql.execute(
            sa.select(*of_unit).where(UNITS.c.batch_id == batch_id).group_by(UNITS.c.state)
        ).tuples().all()  # fmt: skip
        by_unit = {state: count for state, count, _ in rows}
        return {
            "request_counts": {"total": sum(by_item.values()), **{name: by_item.get(name, 0) for name in ITEM_STATES}},
            "units": {"total": sum(by_unit.values()), **{name: by_unit.get(name, 0) for name in UNIT_STATES}},
            "tokens": sum(tokens for *_, tokens in rows),
        }

    def _items(self, batch_id: str, items: list[str]) -> list[dict[str, str]]:
        states = item_states(batch_id)
        query = sa.select(states.c.item_id, states.c.status).where(states.c.item_id.in_(items))
        return [{"id": row.item_id, "status": row.status} for row in self._sql.execute(query)]
