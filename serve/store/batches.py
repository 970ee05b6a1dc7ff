"""Batches and the items in them: stored with a POST, ended when no unit is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa

from dail.serve.batch_in import Skipped
from dail.serve.store.checkpoints import Checkpoints
from dail.serve.store.counts import ITEM_STATES, UNIT_STATES, Counts, by_state, item_states
from dail.serve.store.noted import Noted, Traced
from dail.serve.store.tables import BATCHES, EVENTS, ITEMS, MANIFESTS, NOW, OPEN, SHARDS, UNITS
from dail.synth.core.config import TOOL_VERSION
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import ItemKinds
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Failure, UnitState

_AT_ONCE = 100  # items whose texts are spelled as JSON at a time


@dataclass(frozen=True)
class NewBatch:
    """What a POST makes, before it is stored. `units` holds (unit id, item id, sample, state), in order of drawing."""

    id: str
    idempotency_key: str
    body_hash: str
    model: ModelIdentity
    model_key: str
    synthesis: Synthesis
    kinds: ItemKinds
    run_label: str | None
    metadata: Mapping[str, str]
    items: Sequence[ExpertSolution]
    units: Sequence[tuple[str, str, int, UnitState]]
    positions: Sequence[int] = ()  # of the items in the body, where some of it was skipped
    skipped: Sequence[Skipped] = ()
    window_s: float | None = None
    tenant: str = ""
    traceparent: str | None = None


@dataclass(frozen=True)
class BatchRecord:
    id: str
    tenant: str
    body_hash: str
    status: str
    model: ModelIdentity
    synthesis: Synthesis
    kinds: ItemKinds
    run_label: str | None
    metadata: dict[str, str]
    generation: int
    created_at: float
    in_progress_at: float | None
    cancelling_at: float | None
    settled_at: float | None
    settled_by: str | None
    ending_error: str | None
    ended_at: float | None
    window_s: float | None
    expires_at: float | None
    expired_at: float | None
    manifest: tuple[str, str] | None  # key, digest


@dataclass(frozen=True)
class Tally:
    """Counts of one batch at one moment. `items` and `units` are by state, with their total."""

    items: Mapping[str, int]
    units: Mapping[str, int]
    shards: int
    tokens: int
    attributed_tokens: int
    student_tokens: float
    now: float


class Batches:
    """Part of a transaction. With a tenant there are no batches but that one's."""

    def __init__(
        self,
        connection: sa.Connection,
        checkpoints: Checkpoints,
        noted: Noted,
        counts: Counts,
        tenant: str | None = None,
    ) -> None:
        self._sql, self._checkpoints, self._noted, self._counts = connection, checkpoints, noted, counts
        self._tenant = tenant

    def add(self, new: NewBatch) -> None:
        self._sql.execute(
            BATCHES.insert().values(
                id=new.id,
                idempotency_key=new.idempotency_key,
                tenant=new.tenant,
                body_hash=new.body_hash,
                status="in_progress",
                model=new.model.model_dump_json(),
                model_key=new.model_key,
                synthesis=new.synthesis.model_dump_json(),
                kinds=new.kinds.model_dump_json(),
                run_label=new.run_label,
                traceparent=new.traceparent,
                metadata=dict(new.metadata),
                window_s=new.window_s,
                expires_at=None if new.window_s is None else NOW + new.window_s,
            )
        )
        bodies = (
            {"batch_id": new.id, "item_id": item.id, "position": position, "body": item.model_dump_json()}
            for position, item in zip(new.positions or range(len(new.items)), new.items, strict=True)
        )
        while some := list(islice(bodies, _AT_ONCE)):
            self._sql.execute(ITEMS.insert(), some)
        refused = [
            {
                "batch_id": new.id,
                "item_id": one.item_id,
                "position": one.position,
                "body": "",
                "error_code": one.code,
                "error_detail": f"{one.pointer}: {one.detail}",
            }
            for one in new.skipped
        ]
        if refused:
            self._sql.execute(ITEMS.insert(), refused)
        units = [
            {"unit_id": unit, "batch_id": new.id, "item_id": item, "sample": sample, "state": state}
            for unit, item, sample, state in new.units
        ]
        self._sql.execute(UNITS.insert(), units)
        self._noted.status(new.id)
        self._noted.many(new.id)

    def get(self, batch_id: str) -> BatchRecord | None:
        return self._one_batch(BATCHES.c.id == batch_id)

    def of_key(self, idempotency_key: str) -> BatchRecord | None:
        return self._one_batch(BATCHES.c.idempotency_key == idempotency_key)

    def page(self, status: str | None, after: str | None, limit: int) -> list[BatchRecord]:
        """Newest first."""
        query = self._batches().order_by(BATCHES.c.n.desc()).limit(limit)
        if status is not None:
            query = query.where(BATCHES.c.status == status)
        if after is not None:
            query = query.where(BATCHES.c.n < sa.select(BATCHES.c.n).where(BATCHES.c.id == after).scalar_subquery())
        return [_batch_record(row) for row in self._sql.execute(query)]

    def due(self) -> list[str]:
        """Batches that the clock moves: cancelling, about to end, or with their time over; not those that only wait."""
        is_due = sa.or_(BATCHES.c.status.in_(("cancelling", "finalizing")), self._is_over())
        return list(self._sql.scalars(sa.select(BATCHES.c.id).where(is_due)))

    def _is_over(self) -> sa.ColumnElement[bool]:
        return sa.and_(BATCHES.c.status == "in_progress", BATCHES.c.expires_at < NOW)

    def wants(self, model_key: str) -> bool:
        """Whether a batch of this model goes on."""
        query = sa.select(BATCHES.c.n).where(BATCHES.c.status == "in_progress", BATCHES.c.model_key == model_key)
        return self._sql.execute(query.limit(1)).first() is not None

    def models_wanted(self) -> list[tuple[str, str]]:
        """Of every batch that goes on: its model's key and name."""
        query = sa.select(BATCHES.c.model_key, BATCHES.c.model).where(BATCHES.c.status == "in_progress")
        return [
            (key, ModelIdentity.model_validate_json(model).name) for key, model in self._sql.execute(query).tuples()
        ]

    def num_open(self, tenant: str) -> int:
        is_open = sa.and_(BATCHES.c.ended_at.is_(None), BATCHES.c.tenant == tenant)
        return self._sql.scalar(sa.select(sa.func.count()).select_from(BATCHES).where(is_open)) or 0

    def start_cancel(self, batch_id: str) -> int:
        return self._change(
            batch_id,
            BATCHES.update()
            .where(BATCHES.c.id == batch_id, BATCHES.c.status == "in_progress")
            .values(status="cancelling", cancelling_at=NOW),
        )

    def is_drained(self, batch_id: str, drain_s: float) -> bool:
        """Whether its workers had their time since it was cancelled."""
        query = sa.select(BATCHES.c.id).where(BATCHES.c.id == batch_id, BATCHES.c.cancelling_at < NOW - drain_s)
        return self._sql.execute(query).first() is not None

    def start_expiry(self, batch_id: str) -> int:
        """in_progress → finalizing, of a batch whose time is over."""
        return self._change(
            batch_id,
            BATCHES.update()
            .where(BATCHES.c.id == batch_id, self._is_over())
            .values(status="finalizing", expired_at=NOW, settled_at=NOW, settled_by=TOOL_VERSION),
        )

    def reopen(self, batch_id: str) -> int:
        """completed, cancelled or expired → in_progress: the next generation, with its whole time again."""
        fresh = dict.fromkeys(("settled_at", "ended_at", "cancelling_at", "expired_at"))
        return self._change(
            batch_id,
            BATCHES.update()
            .where(BATCHES.c.id == batch_id, BATCHES.c.status.in_(("completed", "cancelled", "expired")))
            .values(
                status="in_progress",
                generation=BATCHES.c.generation + 1,
                expires_at=NOW + BATCHES.c.window_s,
                **fresh,
            ),
        )

    def bury(self, batch_id: str) -> int:
        """An ended batch that nobody sees from now on. Its idempotency key is free again."""
        is_there = sa.and_(BATCHES.c.ended_at.is_not(None), BATCHES.c.deleted_at.is_(None))
        statement = BATCHES.update().where(BATCHES.c.id == batch_id, is_there)
        return self._sql.execute(statement.values(deleted_at=NOW, idempotency_key=f"deleted {batch_id}")).rowcount

    def ids(self) -> set[str]:
        """Of all batches, whoever may see them, deleted ones that still have objects among them."""
        return set(self._sql.scalars(sa.select(BATCHES.c.id)))

    def buried(self, kept_s: float) -> str | None:
        """One batch that was deleted longer ago than that."""
        return self._sql.scalar(sa.select(BATCHES.c.id).where(BATCHES.c.deleted_at < NOW - kept_s).limit(1))

    def keys(self, batch_id: str, limit: int) -> list[str]:
        """Objects of a batch that are still to be dropped, the manifests last."""
        shards = sa.select(SHARDS.c.key).distinct().where(SHARDS.c.batch_id == batch_id).limit(limit)
        manifests = sa.select(MANIFESTS.c.key).where(MANIFESTS.c.batch_id == batch_id)
        return list(self._sql.scalars(shards)) or list(self._sql.scalars(manifests))

    def forget_shards(self, keys: Sequence[str]) -> None:
        self._sql.execute(SHARDS.delete().where(SHARDS.c.key.in_(keys)))

    def forget(self, batch_id: str) -> None:
        """Every row of a batch whose objects are gone."""
        self._checkpoints.drop(sa.select(UNITS.c.n).where(UNITS.c.batch_id == batch_id))
        for table in (UNITS, ITEMS, MANIFESTS, EVENTS):
            self._sql.execute(table.delete().where(table.c.batch_id == batch_id))
        self._sql.execute(BATCHES.delete().where(BATCHES.c.id == batch_id))

    def settle(self, batch_id: str) -> int:
        """in_progress → finalizing, or a mark on a cancelling batch, once no unit is queued or leased."""
        is_open = sa.exists().where(UNITS.c.batch_id == batch_id, UNITS.c.state.in_(OPEN))
        status = sa.case((BATCHES.c.status == "in_progress", "finalizing"), else_=BATCHES.c.status)
        return self._change(
            batch_id,
            BATCHES.update()
            .where(
                BATCHES.c.id == batch_id,
                BATCHES.c.status.in_(("in_progress", "cancelling")),
                BATCHES.c.settled_at.is_(None),
                ~is_open,
            )
            .values(status=status, settled_at=NOW, settled_by=TOOL_VERSION),
        )

    def note_ending(self, batch_id: str, error: str | None) -> int:
        """Why the batch cannot end; written where it changed."""
        changed = BATCHES.c.ending_error.is_distinct_from(error)
        return self._change(
            batch_id, BATCHES.update().where(BATCHES.c.id == batch_id, changed).values(ending_error=error)
        )

    def next_generation(self, batch_id: str, generation: int) -> int:
        """Another manifest of a settled batch, since the key of this one is taken."""
        return self._change(
            batch_id,
            BATCHES.update()
            .where(BATCHES.c.id == batch_id, BATCHES.c.generation == generation, BATCHES.c.ended_at.is_(None))
            .values(generation=generation + 1),
        )

    def end(self, batch_id: str, generation: int, manifest: tuple[str, str] | None) -> int:
        """finalizing → completed or expired, cancelling → cancelled; the manifest is (key, digest)."""
        status = sa.case(
            (BATCHES.c.status == "cancelling", "cancelled"),
            (BATCHES.c.expired_at.is_not(None), "expired"),
            else_="completed",
        )
        ended = self._change(
            batch_id,
            BATCHES.update()
            .where(
                BATCHES.c.id == batch_id,
                BATCHES.c.generation == generation,
                BATCHES.c.status.in_(("finalizing", "cancelling")),
                BATCHES.c.settled_at.is_not(None),
            )
            .values(status=status, ended_at=NOW, ending_error=None),
        )
        if ended:
            self._noted.ended_batches.append(batch_id)
        if ended and manifest is not None:
            row = {"batch_id": batch_id, "generation": generation, "key": manifest[0], "digest": manifest[1]}
            self._sql.execute(MANIFESTS.insert().values(row))
        if ended:
            self._checkpoints.drop(sa.select(UNITS.c.n).where(UNITS.c.batch_id == batch_id))
        return ended

    def tally(self, batch_id: str) -> Tally:
        counts = self._counts.get(batch_id)
        return Tally(
            items=by_state(counts, "items", ITEM_STATES),
            units=by_state(counts, "units", UNIT_STATES),
            shards=counts["shards"],
            tokens=counts["tokens"],
            attributed_tokens=counts["attributed_tokens"],
            student_tokens=counts["student_tokens"],
            now=self._sql.scalar(sa.select(NOW)) or 0.0,
        )

    def items(self, batch_id: str, status: str | None, after: str | None, limit: int) -> list[tuple[str, str]]:
        """(item id, state) in the order they were posted."""
        query = sa.select(ITEMS.c.item_id).where(ITEMS.c.batch_id == batch_id).order_by(ITEMS.c.position).limit(limit)
        if status is not None:
            states = item_states()
            query = query.join(states, states.c.item_id == ITEMS.c.item_id).where(states.c.status == status)
        if after is not None:
            query = query.where(ITEMS.c.position > self._position(batch_id, after))
        found = self._sql.scalars(query, {"batch_id": batch_id}).all()
        by_id = self._counts.states(batch_id, found)
        return [(item_id, by_id[item_id]) for item_id in found]

    def item_status(self, batch_id: str, item_id: str) -> str | None:
        return self._counts.states(batch_id, [item_id]).get(item_id)

    def refused(self, batch_id: str, items: Sequence[str] | None = None) -> dict[str, Failure]:
        """Items that could not be used, all or of these, with the reason, in the order they were posted."""
        query = sa.select(ITEMS).where(ITEMS.c.batch_id == batch_id, ITEMS.c.error_code.is_not(None))
        if items is not None:
            query = query.where(ITEMS.c.item_id.in_(items))
        rows = self._sql.execute(query.order_by(ITEMS.c.position))
        return {row.item_id: Failure(code=row.error_code, detail=row.error_detail, retryable=False) for row in rows}

    def _position(self, batch_id: str, item_id: str) -> Any:
        query = sa.select(ITEMS.c.position).where(ITEMS.c.batch_id == batch_id, ITEMS.c.item_id == item_id)
        return query.scalar_subquery()

    def look_up_traces(self) -> None:
        """Of batches that the transaction has spans of, what these say of them."""
        ids = {*(attempt.batch_id for attempt in self._noted.attempts), *self._noted.ended_batches}
        columns = (
            BATCHES.c[name] for name in ("id", "traceparent", "model", "generation", "status", "created_at", "ended_at")
        )
        for row in self._sql.execute(sa.select(*columns).where(BATCHES.c.id.in_(ids))) if ids else ():
            model = ModelIdentity.model_validate_json(row.model).name
            ended_at = row.ended_at or row.created_at
            self._noted.traced[row.id] = Traced(
                row.id, row.traceparent, model, row.generation, row.status, row.created_at, ended_at
            )

    def _one_batch(self, condition: Any) -> BatchRecord | None:
        row = self._sql.execute(self._batches().where(condition)).one_or_none()
        return _batch_record(row) if row else None

    def _batches(self) -> sa.Select:
        manifest = sa.and_(MANIFESTS.c.batch_id == BATCHES.c.id, MANIFESTS.c.generation == BATCHES.c.generation)
        columns = (BATCHES, MANIFESTS.c.key, MANIFESTS.c.digest)
        query = sa.select(*columns).outerjoin(MANIFESTS, manifest).where(BATCHES.c.deleted_at.is_(None))
        return query if self._tenant is None else query.where(BATCHES.c.tenant == self._tenant)

    def _change(self, batch_id: str, statement: sa.Update) -> int:
        if changed := self._sql.execute(statement).rowcount:
            self._noted.status(batch_id)
        return changed


def _batch_record(row: sa.Row) -> BatchRecord:
    return BatchRecord(
        id=row.id,
        tenant=row.tenant,
        body_hash=row.body_hash,
        status=row.status,
        model=ModelIdentity.model_validate_json(row.model),
        synthesis=Synthesis.model_validate_json(row.synthesis),
        kinds=ItemKinds.model_validate_json(row.kinds),
        run_label=row.run_label,
        metadata=row.metadata,
        generation=row.generation,
        created_at=row.created_at,
        in_progress_at=row.in_progress_at,
        cancelling_at=row.cancelling_at,
        settled_at=row.settled_at,
        settled_by=row.settled_by,
        ending_error=row.ending_error,
        ended_at=row.ended_at,
        window_s=row.window_s,
        expires_at=row.expires_at,
        expired_at=row.expired_at,
        manifest=(row.key, row.digest) if row.key else None,
    )
