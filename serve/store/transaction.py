"""All SQL but that of checkpoints (prefixes.py). One SQLite file holds the truth: a row here is the promise, files are
only bytes.

Every change of state is one guarded UPDATE whose WHERE names the state it leaves; the rules that choose it are in
`service.py`. Times are Unix seconds by the store's clock: no worker's clock counts.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dail.serve.store.checkpoints import Prefixes
from dail.serve.store.tables import BATCHES, ITEMS, MANIFESTS, METADATA, NOW, SHARDS, STORE_VERSION, UNITS, make_engine
from dail.synth.core.errors import StorageError
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Failure, ShardRef, Unit, UnitState

_SHARD_COLUMNS = [SHARDS.c[name] for name in ShardRef.model_fields]
_OPEN = ("queued", "leased")


@dataclass(frozen=True)
class NewBatch:
    """What a POST makes, before it is stored. `units` holds (unit id, item id, sample)."""

    id: str
    idempotency_key: str
    body_hash: str
    model: ModelIdentity
    model_key: str
    synthesis: Synthesis
    run_label: str | None
    metadata: Mapping[str, str]
    items: Sequence[ExpertSolution]
    units: Sequence[tuple[str, str, int]]


@dataclass(frozen=True)
class BatchRecord:
    id: str
    body_hash: str
    status: str
    model: ModelIdentity
    synthesis: Synthesis
    run_label: str | None
    metadata: dict[str, str]
    generation: int
    created_at: float
    in_progress_at: float | None
    cancelling_at: float | None
    settled_at: float | None
    ended_at: float | None
    manifest: tuple[str, str] | None  # key, digest


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
    student_tokens: float
    error: Failure | None


@dataclass(frozen=True)
class Tally:
    """Counts of one batch at one moment. `items` and `units` are by state, states without any left out."""

    items: Mapping[str, int]
    units: Mapping[str, int]
    tokens: int
    student_tokens: float
    now: float


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
            yield Transaction(connection)

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
    """Every statement there is. Methods that change state return how many rows they moved."""

    def __init__(self, connection: sa.Connection) -> None:
        self._sql = connection
        self.prefixes = Prefixes(connection)

    def prepare(self, path: Path) -> None:
        version = self._sql.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version > STORE_VERSION:
            raise StorageError(
                f"the store {path} has version {version}, this build reads up to {STORE_VERSION}; upgrade dail"
            )
        METADATA.create_all(self._sql)
        self.stamp()

    def stamp(self) -> None:
        """Writes the store's version into its header: also the cheapest real write, for a health check."""
        self._sql.exec_driver_sql(f"PRAGMA user_version={STORE_VERSION}")

    # batches

    def add_batch(self, new: NewBatch) -> None:
        self._sql.execute(
            BATCHES.insert().values(
                id=new.id,
                idempotency_key=new.idempotency_key,
                body_hash=new.body_hash,
                status="in_progress",
                model=new.model.model_dump_json(),
                model_key=new.model_key,
                synthesis=new.synthesis.model_dump_json(),
                run_label=new.run_label,
                metadata=dict(new.metadata),
            )
        )
        bodies = [
            {"batch_id": new.id, "item_id": item.id, "position": position, "body": item.model_dump_json()}
            for position, item in enumerate(new.items)
        ]
        self._sql.execute(ITEMS.insert(), bodies)
        units = [
            {"unit_id": unit, "batch_id": new.id, "item_id": item, "sample": sample} for unit, item, sample in new.units
        ]
        self._sql.execute(UNITS.insert(), units)

    def batch(self, batch_id: str) -> BatchRecord | None:
        return self._one_batch(BATCHES.c.id == batch_id)

    def batch_of_key(self, idempotency_key: str) -> BatchRecord | None:
        return self._one_batch(BATCHES.c.idempotency_key == idempotency_key)

    def batches(self, status: str | None, after: str | None, limit: int) -> list[BatchRecord]:
        """Newest first."""
        query = _select_batches().order_by(BATCHES.c.n.desc()).limit(limit)
        if status is not None:
            query = query.where(BATCHES.c.status == status)
        if after is not None:
            query = query.where(BATCHES.c.n < sa.select(BATCHES.c.n).where(BATCHES.c.id == after).scalar_subquery())
        return [_batch_record(row) for row in self._sql.execute(query)]

    def open_batches(self) -> list[str]:
        """Batches that have not ended."""
        return list(self._sql.scalars(sa.select(BATCHES.c.id).where(BATCHES.c.ended_at.is_(None))))

    def start_cancel(self, batch_id: str) -> int:
        return self._change(
            BATCHES.update()
            .where(BATCHES.c.id == batch_id, BATCHES.c.status == "in_progress")
            .values(status="cancelling", cancelling_at=NOW)
        )

    def settle(self, batch_id: str) -> int:
        """in_progress → finalizing, or a mark on a cancelling batch, once no unit is queued or leased."""
        is_open = sa.exists().where(UNITS.c.batch_id == batch_id, UNITS.c.state.in_(_OPEN))
        status = sa.case((BATCHES.c.status == "in_progress", "finalizing"), else_=BATCHES.c.status)
        return self._change(
            BATCHES.update()
            .where(
                BATCHES.c.id == batch_id,
                BATCHES.c.status.in_(("in_progress", "cancelling")),
                BATCHES.c.settled_at.is_(None),
                ~is_open,
            )
            .values(status=status, settled_at=NOW)
        )

    def end(self, batch_id: str, manifest: tuple[str, str] | None) -> int:
        """finalizing → completed, cancelling → cancelled; the manifest is (key, digest)."""
        status = sa.case((BATCHES.c.status == "finalizing", "completed"), else_="cancelled")
        ended = self._change(
            BATCHES.update()
            .where(
                BATCHES.c.id == batch_id,
                BATCHES.c.status.in_(("finalizing", "cancelling")),
                BATCHES.c.settled_at.is_not(None),
            )
            .values(status=status, ended_at=NOW)
        )
        if ended and manifest is not None:
            generation = sa.select(BATCHES.c.generation).where(BATCHES.c.id == batch_id).scalar_subquery()
            row = {"batch_id": batch_id, "generation": generation, "key": manifest[0], "digest": manifest[1]}
            self._sql.execute(MANIFESTS.insert().values(row))
        if ended:
            self.prefixes.drop(sa.select(UNITS.c.n).where(UNITS.c.batch_id == batch_id))
        return ended

    def tally(self, batch_id: str) -> Tally:
        states = _item_states(batch_id)
        by_item = self._sql.execute(sa.select(states.c.status, sa.func.count()).group_by(states.c.status))
        by_unit = self._sql.execute(
            sa.select(UNITS.c.state, sa.func.count(), sa.func.sum(UNITS.c.tokens), sa.func.sum(UNITS.c.student_tokens))
            .where(UNITS.c.batch_id == batch_id)
            .group_by(UNITS.c.state)
        ).all()
        return Tally(
            items=dict(by_item.tuples().all()),
            units={state: count for state, count, _, _ in by_unit},
            tokens=sum(tokens for _, _, tokens, _ in by_unit),
            student_tokens=sum(tokens for _, _, _, tokens in by_unit),
            now=self._sql.scalar(sa.select(NOW)) or 0.0,
        )

    def _one_batch(self, condition: Any) -> BatchRecord | None:
        row = self._sql.execute(_select_batches().where(condition)).one_or_none()
        return _batch_record(row) if row else None

    # items

    def items(self, batch_id: str, status: str | None, after: str | None, limit: int) -> list[tuple[str, str]]:
        """(item id, state) in the order they were posted."""
        states = _item_states(batch_id)
        query = (
            sa.select(ITEMS.c.item_id, states.c.status)
            .join(states, states.c.item_id == ITEMS.c.item_id)
            .where(ITEMS.c.batch_id == batch_id)
            .order_by(ITEMS.c.position)
            .limit(limit)
        )
        if status is not None:
            query = query.where(states.c.status == status)
        if after is not None:
            query = query.where(ITEMS.c.position > self._position(batch_id, after))
        return [(row.item_id, row.status) for row in self._sql.execute(query)]

    def item_status(self, batch_id: str, item_id: str) -> str | None:
        states = _item_states(batch_id)
        return self._sql.scalar(sa.select(states.c.status).where(states.c.item_id == item_id))

    def units_of_items(self, batch_id: str, item_ids: Sequence[str]) -> list[UnitRecord]:
        query = sa.select(UNITS).where(UNITS.c.batch_id == batch_id, UNITS.c.item_id.in_(item_ids))
        return [_unit_record(row) for row in self._sql.execute(query.order_by(UNITS.c.n))]

    def _position(self, batch_id: str, item_id: str) -> Any:
        query = sa.select(ITEMS.c.position).where(ITEMS.c.batch_id == batch_id, ITEMS.c.item_id == item_id)
        return query.scalar_subquery()

    # units

    def claim(self, model_key: str, worker: str, count: int, lease_s: float) -> list[Unit]:
        """Leases up to `count` units to the worker: those whose lease ran out first, then queued ones, oldest first.

        The same unit may be in two batches. Only one of them is leased at a time and epochs count over both, so
        (unit, epoch) names one row.
        """
        lapsed = sa.and_(UNITS.c.state == "leased", UNITS.c.lease_until < NOW)
        chosen: dict[str, int] = {}
        for free in (lapsed, UNITS.c.state == "queued"):
            for row in self._sql.execute(_claimable(model_key).where(free).limit(count)).all():
                if len(chosen) < count:
                    chosen.setdefault(row.unit_id, row.n)
        twin = UNITS.alias()
        last_epoch = sa.select(sa.func.max(twin.c.epoch)).where(twin.c.unit_id == UNITS.c.unit_id).scalar_subquery()
        self._change(
            UNITS.update()
            .where(UNITS.c.n.in_(chosen.values()), sa.or_(UNITS.c.state == "queued", lapsed))
            .values(
                state="leased",
                owner=worker,
                epoch=last_epoch + 1,
                lease_until=NOW + lease_s,
                leases=UNITS.c.leases + 1,
                tokens=0,
                student_tokens=0,
            )
        )
        leased = self._leased(list(chosen.values()))
        self._change(
            BATCHES.update()
            .where(BATCHES.c.id.in_({unit.batch_id for unit in leased}), BATCHES.c.in_progress_at.is_(None))
            .values(in_progress_at=NOW)
        )
        return leased

    def _leased(self, numbers: Sequence[int]) -> list[Unit]:
        query = (
            sa.select(UNITS, ITEMS.c.body, BATCHES.c.model, BATCHES.c.synthesis)
            .join(ITEMS, sa.and_(ITEMS.c.batch_id == UNITS.c.batch_id, ITEMS.c.item_id == UNITS.c.item_id))
            .join(BATCHES, BATCHES.c.id == UNITS.c.batch_id)
            .where(UNITS.c.n.in_(numbers))
            .order_by(UNITS.c.n)
        )
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
                prefix=self.prefixes.of(row.n),
            )
            for row in self._sql.execute(query)
        ]

    def held(self, unit_id: str, worker: str, epoch: int) -> UnitRecord | None:
        """The unit if this worker holds it at this epoch: the fence."""
        query = sa.select(UNITS).where(
            UNITS.c.unit_id == unit_id,
            UNITS.c.owner == worker,
            UNITS.c.epoch == epoch,
            UNITS.c.state == "leased",
        )
        row = self._sql.execute(query).one_or_none()
        return _unit_record(row) if row else None

    def renew(self, unit: UnitRecord, lease_s: float, tokens: int, student_tokens: float) -> int:
        return self._move(unit, "leased", lease_until=NOW + lease_s, tokens=tokens, student_tokens=student_tokens)

    def commit(self, unit: UnitRecord, shard: ShardRef) -> int:
        moved = self._move(
            unit,
            "committed",
            lease_until=None,
            tokens=shard.tokens,
            student_tokens=shard.student_tokens,
            error_code=None,
        )
        if moved:
            row = {"unit": unit.n, "batch_id": unit.batch_id, **shard.model_dump()}
            self._sql.execute(SHARDS.insert().values(row))
            self.prefixes.drop([unit.n])
        return moved

    def give_up(self, unit: UnitRecord, state: UnitState, error: Failure) -> int:
        """A failed try: the unit goes to `state` (queued, failed or cancelled) and keeps the reason."""
        return self._move(
            unit,
            state,
            owner=None,
            lease_until=None,
            failures=unit.failures + 1,
            tokens=0,
            student_tokens=0,
            error_code=error.code,
            error_detail=error.detail,
            error_retryable=error.retryable,
        )

    def hand_back(self, unit: UnitRecord) -> int:
        """As if it had not been leased, but for the epoch."""
        return self._move(
            unit, "queued", owner=None, lease_until=None, leases=unit.leases - 1, tokens=0, student_tokens=0
        )

    def _move(self, unit: UnitRecord, state: UnitState, **values: Any) -> int:
        return self._change(
            UNITS.update()
            .where(UNITS.c.n == unit.n, UNITS.c.state == "leased", UNITS.c.epoch == unit.epoch)
            .values(state=state, **values)
        )

    def cancel_units(self, batch_id: str) -> int:
        """Units nobody works on: queued, or with a lease that ran out."""
        idle = sa.or_(UNITS.c.state == "queued", UNITS.c.lease_until < NOW)
        return self._change(
            UNITS.update()
            .where(UNITS.c.batch_id == batch_id, UNITS.c.state.in_(_OPEN), idle)
            .values(state="cancelled", owner=None, lease_until=None)
        )

    def fail_lost(self, batch_id: str, max_leases: int, error: Failure) -> int:
        """Units whose lease ran out and that were leased `max_leases` times already."""
        return self._change(
            UNITS.update()
            .where(
                UNITS.c.batch_id == batch_id,
                UNITS.c.state == "leased",
                UNITS.c.lease_until < NOW,
                UNITS.c.leases >= max_leases,
            )
            .values(
                state="failed",
                owner=None,
                lease_until=None,
                error_code=error.code,
                error_detail=error.detail,
                error_retryable=error.retryable,
            )
        )

    def extend_leases(self, lease_s: float) -> int:
        """Workers could not renew while the API was down; that must not cost them their leases."""
        return self._change(UNITS.update().where(UNITS.c.state == "leased").values(lease_until=NOW + lease_s))

    # shards and results

    def shard(self, unit_id: str, key: str) -> ShardRef | None:
        query = sa.select(*_SHARD_COLUMNS).where(SHARDS.c.unit_id == unit_id, SHARDS.c.key == key)
        row = self._sql.execute(query).one_or_none()
        return ShardRef.model_validate(row._mapping) if row else None

    def shards(self, batch_id: str) -> list[ShardRef]:
        query = sa.select(*_SHARD_COLUMNS).where(SHARDS.c.batch_id == batch_id).order_by(SHARDS.c.unit)
        return [ShardRef.model_validate(row._mapping) for row in self._sql.execute(query)]

    def ended_units(self, batch_id: str, after: int, limit: int) -> list[tuple[UnitRecord, ShardRef | None]]:
        """Units that reached their last state, with their shards, in the order they were posted."""
        query = (
            sa.select(UNITS, *(column.label(f"shard_{column.name}") for column in _SHARD_COLUMNS))
            .outerjoin(SHARDS, SHARDS.c.unit == UNITS.c.n)
            .where(UNITS.c.batch_id == batch_id, UNITS.c.n > after, UNITS.c.state.not_in(_OPEN))
            .order_by(UNITS.c.n)
            .limit(limit)
        )
        return [(_unit_record(row), _shard_of(row)) for row in self._sql.execute(query)]

    def _change(self, statement: sa.Update) -> int:
        return self._sql.execute(statement).rowcount


def _claimable(model_key: str) -> sa.Select:
    twin = UNITS.alias()
    is_leased_elsewhere = sa.exists().where(
        twin.c.unit_id == UNITS.c.unit_id,
        twin.c.n != UNITS.c.n,
        twin.c.state == "leased",
        twin.c.lease_until >= NOW,
    )
    return (
        sa.select(UNITS.c.n, UNITS.c.unit_id)
        .join(BATCHES, BATCHES.c.id == UNITS.c.batch_id)
        .where(BATCHES.c.status == "in_progress", BATCHES.c.model_key == model_key, ~is_leased_elsewhere)
        .order_by(UNITS.c.n)
    )


def _item_states(batch_id: str) -> sa.Subquery:
    """An item's state follows from its units' states; it is stored nowhere, so it cannot disagree with them."""

    def num(state: UnitState) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((UNITS.c.state == state, 1), else_=0))

    status = sa.case(
        (num("leased") > 0, "running"),
        (num("queued") == sa.func.count(), "queued"),
        (num("queued") > 0, "running"),
        (num("failed") > 0, "failed"),
        (num("expired") > 0, "expired"),
        (num("cancelled") > 0, "cancelled"),
        else_="completed",
    )
    query = sa.select(UNITS.c.item_id, status.label("status")).where(UNITS.c.batch_id == batch_id)
    return query.group_by(UNITS.c.item_id).subquery()


def _select_batches() -> sa.Select:
    manifest = sa.and_(MANIFESTS.c.batch_id == BATCHES.c.id, MANIFESTS.c.generation == BATCHES.c.generation)
    return sa.select(BATCHES, MANIFESTS.c.key, MANIFESTS.c.digest).outerjoin(MANIFESTS, manifest)


def _batch_record(row: sa.Row) -> BatchRecord:
    return BatchRecord(
        id=row.id,
        body_hash=row.body_hash,
        status=row.status,
        model=ModelIdentity.model_validate_json(row.model),
        synthesis=Synthesis.model_validate_json(row.synthesis),
        run_label=row.run_label,
        metadata=row.metadata,
        generation=row.generation,
        created_at=row.created_at,
        in_progress_at=row.in_progress_at,
        cancelling_at=row.cancelling_at,
        settled_at=row.settled_at,
        ended_at=row.ended_at,
        manifest=(row.key, row.digest) if row.key else None,
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
        student_tokens=row.student_tokens,
        error=error,
    )


def _shard_of(row: sa.Row) -> ShardRef | None:
    if row.shard_key is None:
        return None
    return ShardRef(**{name: row._mapping[f"shard_{name}"] for name in ShardRef.model_fields})
