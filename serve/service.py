"""The rules: what may become what. No SQL, no HTTP.

    batch   in_progress ──every unit ended──▶ finalizing ──manifest written──▶ completed
                 └─cancel─▶ cancelling ──────every unit ended, manifest written──▶ cancelled
    unit    queued ⇄ leased ─▶ committed | failed | cancelled

A batch is checked and stored in one step, so it starts as in_progress. `completed` means that every unit has ended,
failures included: also a batch without a single trace is completed, its counts say what happened, and it has no
manifest, since there is nothing to train on.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from dail.serve.bodies import (
    BatchIn,
    BatchOut,
    BatchPage,
    BatchStatus,
    Check,
    ItemOut,
    ItemPage,
    ItemStatus,
    ManifestRef,
    Ready,
    RequestCounts,
    Result,
    SampleOut,
    ShardPage,
    Tokens,
    UnitCounts,
)
from dail.serve.store.batches import BatchRecord, NewBatch, Tally
from dail.serve.store.tables import wal_is_safe
from dail.serve.store.transaction import Store, Transaction
from dail.serve.store.units import UnitRecord
from dail.synth.core.config import canonical, fingerprint
from dail.synth.core.errors import DailError, ExtensionError, InputError, IntegrityError, StorageError
from dail.synth.core.files import Objects
from dail.synth.schema.manifest import Manifest, build_manifest, config_fingerprint, encode_manifest, manifest_key
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import decode_shard
from dail.synth.schema.trace_tokens import student_share
from dail.synth.schema.units import (
    WORKER_STOPPED,
    Commit,
    Fail,
    Failure,
    Heartbeat,
    HeartbeatReply,
    LeaseReply,
    LeaseRequest,
    ShardRef,
    shard_key,
    unit_id,
)

MAX_FAILURES = 3  # a retryable failure is tried again until the third
MAX_LEASES = 10  # a unit that ten workers took and lost is likely what kills them
HEADROOM_BYTES = 256 << 20  # below it no new work is taken; what is accepted can still be finished
_RESULTS_PAGE = 64

log = logging.getLogger("dail.serve")


class NotFound(DailError):
    code = "not_found"


class Conflict(DailError):
    """A request that does not fit the present state. `code` says which way."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Service:
    def __init__(self, store: Store, objects: Objects, models: dict[str, ModelIdentity], lease_s: float) -> None:
        self.store = store
        self.objects = objects
        self.models = models
        self.lease_s = lease_s

    def start(self) -> None:
        """Takes up where a stopped or killed server left off."""
        with self.store.write() as tx:
            tx.units.extend_leases(self.lease_s)
        self.sweep()

    def sweep(self) -> None:
        """What no request triggers: leases that nobody renews, manifests that could not be written before."""
        with self.store.write() as tx:
            open_batches = [_existing(tx, batch_id) for batch_id in tx.batches.open_ids()]
            for batch in open_batches:
                if batch.status == "cancelling":
                    tx.units.cancel(batch.id)
                lost = Failure(code="lease_lost", detail=f"{MAX_LEASES} workers took this unit and fell silent")
                tx.units.fail_lost(batch.id, MAX_LEASES, lost)
                tx.batches.settle(batch.id)
        for batch in open_batches:
            self._finish(batch.id)

    # batches

    def create(self, body: BatchIn, idempotency_key: str | None) -> tuple[BatchOut, bool]:
        """Stores a batch before it returns; True if it is new. The same body again gives the same batch."""
        model, body = self._model(body.model), _pinned(body)
        asked = body.model_dump(mode="json", exclude_defaults=True, exclude={"model"})
        body_hash = fingerprint([asked, model.model_dump(mode="json")])
        key = f"body {body_hash}" if idempotency_key is None else f"key {idempotency_key}"
        self._check_headroom()
        new = NewBatch(
            id=f"batch_{uuid.uuid4().hex}",
            idempotency_key=key,
            body_hash=body_hash,
            model=model,
            model_key=_model_key(model),
            synthesis=body.synthesis,
            run_label=body.run_label,
            metadata=body.metadata,
            items=body.items,
            units=_units(body, model),
        )
        with self.store.write() as tx:
            known = tx.batches.of_key(key)
            if known is not None and known.body_hash != body_hash:
                raise InputError(
                    f"this Idempotency-Key was used for {known.id}, which has another body; use a new key",
                    [("", "idempotency_key_reused", "the body differs from the first one under this key")],
                )
            if known is None:
                tx.batches.add(new)
            return self._view(tx, known.id if known else new.id), known is None

    def batch(self, batch_id: str) -> BatchOut:
        with self.store.read() as tx:
            return self._view(tx, batch_id)

    def batches(self, status: BatchStatus | None, after: str | None, limit: int) -> BatchPage:
        with self.store.read() as tx:
            if after is not None:
                _existing(tx, after)
            records = tx.batches.page(status, after, limit + 1)
            data = tuple(self._batch_out(record, tx.batches.tally(record.id)) for record in records[:limit])
        return BatchPage(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(records) > limit,
        )

    def cancel(self, batch_id: str) -> BatchOut:
        """Queued units end at once; workers hear of it at their next heartbeat. Committed traces are kept."""
        with self.store.write() as tx:
            batch = _existing(tx, batch_id)
            if not tx.batches.start_cancel(batch_id) and batch.status not in ("cancelling", "cancelled"):
                raise Conflict("batch_ended", f"{batch_id} is {batch.status}: it has no unit left to cancel")
            tx.units.cancel(batch_id)
            tx.batches.settle(batch_id)
        self._finish(batch_id)
        return self.batch(batch_id)

    def items(self, batch_id: str, status: ItemStatus | None, after: str | None, limit: int) -> ItemPage:
        with self.store.read() as tx:
            _existing(tx, batch_id)
            if after is not None:
                self._item_status(tx, batch_id, after)
            found = tx.batches.items(batch_id, status, after, limit + 1)
            page = found[:limit]
            units = tx.units.of_items(batch_id, [item_id for item_id, _ in page])
        data = tuple(_item_out(item_id, state, units) for item_id, state in page)
        return ItemPage(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(found) > limit,
        )

    def item(self, batch_id: str, item_id: str) -> ItemOut:
        with self.store.read() as tx:
            _existing(tx, batch_id)
            status = self._item_status(tx, batch_id, item_id)
            return _item_out(item_id, status, tx.units.of_items(batch_id, [item_id]))

    def shards(self, batch_id: str) -> ShardPage:
        with self.store.read() as tx:
            _existing(tx, batch_id)
            return ShardPage(data=tuple(tx.shards.of_batch(batch_id)), output_root=str(self.objects.root))

    def manifest(self, batch_id: str) -> Manifest:
        with self.store.read() as tx:
            batch = _existing(tx, batch_id)
        if batch.ended_at is None:
            raise Conflict("not_finalized", f"{batch_id} is {batch.status}; its manifest is written when it ends")
        if batch.manifest is None:
            raise NotFound(f"{batch_id} ended without a shard, so there is no manifest; GET its items for the reasons")
        return Manifest.model_validate_json(self.objects.path(batch.manifest[0]).read_bytes())

    def results(self, batch_id: str) -> Iterator[Result]:
        """Units that have ended, in the order they were posted. Raises NotFound at once, not when iterated."""
        with self.store.read() as tx:
            _existing(tx, batch_id)
        return self._results(batch_id)

    def _results(self, batch_id: str) -> Iterator[Result]:
        last = 0
        while True:
            with self.store.read() as tx:
                ended = tx.units.ended(batch_id, last, _RESULTS_PAGE)
            if not ended:
                return
            for unit, shard in ended:
                yield from self._results_of(unit, shard)
            last = ended[-1][0].n

    def _results_of(self, unit: UnitRecord, shard: ShardRef | None) -> Iterator[Result]:
        if shard is None:
            assert unit.state in ("failed", "cancelled", "expired"), f"unit {unit.unit_id} ended as {unit.state}"
            yield Result(item_id=unit.item_id, sample=unit.sample, status=unit.state, error=unit.error)
            return
        try:
            data = self.objects.get(shard.key, size=shard.size_bytes, digest=shard.sha256)
            rows = decode_shard(data, shard.key)
        except IntegrityError as error:
            damage = Failure(code="damaged_shard", detail=str(error))
            yield Result(item_id=unit.item_id, sample=unit.sample, status="failed", error=damage)
            return
        for row in rows:
            trace = row.model_dump(mode="json", exclude={"item_id", "sample_index"})
            yield Result(item_id=row.item_id, sample=row.sample_index, status="succeeded", trace=trace)

    # leases

    def lease(self, request: LeaseRequest) -> LeaseReply:
        model_key = _model_key(request.model)
        with self.store.write() as tx:
            units = tx.units.claim(model_key, request.worker, request.count, self.lease_s)
        if not units and model_key not in map(_model_key, self.models.values()):
            raise InputError(
                f"no batch here wants the model {request.model.name} at revision {request.model.revision}; "
                f"this API has {self._registered()}; start the worker with the same files",
                [("/model", "unknown_model", "other weights, tokenizer or templates than any registered model")],
            )
        return LeaseReply(units=tuple(units), lease_s=self.lease_s, output_root=str(self.objects.root))

    def heartbeat(self, unit_id: str, beat: Heartbeat) -> HeartbeatReply:
        with self.store.write() as tx:
            unit = _held(tx, unit_id, beat.worker, beat.epoch)
            tx.units.renew(unit, self.lease_s, beat.tokens, beat.attributed_tokens, beat.student_tokens)
            if beat.checkpoint:
                tx.checkpoints.add(unit.n, beat.start, beat.checkpoint)
            cancel = _existing(tx, unit.batch_id).status == "cancelling"
            return HeartbeatReply(cancel=cancel, known=tx.checkpoints.length(unit.n))

    def commit(self, unit_id: str, commit: Commit) -> None:
        """The shard's row is the commit. Saying it twice is no error: the first reply may have been lost."""
        shard = commit.shard
        with self.store.read() as tx:
            if tx.shards.get(unit_id, shard.key) == shard:
                return
            unit = _held(tx, unit_id, commit.worker, commit.epoch)
        self._check_shard(unit, shard)
        with self.store.write() as tx:
            unit = _held(tx, unit_id, commit.worker, commit.epoch)
            tx.units.commit(unit, shard)
            is_settled = tx.batches.settle(unit.batch_id)
        if is_settled:
            self._finish(unit.batch_id)

    def fail(self, unit_id: str, fail: Fail) -> None:
        error = Failure(code=fail.code, detail=fail.detail, retryable=fail.retryable)
        with self.store.write() as tx:
            unit = _held(tx, unit_id, fail.worker, fail.epoch)
            if _existing(tx, unit.batch_id).status == "cancelling":
                tx.units.give_up(unit, "cancelled", error)
            elif fail.code == WORKER_STOPPED:
                tx.units.hand_back(unit)
            elif fail.retryable and unit.failures + 1 < MAX_FAILURES:
                tx.units.give_up(unit, "queued", error)
            else:
                tx.units.give_up(unit, "failed", error)
            is_settled = tx.batches.settle(unit.batch_id)
        if is_settled:
            self._finish(unit.batch_id)

    def _check_shard(self, unit: UnitRecord, shard: ShardRef) -> None:
        """A row may only name bytes that are there: the API and its workers share the output folder."""
        key = shard_key(unit.batch_id, unit.unit_id, unit.epoch, shard.sha256)
        if (shard.unit_id, shard.item_id, shard.key) != (unit.unit_id, unit.item_id, key):
            raise InputError(
                f"the shard is not this unit's; wanted unit {unit.unit_id}, item {unit.item_id}, key {key}",
                [("/shard", "wrong_shard", "unit, item or key is another unit's")],
            )
        try:
            self.objects.get(key, size=shard.size_bytes, digest=shard.sha256)
        except (IntegrityError, OSError):
            raise InputError(
                f"the API cannot read the shard {self.objects.path(key)}: it is missing or not the bytes that size and "
                f"sha256 say; API and workers must share the folder {self.objects.root}",
                [("/shard", "unreadable_shard", "missing, or other bytes than size and sha256 say")],
            ) from None

    # the end of a batch

    def _finish(self, batch_id: str) -> None:
        """Writes the manifest of a batch and ends it, if it is settled.

        Whoever repeats it after a crash writes the same bytes, since they depend on the store alone. If the disk
        refuses, the next sweep tries again: a worker's commit is not to fail for it.
        """
        with self.store.read() as tx:
            batch = _existing(tx, batch_id)
            if batch.settled_at is None or batch.ended_at is not None:
                return
            shards = tx.shards.of_batch(batch_id)
        reference = None
        try:
            if shards:
                settled = dt.datetime.fromtimestamp(batch.settled_at, dt.UTC)
                manifest = build_manifest(batch.id, batch.generation, batch.model, batch.synthesis, shards, settled)
                key = manifest_key(batch.id, batch.generation)
                self.objects.put(key, encode_manifest(manifest))
                reference = (key, manifest.digest)
            with self.store.write() as tx:
                tx.batches.end(batch_id, reference)
        except StorageError as error:
            log.warning("%s is not ended yet: %s", batch_id, error)

    # health

    def readiness(self) -> Ready:
        free = _free_bytes(self.objects.root)
        checks = {
            "store": self._store_check(),
            "disk": Check(ok=free >= HEADROOM_BYTES, detail=f"{free} bytes free; {HEADROOM_BYTES} are kept"),
            "sqlite": Check(
                ok=True,
                detail="write-ahead log"
                if wal_is_safe()
                else "rollback journal: this SQLite is older than the fix of its write-ahead log (3.51.3)",
            ),
        }
        return Ready(ok=all(check.ok for check in checks.values()), checks=checks)

    def _store_check(self) -> Check:
        try:
            with self.store.write() as tx:
                tx.stamp()
        except StorageError as error:
            return Check(ok=False, detail=str(error))
        return Check(ok=True, detail="a write reached the disk")

    def _check_headroom(self) -> None:
        free = _free_bytes(self.objects.root)
        if free < HEADROOM_BYTES:
            raise StorageError(
                f"{self.objects.root} has {free} bytes left; {HEADROOM_BYTES} are kept for accepted work; free some"
            )

    # helpers

    def _model(self, name: str | None) -> ModelIdentity:
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name in self.models:
            return self.models[name]
        wrong = "no model is named" if name is None else "the model is not registered"
        raise InputError(
            f"{wrong}; this API has {self._registered()}",
            [("/model", "unknown_model", f"give one of: {self._registered()}")],
        )

    def _registered(self) -> str:
        return ", ".join(sorted(self.models)) or "no model; start it with `dail serve --model NAME=FOLDER`"

    def _view(self, tx: Transaction, batch_id: str) -> BatchOut:
        return self._batch_out(_existing(tx, batch_id), tx.batches.tally(batch_id))

    def _batch_out(self, batch: BatchRecord, tally: Tally) -> BatchOut:
        life_s = (batch.ended_at or tally.now) - (batch.in_progress_at or tally.now)
        manifest = None
        if batch.manifest:
            key, digest = batch.manifest
            manifest = ManifestRef(key=key, path=str(self.objects.path(key)), digest=digest)
        return BatchOut(
            id=batch.id,
            status=batch.status,
            model=batch.model,
            synthesis=batch.synthesis,
            config_fingerprint=config_fingerprint(batch.model, batch.synthesis),
            run_label=batch.run_label,
            metadata=batch.metadata,
            request_counts=RequestCounts(total=sum(tally.items.values()), **tally.items),
            units=UnitCounts(total=sum(tally.units.values()), **tally.units),
            tokens=Tokens(
                total=tally.tokens,
                attributed=tally.attributed_tokens,
                student=round(tally.student_tokens, 1),
                student_share=student_share(tally.student_tokens, tally.attributed_tokens),
            ),
            tokens_per_s=round(tally.tokens / life_s, 1) if life_s > 0 else 0.0,
            shards=tally.units.get("committed", 0),
            manifest=manifest,
            created_at=int(batch.created_at),
            in_progress_at=_seconds(batch.in_progress_at),
            finalizing_at=_seconds(batch.settled_at),
            completed_at=_seconds(batch.ended_at) if batch.status == "completed" else None,
            cancelling_at=_seconds(batch.cancelling_at),
            cancelled_at=_seconds(batch.ended_at) if batch.status == "cancelled" else None,
        )

    def _item_status(self, tx: Transaction, batch_id: str, item_id: str) -> str:
        status = tx.batches.item_status(batch_id, item_id)
        if status is None:
            raise NotFound(f"{batch_id} has no such item; GET /v1/batches/{batch_id}/items lists them")
        return status


def _existing(tx: Transaction, batch_id: str) -> BatchRecord:
    batch = tx.batches.get(batch_id)
    if batch is None:
        raise NotFound("there is no such batch; GET /v1/batches lists them")
    return batch


def _held(tx: Transaction, unit: str, worker: str, epoch: int) -> UnitRecord:
    """The fence: only who holds the unit's newest lease may speak for it."""
    held = tx.units.held(unit, worker, epoch)
    if held is None:
        raise Conflict("fenced", "this lease is over: the unit has ended or went to another worker; drop it")
    return held


def _pinned(body: BatchIn) -> BatchIn:
    """With the digests of what is installed here under the names that it gives; a worker must have the same."""
    try:
        return body.model_copy(update={"synthesis": body.synthesis.pinned()})
    except ExtensionError as error:
        raise InputError(str(error), [("/synthesis", "unknown_extension", str(error))]) from None


def _units(body: BatchIn, model: ModelIdentity) -> list[tuple[str, str, int]]:
    """One unit per item and sample. Two items with the same text would make the same draws; they are refused."""
    units: list[tuple[str, str, int]] = []
    first: dict[str, int] = {}
    problems: list[tuple[str, str, str]] = []
    for number, item in enumerate(body.items):
        assert item.id is not None, "check_items gives every item an id"
        ids = [unit_id(item, body.synthesis, model, sample) for sample in range(body.synthesis.samples_per_item)]
        if ids[0] in first:
            detail = f"same problem and solution as item {first[ids[0]]}; raise samples_per_item for more traces of it"
            problems.append((f"/items/{number}", "duplicate_item", detail))
        first.setdefault(ids[0], number)
        units += [(unit, item.id, sample) for sample, unit in enumerate(ids)]
    if problems:
        raise InputError("the batch was refused; nothing was stored", problems)
    return units


def _model_key(model: ModelIdentity) -> str:
    """What must be equal for a worker to serve a batch; a model's name is only a name."""
    return hashlib.sha256(canonical(model.identity())).hexdigest()


def _item_out(item_id: str, status: str, units: list[UnitRecord]) -> ItemOut:
    samples = tuple(
        SampleOut(
            sample=unit.sample,
            unit_id=unit.unit_id,
            status=unit.state,
            leases=unit.leases,
            tokens=unit.tokens,
            attributed_tokens=unit.attributed_tokens,
            student_tokens=unit.student_tokens,
            error=unit.error,
        )
        for unit in units
        if unit.item_id == item_id
    )
    return ItemOut(id=item_id, status=status, samples=samples)


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)


def _free_bytes(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free
