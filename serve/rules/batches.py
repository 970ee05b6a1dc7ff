"""Batches as people know them: posted, looked at, cancelled, tried again, deleted."""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from itertools import chain
from typing import Literal

from dail.serve.batch_in import WINDOW_UNITS, BatchIn
from dail.serve.bodies import BatchOut, BatchPage, BatchStatus, ManifestRef, RequestCounts, Tokens, UnitCounts
from dail.serve.rules.ending import Ending
from dail.serve.rules.enough import advance
from dail.serve.rules.errors import Conflict, TooMany, existing
from dail.serve.rules.health import check_headroom
from dail.serve.rules.models import choose_model, model_key
from dail.serve.rules.workers import waiting_for
from dail.serve.store.batches import BatchRecord, NewBatch
from dail.serve.store.transaction import Store, Transaction
from dail.synth.core.config import canonical
from dail.synth.core.errors import ExtensionError, InputError, InputFault, UsageError
from dail.synth.core.files import Objects
from dail.synth.method.counts import count_kinds
from dail.synth.method.dealing import dealt
from dail.synth.schema.enough import draw_order
from dail.synth.schema.kinds import ItemKinds
from dail.synth.schema.manifest import config_fingerprint
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import student_share
from dail.synth.schema.units import UnitState, unit_namer


class Batches:
    """What is posted belongs to `tenant`."""

    def __init__(
        self,
        store: Store,
        objects: Objects,
        models: dict[str, ModelIdentity],
        ending: Ending,
        open_batches: int,
        tenant: str = "",
    ) -> None:
        self._store, self._objects, self._models, self._ending = store, objects, models, ending
        self._open_batches, self._tenant = open_batches, tenant

    def create(
        self, body: BatchIn, idempotency_key: str | None, traceparent: str | None = None
    ) -> tuple[BatchOut, bool]:
        """Stores a batch before it returns; True if it is new. The same body again gives the same batch."""
        model, body = choose_model(self._models, body.model), _pinned(body)
        body_hash = _body_hash(body, model)
        key = f"body {body_hash}" if idempotency_key is None else f"key {idempotency_key}"
        if self._tenant:  # has no space in it, so no key of one tenant is another's
            key = f"of {self._tenant} {key}"
        kinds = count_kinds(body.items, body.synthesis)
        _refuse_what_nobody_can_judge(body.synthesis, kinds)
        body, units = _prepared(body, model)
        new = NewBatch(
            id=f"batch_{uuid.uuid4().hex}",
            idempotency_key=key,
            body_hash=body_hash,
            model=model,
            model_key=model_key(model),
            synthesis=body.synthesis,
            kinds=kinds,
            run_label=body.run_label,
            metadata=body.metadata,
            window_s=body.window_s,
            tenant=self._tenant,
            traceparent=traceparent,
            items=body.items,
            units=units,
            positions=body.positions,
            skipped=body.skipped,
        )
        with self._store.write() as tx:
            known = tx.batches.of_key(key)
            if known is not None and known.body_hash != body_hash:
                raise InputError(
                    f"this Idempotency-Key was used for {known.id}, which has another body; use a new key",
                    [InputFault("", "idempotency_key_reused", "the body differs from the first one under this key")],
                )
            if known is None:
                if tx.batches.num_open(self._tenant) >= self._open_batches:
                    raise TooMany(f"{self._open_batches} batches have not ended; post it again when one of them has")
                check_headroom(self._store, self._objects)
                tx.batches.add(new)
            return self._batch_out(tx, known or existing(tx, new.id)), known is None

    def get(self, batch_id: str) -> BatchOut:
        with self._store.read() as tx:
            return self._batch_out(tx, existing(tx, batch_id))

    def page(self, status: BatchStatus | None, after: str | None, limit: int) -> BatchPage:
        with self._store.read() as tx:
            if after is not None:
                existing(tx, after)
            records = tx.batches.page(status, after, limit + 1)
            data = tuple(self._batch_out(tx, record) for record in records[:limit])
        return BatchPage(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(records) > limit,
        )

    def cancel(self, batch_id: str) -> BatchOut:
        """Queued units end at once; workers hear of it at their next heartbeat. Committed traces are kept."""
        with self._store.write() as tx:
            batch = existing(tx, batch_id)
            if not tx.batches.start_cancel(batch_id) and batch.status not in ("cancelling", "cancelled"):
                raise Conflict("batch_ended", f"{batch_id} is {batch.status}: it has no unit left to cancel")
            tx.units.cancel(batch_id)
            tx.batches.settle(batch_id)
        self._ending.finish(batch_id)
        return self.get(batch_id)

    def retry(self, batch_id: str, items: Literal["failed"] | tuple[str, ...]) -> BatchOut:
        """New attempts for the samples without a trace, in the same batch: its next generation.

        `failed` is every item that ended without all its traces, cancelled and expired ones too.
        """
        with self._store.write() as tx:
            batch = existing(tx, batch_id)
            if batch.status not in ("completed", "cancelled", "expired"):
                raise Conflict("batch_open", f"{batch_id} is {batch.status}; items are tried again once it has ended")
            there = tx.units.retriable(batch_id)
            if items != "failed":
                _check_retriable(tx, batch_id, items, set(there))
                there = list(dict.fromkeys(items))
            if not there:
                raise Conflict("nothing_to_retry", f"every item of {batch_id} has its traces")
            tx.batches.reopen(batch_id)
            batch = existing(tx, batch_id)
            early = batch.synthesis.enough != "all"
            tx.units.retry(batch_id, there, "waiting" if early else "queued")
            for item_id in there if early else ():
                advance(tx, batch, item_id)
            return self._batch_out(tx, batch)

    def delete(self, batch_id: str) -> None:
        """Only an ended batch. It is gone at once, and may be posted anew; its bytes go after `TOMBSTONE_S`."""
        with self._store.write() as tx:
            batch = existing(tx, batch_id)
            if not tx.batches.bury(batch_id):
                raise Conflict("batch_open", f"{batch_id} is {batch.status}; cancel it first")

    def _batch_out(self, tx: Transaction, batch: BatchRecord) -> BatchOut:
        tally = tx.batches.tally(batch.id)
        life_s = (batch.ended_at or tally.now) - (batch.in_progress_at or tally.now)
        manifest = None
        if batch.manifest:
            key, digest = batch.manifest
            manifest = ManifestRef(key=key, path=self._objects.name_of(key), digest=digest)
        return BatchOut(
            id=batch.id,
            status=batch.status,
            generation=batch.generation,
            model=batch.model,
            synthesis=batch.synthesis,
            config_fingerprint=config_fingerprint(batch.model, batch.synthesis),
            tenant=batch.tenant,
            run_label=batch.run_label,
            item_kinds=batch.kinds,
            metadata=batch.metadata,
            request_counts=RequestCounts(**tally.items),
            units=UnitCounts(**tally.units),
            tokens=Tokens(
                total=tally.tokens,
                attributed=tally.attributed_tokens,
                student=round(tally.student_tokens, 1),
                student_share=student_share(tally.student_tokens, tally.attributed_tokens),
            ),
            tokens_per_s=round(tally.tokens / life_s, 1) if life_s > 0 else 0.0,
            shards=tally.shards,
            damaged_shards=len(tx.shards.damaged(batch.id)),
            waiting_for=waiting_for(tx, batch, tally.units["queued"], tally.units["leased"]),
            ending_error=batch.ending_error,
            manifest=manifest,
            created_at=int(batch.created_at),
            in_progress_at=_seconds(batch.in_progress_at),
            finalizing_at=_seconds(batch.settled_at),
            completed_at=_seconds(batch.ended_at) if batch.status == "completed" else None,
            cancelling_at=_seconds(batch.cancelling_at),
            cancelled_at=_seconds(batch.ended_at) if batch.status == "cancelled" else None,
            completion_window=batch.window_s and _window(batch.window_s),
            expires_at=_seconds(batch.expires_at),
            expired_at=_seconds(batch.ended_at) if batch.status == "expired" else None,
            failed_at=_seconds(batch.ended_at) if batch.status == "failed" else None,
        )


def _prepared(body: BatchIn, model: ModelIdentity) -> tuple[BatchIn, list[tuple[str, str, int, UnitState]]]:
    """What is stored: items as they are shown, and their units; without what the body says to skip."""
    synthesis = _rendered(body.synthesis, model)
    while True:
        try:
            items = tuple(dealt(body.items, synthesis))
            ready = body.model_copy(update={"synthesis": synthesis, "items": items})
            return ready, _units(ready, model)
        except InputError as error:
            body = body.without(error)


def _check_retriable(tx: Transaction, batch_id: str, items: tuple[str, ...], there: set[str]) -> None:
    problems = []
    for number, item_id in enumerate(items):
        if item_id not in there:
            fault = InputFault(f"/items/{number}", "unknown_item", f"no such item in {batch_id}")
            if tx.batches.item_status(batch_id, item_id) is not None:
                detail = f"no sample of it can be tried again in {batch_id}"
                fault = InputFault(f"/items/{number}", "has_its_traces", detail)
            problems.append(fault)
    if problems:
        raise InputError("nothing is tried again", problems)


def _body_hash(body: BatchIn, model: ModelIdentity) -> str:
    """The fingerprint of what was asked, item by item: its JSON is never in memory as a whole."""
    asked = body.model_dump(mode="json", exclude_defaults=True, exclude={"model", "items"})
    skipped = [one.model_dump() for one in body.skipped]
    whole = canonical([{**asked, "items": []}, model.model_dump(mode="json"), *([skipped] if skipped else [])])
    before, empty, behind = whole.partition(b'"items":[')  # a quote inside of a text has a backslash
    digest = hashlib.sha256(before + empty)
    for number, item in enumerate(body.items):
        digest.update(b"," if number else b"")
        digest.update(canonical(item.model_dump(mode="json", exclude_defaults=True)))
    digest.update(behind)
    return f"sha256:{digest.hexdigest()}"


def _window(seconds: float) -> str:
    """
    >>> _window(259200.0), _window(90.0)
    ('72h', '90s')
    """
    return next(f"{seconds / size:.0f}{unit}" for unit, size in WINDOW_UNITS.items() if seconds % size == 0)


def _rendered(synthesis: Synthesis, model: ModelIdentity) -> Synthesis:
    """With the day on which the batch is made, where the model's chat template prints one: no prompt of it changes."""
    try:
        synthesis.check(model.template_reads)
    except UsageError as error:
        raise InputError(str(error), [InputFault("/synthesis", "not_of_this_model", str(error))]) from None
    return synthesis.dated(model.template_reads, dt.datetime.now(dt.UTC).date())


def _pinned(body: BatchIn) -> BatchIn:
    """With the digests of what is installed here under the names that it gives; a worker must have the same."""
    try:
        return body.model_copy(update={"synthesis": body.synthesis.pinned()})
    except ExtensionError as error:
        raise InputError(str(error), [InputFault("/synthesis", "unknown_extension", str(error))]) from None


def _refuse_what_nobody_can_judge(synthesis: Synthesis, kinds: ItemKinds) -> None:
    if synthesis.stops_by_verdict and not kinds.by_answer + kinds.by_box:
        detail = "no item has an answer that a trace could be correct by; set it to all or random"
        raise InputError(
            "the batch was refused; nothing was stored", [InputFault("/synthesis/enough", "no_answers", detail)]
        )


def _units(body: BatchIn, model: ModelIdentity) -> list[tuple[str, str, int, UnitState]]:
    """One unit per item and sample. Two items with the same text would make the same draws; they are refused.

    Where samples are drawn until there are enough, the first of every item come first, then the second ones, and so on:
    all but the first wait for what becomes of them.
    """
    units: list[list[tuple[str, str, int, UnitState]]] = []
    early, name = body.synthesis.enough != "all", unit_namer(body.synthesis, model)
    first: dict[str, int] = {}
    problems: list[InputFault] = []
    for number, item in enumerate(body.items):
        assert item.id is not None, "check_items gives every item an id"
        ids = [name(item, sample) for sample in range(body.synthesis.samples_per_item)]
        if ids[0] in first:
            detail = f"same problem and solution as item {first[ids[0]]}; raise samples_per_item for more traces of it"
            problems.append(InputFault(f"/items/{number}", "duplicate_item", detail))
        first.setdefault(ids[0], number)
        order = draw_order(body.synthesis, ids)
        units.append(
            [(ids[one], item.id, one, "waiting" if early and place else "queued") for place, one in enumerate(order)]
        )
    if problems:
        raise InputError("the batch was refused; nothing was stored", problems)
    return list(chain.from_iterable(zip(*units, strict=True) if early else units))


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)
