"""What workers ask: units to work on, more time, and that a shard or a failure is taken as a unit's end."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from dail.serve.rules.ending import Ending
from dail.serve.rules.enough import advance, is_needless
from dail.serve.rules.errors import Conflict, existing
from dail.serve.rules.models import check_registered, model_key
from dail.serve.rules.workers import Workers
from dail.serve.store.batches import BatchRecord
from dail.serve.store.transaction import Store, Transaction
from dail.serve.store.units import UnitRecord
from dail.synth.core.errors import InputError, InputFault, IntegrityError
from dail.synth.core.files import Objects, sha256
from dail.synth.core.logs import tell
from dail.synth.core.objects import mark
from dail.synth.schema.manifest import config_fingerprint
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shard_reader import ShardReader
from dail.synth.schema.shards import TraceRow
from dail.synth.schema.units import (
    BLAMELESS,
    Beat,
    BeatReply,
    Commit,
    Fail,
    Failure,
    Heartbeat,
    HeartbeatReply,
    LeaseReply,
    LeaseRequest,
    ShardRef,
    Unit,
    shard_key,
)

SHARD_BYTES = 64 << 20
_BATCH_OF_KEY = re.compile(r"shards/([A-Za-z0-9_-]{1,128})/.*")
MAX_FAILURES = 3  # a retryable failure is tried again until the third


class Leases:
    def __init__(
        self,
        store: Store,
        objects: Objects,
        models: dict[str, ModelIdentity],
        lease_s: float,
        ending: Ending,
        workers: Workers,
    ) -> None:
        self._store, self._objects, self._models = store, objects, models
        self._lease_s, self._ending, self._workers = lease_s, ending, workers
        self._reader = ShardReader(objects)

    @cached_property
    def _mark(self) -> str:
        return mark(self._objects)

    def lease(self, request: LeaseRequest) -> LeaseReply:
        with self._store.write() as tx:
            self._workers.asks(tx, request.worker, request.model)
            units = tx.units.claim(model_key(request.model), request.worker, request.count, self._lease_s)
        for unit in units:
            tell("unit_leased", **_names(unit, request.worker))
        if not units:
            check_registered(self._models, request.model)
        return LeaseReply(units=tuple(units), lease_s=self._lease_s, output_root=self._objects.url, mark=self._mark)

    def heartbeat(self, body: Heartbeat) -> HeartbeatReply:
        """All of them in one transaction; what is fenced stands in the way of nothing else."""
        with self._store.write() as tx:
            self._workers.beats(tx, body.worker)
            return HeartbeatReply(beats=tuple(self._beat(tx, body.worker, beat) for beat in body.beats))

    def _beat(self, tx: Transaction, worker: str, beat: Beat) -> BeatReply:
        unit = tx.units.held(beat.unit_id, worker, beat.epoch)
        if unit is None:
            return BeatReply(unit_id=beat.unit_id, epoch=beat.epoch, fenced=True)
        before = tx.checkpoints.length(unit.n)
        if beat.checkpoint:
            tx.checkpoints.add(unit.n, beat.start, beat.checkpoint)
        known = tx.checkpoints.length(unit.n)
        written = beat.tokens, beat.attributed_tokens, beat.student_tokens
        tx.units.renew(unit, self._lease_s, *written, is_further=known > before)
        batch = existing(tx, unit.batch_id)
        cancel = batch.status == "cancelling" or is_needless(tx, batch, unit)
        return BeatReply(unit_id=beat.unit_id, epoch=beat.epoch, cancel=cancel, known=known)

    def upload(self, key: str, data: bytes, digest: str) -> None:
        """Keeps a shard that a worker could not put there itself. It counts once it is committed."""
        found = _BATCH_OF_KEY.fullmatch(key)
        if sha256(data) != digest or found is None or key != shard_key(found[1], digest):
            raise InputError(
                "this is not a shard's key, or its bytes are not those that the key and x-dail-sha256 name; nothing "
                "was stored; send it again as it is",
                [InputFault("", "wrong_object", "key, x-dail-sha256 and body do not belong together")],
            )
        with self._store.read() as tx:
            existing(tx, found[1])
        self._objects.put(key, data)

    def commit(self, unit_id: str, commit: Commit) -> None:
        """The shard's row is the commit. Saying it twice is no error: the first reply may have been lost."""
        shard = commit.shard
        with self._store.read() as tx:
            if tx.shards.get(unit_id, shard.key) == shard:
                return
            unit = _held(tx, unit_id, commit.worker, commit.epoch)
            batch = existing(tx, unit.batch_id)
        self._check_shard(batch, unit, shard)
        with self._store.write() as tx:
            unit = _held(tx, unit_id, commit.worker, commit.epoch)
            tx.units.commit(unit, shard, commit.correct)
            advance(tx, existing(tx, unit.batch_id), unit.item_id)
            is_settled = tx.batches.settle(unit.batch_id)
        tell("unit_committed", duration_s=unit.held_s, bytes=shard.size_bytes, **_names(unit, commit.worker))
        if is_settled:
            self._ending.finish(unit.batch_id)

    def fail(self, unit_id: str, fail: Fail) -> None:
        error = Failure(code=fail.code, detail=fail.detail, retryable=fail.retryable)
        with self._store.write() as tx:
            unit = _held(tx, unit_id, fail.worker, fail.epoch)
            batch = existing(tx, unit.batch_id)
            if batch.status == "cancelling":
                tx.units.give_up(unit, "cancelled", error)
            elif is_needless(tx, batch, unit):
                tx.units.skip(unit)
            elif fail.code in BLAMELESS:
                tx.units.hand_back(unit)
            elif fail.retryable and unit.failures + 1 < MAX_FAILURES:
                tx.units.give_up(unit, "queued", error)
            else:
                tx.units.give_up(unit, "failed", error)
                advance(tx, batch, unit.item_id)
            is_settled = tx.batches.settle(unit.batch_id)
        tell("unit_failed", code=fail.code, **_names(unit, fail.worker))
        if is_settled:
            self._ending.finish(unit.batch_id)

    def _check_shard(self, batch: BatchRecord, unit: UnitRecord, shard: ShardRef) -> None:
        """What is committed is there, and a trainer will take it: one bad shard spoils its manifest."""
        key = shard_key(unit.batch_id, shard.sha256)
        if (shard.unit_id, shard.item_id, shard.key) != (unit.unit_id, unit.item_id, key):
            raise InputError(
                f"the shard is not this unit's; wanted unit {unit.unit_id}, item {unit.item_id}, key {key}",
                [InputFault("/shard", "wrong_shard", "unit, item or key is another unit's")],
            )
        if shard.size_bytes > SHARD_BYTES:
            detail = f"{shard.size_bytes} bytes; at most {SHARD_BYTES} are taken"
            raise InputError(
                f"the shard is too large: {detail}", [InputFault("/shard/size_bytes", "shard_too_large", detail)]
            )
        try:
            rows = self._reader.file(shard).rows(shard.row)
        except (IntegrityError, OSError) as error:
            raise InputError(
                f"the API cannot use the shard {self._objects.name_of(key)}: {error}; put it there first, or PUT it to "
                f"/internal/v1/objects/{key}",
                [
                    InputFault(
                        "/shard", "unreadable_shard", "missing, other bytes than are said, or no shard of this build"
                    )
                ],
            ) from None
        got = [_identity_of(row) for row in rows]
        wanted = _wanted_identity(batch, unit, shard)
        if got != [wanted] or shard.rows != 1:
            wrong = sorted(name for name in wanted if len(got) != 1 or got[0][name] != wanted[name]) or ["rows"]
            raise InputError(
                f"row group {shard.row} of the shard {key} has {len(got)} rows, of another {', '.join(wrong)} than "
                f"the unit; wanted one row of the unit's own; are the worker's model and build those of the batch?",
                [InputFault("/shard", "wrong_shard", f"{name} is not the unit's") for name in wrong],
            )


def _names(unit: Unit | UnitRecord, worker: str) -> dict[str, Any]:
    """Of an event in the log."""
    return {"batch_id": unit.batch_id, "unit_id": unit.unit_id, "epoch": unit.epoch, "worker": worker}


def _held(tx: Transaction, unit: str, worker: str, epoch: int) -> UnitRecord:
    """The fence: only who holds the unit's newest lease may speak for it."""
    held = tx.units.held(unit, worker, epoch)
    if held is None:
        tell("fenced", unit_id=unit, epoch=epoch, worker=worker)
        raise Conflict("fenced", "this lease is over: the unit has ended or went to another worker; drop it")
    return held


def _identity_of(row: TraceRow) -> dict[str, object]:
    return {
        "unit_id": row.unit_id,
        "batch_id": row.batch_id,
        "item_id": row.item_id,
        "sample": row.sample_index,
        "tokens": len(row.trace_ids),
        "model_revision": row.model_revision,
        "student_revision": row.student_revision,
        "privileged_revision": row.privileged_revision,
        "tokenizer_hash": row.tokenizer_hash,
        "template_hash": row.template_hash,
        "config_fingerprint": row.config_fingerprint,
    }


def _wanted_identity(batch: BatchRecord, unit: UnitRecord, shard: ShardRef) -> dict[str, object]:
    return {
        "unit_id": unit.unit_id,
        "batch_id": unit.batch_id,
        "item_id": unit.item_id,
        "sample": unit.sample,
        "tokens": shard.tokens,
        "model_revision": batch.model.revision,
        "student_revision": batch.model.student,
        "privileged_revision": batch.model.privileged,
        "tokenizer_hash": batch.model.tokenizer_hash,
        "template_hash": batch.model.template_hash,
        "config_fingerprint": config_fingerprint(batch.model, batch.synthesis),
    }
