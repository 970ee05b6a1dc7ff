"""Units: who holds which, and how each ended.

Every change of state is one guarded UPDATE whose WHERE names the state it leaves; the rules that choose it are in
`rules/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from dail.serve.store.checkpoints import Checkpoints
from dail.serve.store.databases import lease_clock
from dail.serve.store.noted import Noted
from dail.serve.store.shards import SHARD_COLUMNS, Shards
from dail.serve.store.shares import Share, dealt
from dail.serve.store.tables import BATCHES, ITEMS, NOW, OPEN, SHARDS, UNITS
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Failure, ShardRef, Unit, UnitState

ENDED_WITHOUT_TRACE = ("failed", "cancelled", "expired")
_MANY = 500  # names in one statement; SQLite has a limit
REPLY_BYTES = 16 << 20  # of items in one lease reply, which a worker reads within its time-out
SUSPECT_LEASES = 3  # so many leases that lapsed with nothing written make a unit suspect: it may be what ends workers
_IS_NO_SUSPECT = UNITS.c.leases < SUSPECT_LEASES
_UNKNOWN = 1 << 31  # units that wait, of a batch whose number is not known
_LEASE = (UNITS.c.batch_id, UNITS.c.unit_id, UNITS.c.epoch, UNITS.c.owner, UNITS.c.leased_at)  # who has it
_NOTHING_WRITTEN = {"tokens": 0, "attributed_tokens": 0, "student_tokens": 0}


def _held_by() -> sa.Select:
    twin = UNITS.alias()
    epoch, unit_id = sa.bindparam("epoch", type_=sa.Integer), sa.bindparam("unit_id", type_=sa.Text)
    return sa.select(UNITS).where(
        UNITS.c.unit_id == unit_id,
        UNITS.c.owner == sa.bindparam("worker"),
        UNITS.c.epoch == epoch,
        # a queued unit has an owner only if its lease lapsed
        sa.or_(UNITS.c.state == "leased", UNITS.c.state == "queued"),
        ~sa.exists().where(twin.c.unit_id == unit_id, twin.c.epoch > epoch),
    )


_HELD_BY = _held_by()  # put together once: for every commit anew it was a tenth of its time


@dataclass(frozen=True)
class UnitRecord:
    n: int
    unit_id: str
    batch_id: str
    item_id: str
    sample: int
    state: UnitState
    epoch: int
    leases: int
    failures: int
    tokens: int
    attributed_tokens: int
    student_tokens: float
    correct: bool | None
    error: Failure | None
    leased_at: float | None
    owner: str | None

    @property
    def held_s(self) -> float | None:
        """Since it was leased."""
        return None if self.leased_at is None else time.time() - self.leased_at


class Units:
    """Part of a transaction. Methods that change a state return how many rows they moved."""

    def __init__(self, connection: sa.Connection, checkpoints: Checkpoints, shards: Shards, noted: Noted) -> None:
        self._sql, self._checkpoints, self._shards, self._noted = connection, checkpoints, shards, noted

    def claim(
        self, model_key: str, worker: str, count: int, lease_s: float, max_bytes: int = REPLY_BYTES
    ) -> list[Unit]:
        """Leases up to `count` units to the worker: those whose lease ran out first, then queued ones, fairly between
        tenants and batches (`shares.py`), and oldest first within one.

        Their items have up to `max_bytes` together, or it is one unit. A suspect is leased when there is nothing else,
        to a worker that holds nothing, which gets nothing beside it: whatever becomes of that worker is its own doing.

        The same unit may be in two batches. Only one of them is leased at a time and epochs count over both, so
        (unit, epoch) names one row.
        """
        if self._is_alone(worker):
            return []
        lapsed = sa.and_(UNITS.c.state == "leased", UNITS.c.lease_until < lease_clock())
        chosen: dict[str, sa.Row] = {}
        for row in self._sql.execute(_claimable(model_key).where(lapsed, _IS_NO_SUSPECT).limit(count)).all():
            chosen.setdefault(row.unit_id, row)
        self._deal(model_key, count, chosen)
        if not chosen and not self._holds_any(worker):
            for row in self._sql.execute(
                _claimable(model_key).where(sa.or_(UNITS.c.state == "queued", lapsed)).limit(1)
            ):
                chosen[row.unit_id] = row
        chosen = {row.unit_id: row for row in self._within(list(chosen.values()), max_bytes)}
        for row in chosen.values():
            self._noted.units(row.batch_id, [row.item_id])
            if row.state == "leased":  # and lapsed, before a sweep saw it
                self._noted.attempt(row, "expired")
        numbers = [row.n for row in chosen.values()]
        twin = UNITS.alias()
        last_epoch = sa.select(sa.func.max(twin.c.epoch)).where(twin.c.unit_id == UNITS.c.unit_id).scalar_subquery()
        self._change(
            UNITS.update()
            .where(UNITS.c.n.in_(numbers), sa.or_(UNITS.c.state == "queued", lapsed))
            .values(
                state="leased",
                owner=worker,
                epoch=last_epoch + 1,
                lease_until=lease_clock() + lease_s,
                leased_at=NOW,
                leases=UNITS.c.leases + 1,
                **_NOTHING_WRITTEN,
            )
        )
        leased = self._leased(numbers)
        self._change(
            BATCHES.update()
            .where(BATCHES.c.id.in_({unit.batch_id for unit in leased}), BATCHES.c.in_progress_at.is_(None))
            .values(in_progress_at=NOW)
        )
        return leased

    def _deal(self, model_key: str, count: int, chosen: dict[str, sa.Row]) -> None:
        """Adds queued units until there are `count`. What cannot be had of a batch now is had of the others."""
        shares = self._shares(model_key)
        while len(chosen) < count and (given := dealt(shares, count - len(chosen))):
            for batch_id, number in given.items():
                query = _claimable(model_key).where(
                    UNITS.c.batch_id == batch_id,
                    UNITS.c.state == "queued",
                    _IS_NO_SUSPECT,
                    UNITS.c.unit_id.not_in(list(chosen)),
                )
                found = self._sql.execute(query.limit(number)).all()
                chosen |= {row.unit_id: row for row in found}
                shares = [
                    _served(share, len(found), number) if share.batch_id == batch_id else share for share in shares
                ]

    def _shares(self, model_key: str) -> list[Share]:
        """By the counts that batches keep, but of those that this transaction has changed."""
        if self._sql.execute(sa.select(UNITS.c.n).where(UNITS.c.state == "queued").limit(1)).first() is None:
            return []
        columns = (BATCHES.c.n, BATCHES.c.id, BATCHES.c.tenant, BATCHES.c.counts)
        is_open = BATCHES.c.status == "in_progress", BATCHES.c.model_key == model_key
        shares = []
        for row in self._sql.execute(sa.select(*columns).where(*is_open)):
            counts = row.counts or {}
            is_changed = row.counts is None or row.id in self._noted.batches
            queued = _UNKNOWN if is_changed else counts.get("units queued", 0)
            shares.append(Share(row.n, row.id, row.tenant, counts.get("units leased", 0), queued))
        return shares

    def _is_alone(self, worker: str) -> bool:
        """Whether the worker holds a suspect that has not got further yet."""
        return self._holds_any(worker, UNITS.c.leases > SUSPECT_LEASES)

    def _holds_any(self, worker: str, *such: Any) -> bool:
        is_live = UNITS.c.state == "leased", UNITS.c.lease_until >= lease_clock()
        query = sa.select(UNITS.c.n).where(UNITS.c.owner == worker, *is_live, *such)
        return self._sql.execute(query.limit(1)).first() is not None

    def _within(self, rows: Sequence[sa.Row], max_bytes: int) -> Iterator[sa.Row]:
        """The first of the rows, at least one. A character has up to four bytes, and no more than needed are read."""
        size = sa.select(sa.func.length(ITEMS.c.body))
        sizes: dict[tuple[str, str], int] = {}
        total = 0
        for row in rows:
            name = (row.batch_id, row.item_id)
            if name not in sizes:
                found = self._sql.scalar(size.where(ITEMS.c.batch_id == name[0], ITEMS.c.item_id == name[1]))
                sizes[name] = 4 * (found or 0)
            total += sizes[name]
            if total > max_bytes and row is not rows[0]:
                return
            yield row

    def _leased(self, numbers: Sequence[int]) -> list[Unit]:
        query = (
            sa.select(UNITS, ITEMS.c.body, BATCHES.c.model, BATCHES.c.synthesis, BATCHES.c.created_at)
            .join(ITEMS, sa.and_(ITEMS.c.batch_id == UNITS.c.batch_id, ITEMS.c.item_id == UNITS.c.item_id))
            .join(BATCHES, BATCHES.c.id == UNITS.c.batch_id)
            .where(UNITS.c.n.in_(numbers))
            .order_by(UNITS.c.n)
        )
        rows = self._sql.execute(query).all()
        self._noted.waited_s += [row.leased_at - row.created_at for row in rows if row.epoch == 1]
        return [
            Unit(
                unit_id=row.unit_id,
                batch_id=row.batch_id,
                item_id=row.item_id,
                sample=row.sample,
                epoch=row.epoch,
                item=ExpertSolution.model_validate_json(row.body),
                synthesis=Synthesis.model_validate_json(row.synthesis),
                model=ModelIdentity.model_validate_json(row.model),
                prefix=self._checkpoints.of(row.n),
            )
            for row in rows
        ]

    def held(self, unit_id: str, worker: str, epoch: int) -> UnitRecord | None:
        """The unit if this worker holds it at this epoch: the fence. Or held it until it lapsed, and nobody took it.

        Nor for another batch that has the same unit: then the newer lease alone counts.
        """
        row = self._sql.execute(_HELD_BY, {"unit_id": unit_id, "worker": worker, "epoch": epoch}).one_or_none()
        return _unit_record(row) if row else None

    def renew(
        self,
        unit: UnitRecord,
        lease_s: float,
        tokens: int,
        attributed_tokens: int,
        student_tokens: float,
        is_further: bool = False,
    ) -> int:
        """`is_further`: than any worker before, so that those who fell silent with it are not held against it."""
        return self._move(
            unit,
            "leased",
            lease_until=lease_clock() + lease_s,
            tokens=tokens,
            attributed_tokens=attributed_tokens,
            student_tokens=student_tokens,
            leases=1 if is_further else unit.leases,
        )

    def commit(self, unit: UnitRecord, shard: ShardRef, correct: bool | None = None) -> int:
        moved = self._move(
            unit,
            "committed",
            lease_until=None,
            tokens=shard.tokens,
            attributed_tokens=shard.attributed_tokens,
            student_tokens=shard.student_tokens,
            correct=correct,
            error_code=None,
        )
        if moved:
            self._noted.shard(unit.batch_id, self._shards.add(unit.n, unit.batch_id, shard))
            self._noted.attempt(unit, "committed", tokens=shard.tokens)
            self._noted.shard_bytes += shard.size_bytes
            if (held_s := unit.held_s) is not None:
                self._noted.held_s.append(held_s)
            self._checkpoints.drop([unit.n])
        return moved

    def give_up(self, unit: UnitRecord, state: UnitState, error: Failure) -> int:
        """A failed try: the unit goes to `state` (queued, failed or cancelled) and keeps the reason."""
        moved = self._move(
            unit,
            state,
            owner=None,
            lease_until=None,
            failures=unit.failures + 1,
            **_NOTHING_WRITTEN,
            error_code=error.code,
            error_detail=error.detail,
            error_retryable=error.retryable,
        )
        if moved:
            self._noted.attempt(unit, "cancelled" if state == "cancelled" else "failed", error.code)
        self._noted.reason = error.code
        return moved

    def hand_back(self, unit: UnitRecord) -> int:
        """As if it had not been leased, but for the epoch."""
        moved = self._move(unit, "queued", owner=None, lease_until=None, leases=unit.leases - 1, **_NOTHING_WRITTEN)
        if moved:
            self._noted.attempt(unit, "handed_back")
        return moved

    def skip(self, unit: UnitRecord) -> int:
        """A unit that somebody holds and that is no longer needed."""
        moved = self._move(unit, "skipped", owner=None, lease_until=None, **_NOTHING_WRITTEN)
        if moved:
            self._noted.attempt(unit, "cancelled")
        return moved

    def is_needless(self, unit: UnitRecord) -> bool:
        """Whether an earlier sample of its item is the one that is wanted (`dail.synth.schema.enough.ended_as`)."""
        query = sa.select(UNITS.c.n).where(
            UNITS.c.batch_id == unit.batch_id,
            UNITS.c.item_id == unit.item_id,
            UNITS.c.state == "committed",
            UNITS.c.n < unit.n,
            sa.or_(UNITS.c.correct.is_(None), UNITS.c.correct),
        )
        return self._sql.execute(query.limit(1)).first() is not None

    def advance(self, units: Sequence[UnitRecord], state: UnitState) -> int:
        """Units that nobody holds, to queued or skipped."""
        for unit in units:
            self._noted.units(unit.batch_id, [unit.item_id])
        numbers, idle = [unit.n for unit in units], UNITS.c.state.in_(("waiting", "queued"))
        return self._change(UNITS.update().where(UNITS.c.n.in_(numbers), idle).values(state=state))

    def _move(self, unit: UnitRecord, state: UnitState, **values: Any) -> int:
        if state != unit.state:
            self._noted.units(unit.batch_id, [unit.item_id])
        return self._change(
            UNITS.update()
            .where(UNITS.c.n == unit.n, UNITS.c.state == unit.state, UNITS.c.epoch == unit.epoch)
            .values(state=state, **values)
        )

    def cancel(self, batch_id: str) -> int:
        """Units nobody works on: not leased, or with a lease that ran out."""
        return self._end_open(
            batch_id, "cancelled", sa.or_(UNITS.c.state != "leased", UNITS.c.lease_until < lease_clock())
        )

    def end_all(self, batch_id: str, state: UnitState) -> int:
        """Every open unit, also those that somebody holds: the fence refuses what he brings."""
        return self._end_open(batch_id, state, sa.true())

    def _end_open(self, batch_id: str, state: UnitState, condition: Any) -> int:
        chosen = UNITS.c.batch_id == batch_id, UNITS.c.state.in_(OPEN), condition
        for row in self._sql.execute(sa.select(*_LEASE).where(*chosen, UNITS.c.state == "leased")):
            self._noted.attempt(row, "expired" if state == "expired" else "cancelled")
        values = {"state": state, "owner": None, "lease_until": None}
        return self._change_many(batch_id, UNITS.update().where(*chosen).values(**values))

    def retriable(self, batch_id: str) -> list[str]:
        """Items with a sample that has neither a trace nor become needless, in the order they were posted."""
        query = (
            sa.select(UNITS.c.item_id)
            .where(UNITS.c.batch_id == batch_id, UNITS.c.state.in_(ENDED_WITHOUT_TRACE))
            .group_by(UNITS.c.item_id)
            .order_by(sa.func.min(UNITS.c.n))
        )
        return list(self._sql.scalars(query))

    def retry(self, batch_id: str, items: Sequence[str], state: UnitState) -> int:
        """The samples of these items that ended without a trace, as if never tried, but for the epoch."""
        moved = 0
        for start in range(0, len(items), _MANY):
            chosen = UNITS.c.item_id.in_(items[start : start + _MANY])
            moved += self._change_many(
                batch_id,
                UNITS.update()
                .where(UNITS.c.batch_id == batch_id, UNITS.c.state.in_(ENDED_WITHOUT_TRACE), chosen)
                .values(state=state, owner=None, lease_until=None, leases=0, failures=0, **_NOTHING_WRITTEN),
            )
        return moved

    def give_back_lapsed(self, max_leases: int, error: Failure) -> list[tuple[str, str, bool]]:
        """Units whose lease ran out are queued, or failed if leased `max_leases` times: (batch, item, is it failed).

        A queued one keeps its owner, who may still bring its trace while nobody else took it.
        """
        lapsed = sa.and_(UNITS.c.state == "leased", UNITS.c.lease_until < lease_clock())
        columns = (UNITS.c.n, UNITS.c.item_id, *_LEASE, (UNITS.c.leases >= max_leases).label("is_lost"))
        rows = self._sql.execute(sa.select(*columns).where(lapsed).limit(_MANY)).all()
        for row in rows:
            self._noted.units(row.batch_id, [row.item_id])
            self._noted.attempt(row, "expired", error.code)
        self._noted.reason = error.code
        lost = [row.n for row in rows if row.is_lost]
        reason = {"error_code": error.code, "error_detail": error.detail, "error_retryable": error.retryable}
        self._change(
            UNITS.update()
            .where(UNITS.c.n.in_(lost), UNITS.c.state == "leased")
            .values(state="failed", owner=None, lease_until=None, **reason)
        )
        self._change(
            UNITS.update()
            .where(UNITS.c.n.in_([row.n for row in rows if not row.is_lost]), UNITS.c.state == "leased")
            .values(state="queued", lease_until=None, **_NOTHING_WRITTEN)
        )
        return [(row.batch_id, row.item_id, bool(row.is_lost)) for row in rows]

    def extend_leases(self, lease_s: float) -> int:
        """Workers could not renew while the API was down; that must not cost them their leases."""
        extended = UNITS.update().where(UNITS.c.state == "leased").values(lease_until=lease_clock() + lease_s)
        self._noted.num_extended += (moved := self._change(extended))
        return moved

    def of_items(self, batch_id: str, item_ids: Sequence[str]) -> list[UnitRecord]:
        """In the order of drawing."""
        query = sa.select(UNITS).where(UNITS.c.batch_id == batch_id, UNITS.c.item_id.in_(item_ids))
        return [_unit_record(row) for row in self._sql.execute(query.order_by(UNITS.c.n))]

    def of_unit(self, batch_id: str, unit_id: str) -> tuple[UnitRecord, ShardRef | None] | None:
        """One unit of a batch, with its shard."""
        query = self._with_shards().where(UNITS.c.batch_id == batch_id, UNITS.c.unit_id == unit_id)
        row = self._sql.execute(query).one_or_none()
        return (_unit_record(row), _shard_of(row)) if row else None

    def ended(self, batch_id: str, after: int, limit: int) -> list[tuple[UnitRecord, ShardRef | None]]:
        """Units that reached their last state, with their shards, in the order of drawing."""
        query = (
            self._with_shards()
            .where(UNITS.c.batch_id == batch_id, UNITS.c.n > after, UNITS.c.state.not_in(OPEN))
            .order_by(UNITS.c.n)
            .limit(limit)
        )
        return [(_unit_record(row), _shard_of(row)) for row in self._sql.execute(query)]

    def _with_shards(self) -> sa.Select:
        columns = (column.label(f"shard_{column.name}") for column in SHARD_COLUMNS)
        return sa.select(UNITS, *columns).outerjoin(SHARDS, SHARDS.c.unit == UNITS.c.n)

    def _change_many(self, batch_id: str, statement: sa.Update) -> int:
        if moved := self._change(statement):
            self._noted.many(batch_id)
        return moved

    def _change(self, statement: sa.Update) -> int:
        return self._sql.execute(statement).rowcount


def _served(share: Share, found: int, wanted: int) -> Share:
    """The share when so many were taken; if less than was wanted, it has no more that anybody may have now."""
    queued = share.queued - found if found == wanted else 0
    return replace(share, leased=share.leased + found, queued=queued)


def _claimable(model_key: str) -> sa.Select:
    twin = UNITS.alias()
    is_leased_elsewhere = sa.exists().where(
        twin.c.unit_id == UNITS.c.unit_id,
        twin.c.n != UNITS.c.n,
        twin.c.state == "leased",
        twin.c.lease_until >= lease_clock(),
    )
    return (
        sa.select(UNITS.c.n, UNITS.c.item_id, UNITS.c.state, *_LEASE)
        .join(BATCHES, BATCHES.c.id == UNITS.c.batch_id)
        .where(BATCHES.c.status == "in_progress", BATCHES.c.model_key == model_key, ~is_leased_elsewhere)
        .order_by(UNITS.c.n)
    )


def _unit_record(row: sa.Row) -> UnitRecord:
    error = None
    if row.error_code is not None:
        error = Failure(code=row.error_code, detail=row.error_detail, retryable=row.error_retryable)
    return UnitRecord(
        n=row.n,
        unit_id=row.unit_id,
        batch_id=row.batch_id,
        item_id=row.item_id,
        sample=row.sample,
        state=row.state,
        epoch=row.epoch,
        leases=row.leases,
        failures=row.failures,
        tokens=row.tokens,
        attributed_tokens=row.attributed_tokens,
        student_tokens=row.student_tokens,
        correct=row.correct,
        error=error,
        leased_at=row.leased_at,
        owner=row.owner,
    )


def _shard_of(row: sa.Row) -> ShardRef | None:
    if row.shard_key is None:
        return None
    return ShardRef(**{name: row._mapping[f"shard_{name}"] for name in ShardRef.model_fields})
