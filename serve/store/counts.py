"""Counts: how a batch's items and units stand, kept in its row, so that asking costs the same in a batch of any size.

Before an item's units move, its share of the counts is looked at; before the commit it is looked at again, and the
difference is added. A change of many units at once counts the batch anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from dail.serve.store.tables import BATCHES, ITEMS, SHARDS, UNITS

ITEM_STATES = ("queued", "running", "completed", "failed", "cancelled", "expired")
UNIT_STATES = ("waiting", "queued", "leased", "committed", "skipped", "failed", "cancelled", "expired")
_TOKENS = ("tokens", "attributed_tokens", "student_tokens")
_MANY = 500  # names in one statement; SQLite has a limit

# flat, so that two of them can be added: "items completed", "units committed", "tokens", …
Flat = Counter[str]


class Counts:
    """Part of a transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._sql = connection
        self._before: dict[str, dict[str, Flat]] = {}  # by batch and item
        self._recount: set[str] = set()
        self._shards: Counter[str] = Counter()  # new ones, by batch
        self.moved: Flat = Counter()  # by how much those that were kept last differ from those before

    def look(self, batch_id: str, items: Iterable[str]) -> None:
        """To be called before units of these items move; a second call in a transaction changes nothing."""
        seen = self._before.setdefault(batch_id, {})
        if new := [item for item in dict.fromkeys(items) if item not in seen]:
            seen.update({item: self._of_items(batch_id, [item]) for item in new})

    def recount(self, batch_id: str) -> None:
        """Many units of it moved, or will."""
        self._recount.add(batch_id)

    def add_shards(self, batch_id: str, number: int) -> None:
        self._shards[batch_id] += number

    def keep(self, batch_id: str) -> Flat:
        """Stores, and gives, the counts as they are now."""
        kept = self._kept(batch_id)
        earlier = Counter(kept)
        before, shards = self._before.pop(batch_id, {}), self._shards.pop(batch_id, 0)
        if kept is None or batch_id in self._recount:
            kept = self.count(batch_id)
            self._recount.discard(batch_id)
        else:
            for flat in before.values():
                kept.subtract(flat)
            kept.update(self._of_items(batch_id, list(before)))
            kept["shards"] += shards
        self.moved.update(kept)
        self.moved.subtract(earlier)
        self._sql.execute(BATCHES.update().where(BATCHES.c.id == batch_id).values(counts=dict(+kept)))
        return kept

    def get(self, batch_id: str) -> Flat:
        """With the tokens of running units, which no event tells of."""
        is_changing = batch_id in self._recount or batch_id in self._before
        kept = None if is_changing else self._kept(batch_id)
        if kept is None:  # asked before the commit
            kept = self.count(batch_id)
        kept.update(dict(self._sql.execute(_RUNNING, {"batch_id": batch_id}).one()._mapping))
        return kept

    def count(self, batch_id: str) -> Flat:
        """Counts the whole batch, in the time that takes."""
        refused = sa.select(sa.func.count()).where(ITEMS.c.batch_id == batch_id, ITEMS.c.error_code.is_not(None))
        flat = self._flat(_OF_BATCH, {"batch_id": batch_id})
        flat["items failed"] += self._sql.scalar(refused) or 0
        files = sa.select(sa.func.count(SHARDS.c.key.distinct())).where(SHARDS.c.batch_id == batch_id)
        flat["shards"] = self._sql.scalar(files) or 0
        return flat

    def states(self, batch_id: str, items: Sequence[str]) -> dict[str, str]:
        """Of these items, by their ids, of those that there are."""
        found: dict[str, str] = {}
        for start in range(0, len(items), _MANY):
            some = {"batch_id": batch_id, "items": items[start : start + _MANY]}
            found |= dict(self._sql.execute(_STATES_OF_ITEMS, some).tuples().all())
        return found

    def fill(self) -> None:
        """For batches of a store that kept no counts."""
        for batch_id in self._sql.scalars(sa.select(BATCHES.c.id).where(BATCHES.c.counts.is_(None))).all():
            self.keep(batch_id)

    def agree(self, batch_id: str) -> bool:
        """Whether what is kept of a batch is what its units are."""
        kept = self._kept(batch_id)
        return kept is not None and +kept == +self.count(batch_id)

    def _kept(self, batch_id: str) -> Flat | None:
        kept: dict[str, Any] | None = self._sql.scalar(sa.select(BATCHES.c.counts).where(BATCHES.c.id == batch_id))
        return None if kept is None else Counter(kept)

    def _of_items(self, batch_id: str, items: Sequence[str]) -> Flat:
        total: Flat = Counter()
        for start in range(0, len(items), _MANY):
            total.update(self._flat(_OF_ITEMS, {"batch_id": batch_id, "items": items[start : start + _MANY]}))
        return total

    def _flat(self, queries: tuple[sa.Select, sa.Select], chosen: dict[str, Any]) -> Flat:
        by_item, by_unit = queries
        flat: Flat = Counter({f"items {status}": count for status, count in self._sql.execute(by_item, chosen)})
        for state, count, *tokens in self._sql.execute(by_unit, chosen):
            flat.update({f"units {state}": count, **dict(zip(_TOKENS, tokens, strict=True))})
        return flat


def by_state(counts: Flat, what: str, states: Sequence[str]) -> dict[str, int]:
    """The total and the number in each state, of `items` or `units`."""
    each = {state: counts[f"{what} {state}"] for state in states}
    return {"total": sum(each.values()), **each}


def item_state() -> sa.ColumnElement[str]:
    """An item's state, over a group of its units: it follows from theirs, so it cannot disagree with them."""

    def num(state: str) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((UNITS.c.state == state, 1), else_=0))

    return sa.case(
        (num("leased") > 0, "running"),
        (num("queued") + num("waiting") == sa.func.count(), "queued"),
        (num("queued") + num("waiting") > 0, "running"),
        (num("failed") > 0, "failed"),
        (num("expired") > 0, "expired"),
        (num("cancelled") > 0, "cancelled"),
        else_="completed",
    )


def _by_item_and_by_unit(*conditions: sa.ColumnElement[bool]) -> tuple[sa.Select, sa.Select]:
    states = sa.select(item_state().label("status")).where(*conditions).group_by(UNITS.c.item_id).subquery()
    by_item = sa.select(states.c.status, sa.func.count()).group_by(states.c.status)
    sums = [sa.func.sum(sa.case((UNITS.c.state == "leased", 0), else_=UNITS.c[name])) for name in _TOKENS]
    by_unit = sa.select(UNITS.c.state, sa.func.count(), *sums).where(*conditions).group_by(UNITS.c.state)
    return by_item, by_unit


def item_states(*conditions: Callable[[sa.Table], sa.ColumnElement[bool]]) -> sa.Subquery:
    """Id and state of the items of batch `:batch_id`: from their units, and of one that could not be used, failed."""
    of_units, of_items = ([_in_batch(table), *(one(table) for one in conditions)] for table in (UNITS, ITEMS))
    query = sa.select(UNITS.c.item_id, item_state().label("status")).where(*of_units).group_by(UNITS.c.item_id)
    refused = sa.select(ITEMS.c.item_id, sa.literal("failed").label("status"))
    return sa.union_all(query, refused.where(*of_items, ITEMS.c.error_code.is_not(None))).subquery()


def _in_batch(table: sa.Table) -> sa.ColumnElement[bool]:
    return table.c.batch_id == sa.bindparam("batch_id")


def _in_items(table: sa.Table) -> sa.ColumnElement[bool]:
    return table.c.item_id.in_(sa.bindparam("items", expanding=True))


# put together once: for every commit anew it was a third of its time, and of a look at a batch a fifth
_OF_BATCH = _by_item_and_by_unit(_in_batch(UNITS))
_OF_ITEMS = _by_item_and_by_unit(_in_batch(UNITS), _in_items(UNITS))
_SUMS = [sa.func.coalesce(sa.func.sum(UNITS.c[name]), 0).label(name) for name in _TOKENS]
_RUNNING = sa.select(*_SUMS).where(_in_batch(UNITS), UNITS.c.state == "leased")
_STATES_OF_ITEMS = sa.select(*item_states(_in_items).c)
