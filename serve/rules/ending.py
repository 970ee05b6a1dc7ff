"""The end of a batch: it settles when no unit is open, its manifest is written, and it is over."""

from __future__ import annotations

import datetime as dt
import logging

from dail.serve.rules.enough import advance
from dail.serve.rules.errors import existing
from dail.serve.store.batches import BatchRecord
from dail.serve.store.transaction import Store, Transaction
from dail.synth.core.config import TOOL_VERSION
from dail.synth.core.errors import ObjectExists, StorageError
from dail.synth.core.files import Objects
from dail.synth.core.logs import tell
from dail.synth.core.objects import Bucket
from dail.synth.schema.card import rows_key, write_card
from dail.synth.schema.manifest import Manifest, build_manifest, encode_manifest, manifest_key
from dail.synth.schema.units import Failure, ShardRef

DRAIN_S = 60.0  # what workers have to give back the units of a cancelled batch
TOMBSTONE_S = 30 * 86400.0  # a deleted batch keeps its bytes so long
_DROPPED = 500  # objects a sweep
MAX_LEASES = 10  # of which all but the first three had nothing beside it: it is what ends workers

log = logging.getLogger("dail.serve")


class Ending:
    """Ends batches. Requests call `finish`, the clock calls `sweep`."""

    def __init__(self, store: Store, objects: Objects) -> None:
        self._store, self._objects = store, objects
        self.card_is_due = False

    def sweep(self) -> None:
        """What no request triggers: leases nobody renews, manifests that could not be written, the data-set card."""
        with self._store.write() as tx:
            moved = self._give_back_lapsed(tx)
            due = tx.batches.due()
            for batch in (existing(tx, batch_id) for batch_id in due):
                if batch.status == "cancelling":
                    tx.units.cancel(batch.id)
                    if tx.batches.is_drained(batch.id, DRAIN_S):
                        tx.units.end_all(batch.id, "cancelled")
                elif tx.batches.start_expiry(batch.id):
                    tx.units.end_all(batch.id, "expired")
            for batch_id in moved.union(due):
                tx.batches.settle(batch_id)
        for batch_id in moved.union(due):
            self.finish(batch_id)
        self._drop_deleted()
        if self.card_is_due:  # not by a worker's last commit, which would wait: the card looks into every shard
            self.card_is_due = False
            if not isinstance(self._objects, Bucket):
                write_card(self._objects.root)

    def _give_back_lapsed(self, tx: Transaction) -> set[str]:
        """The batches of units whose worker fell silent: another may take them, or they have failed."""
        lost = Failure(
            code="poisoned_item",
            detail=f"{MAX_LEASES} workers took this unit and fell silent before they wrote anything of it, most of "
            f"them with nothing else in hand",
        )
        moved = tx.units.give_back_lapsed(MAX_LEASES, lost)
        for batch_id, item_id in {(batch_id, item_id) for batch_id, item_id, is_lost in moved if is_lost}:
            advance(tx, existing(tx, batch_id), item_id)
        for batch_id in (found := {batch_id for batch_id, _, _ in moved}):
            tell("leases_lapsed", batch_id=batch_id, count=sum(one == batch_id for one, _, _ in moved))
        return found

    def _drop_deleted(self) -> None:
        """The bytes of a batch that was deleted long ago, some of them a turn, then its rows."""
        with self._store.read() as tx:
            batch_id = tx.batches.buried(TOMBSTONE_S)
            keys = tx.batches.keys(batch_id, _DROPPED) if batch_id else []
        if batch_id is None:
            return
        for key in keys:
            self._objects.drop(key)
            if key.startswith("manifests/"):
                self._objects.drop(rows_key(key))
        with self._store.write() as tx:
            tx.batches.forget_shards(keys)
            if len(keys) < _DROPPED and not any(key.startswith("shards/") for key in keys):
                tx.batches.forget(batch_id)

    def finish(self, batch_id: str) -> None:
        """Writes the manifest of a batch and ends it, if it is settled.

        Whoever repeats it after a crash writes the same bytes, since they depend on the store alone. If the disk
        refuses, the next sweep tries again: a worker's commit is not to fail for it.
        """
        with self._store.read() as tx:
            batch = existing(tx, batch_id)
            if batch.settled_at is None or batch.ended_at is not None:
                return
            shards = tx.shards.of_batch(batch_id)
        try:
            reference = self._write_manifest(batch, shards) if shards else None
        except ObjectExists as error:  # a stray file, or the work of a build that said something else
            log.warning("%s gets the next manifest: %s", batch_id, error)
            with self._store.write() as tx:
                tx.batches.next_generation(batch_id, batch.generation)
            return
        except StorageError as error:
            log.warning("%s is not ended yet: %s", batch_id, error)
            with self._store.write() as tx:
                tx.batches.note_ending(batch_id, str(error))
            return
        with self._store.write() as tx:
            has_ended = tx.batches.end(batch_id, batch.generation, reference)
        if has_ended:  # else another request or server was there first
            tell("batch_ended", batch_id=batch_id)
        self.card_is_due = True

    def _write_manifest(self, batch: BatchRecord, shards: list[ShardRef]) -> tuple[str, str]:
        manifest = manifest_of(batch, shards)
        key = manifest_key(batch.id, batch.generation)
        self._objects.put(key, encode_manifest(manifest))
        return key, manifest.digest


def manifest_of(batch: BatchRecord, shards: list[ShardRef]) -> Manifest:
    """The manifest of a settled batch: it depends on what is stored alone."""
    assert batch.settled_at is not None, "a batch has a manifest once it is settled"
    settled = dt.datetime.fromtimestamp(batch.settled_at, dt.UTC)
    return build_manifest(
        batch.id,
        batch.generation,
        batch.model,
        batch.synthesis,
        shards,
        settled,
        batch.settled_by or TOOL_VERSION,  # none: it was settled by a release that did not say
    )
