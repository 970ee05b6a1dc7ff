"""What came of a batch: its shards, its manifest, and its results line by line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain

from pyarrow import concat_tables

from dail.serve.bodies import Result, ShardPage
from dail.serve.rules.ending import manifest_of
from dail.serve.rules.errors import Conflict, Damaged, NotFound, existing
from dail.serve.store.transaction import Store
from dail.serve.store.units import UnitRecord
from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.core.files import Objects
from dail.synth.schema.manifest import Manifest, parse_manifest
from dail.synth.schema.shard_reader import ShardReader
from dail.synth.schema.shards import ShardEncoder
from dail.synth.schema.units import Failure, ShardRef

_RESULTS_PAGE = 64

log = logging.getLogger("dail.serve")


class Outputs:
    def __init__(self, store: Store, objects: Objects) -> None:
        self._store, self._objects = store, objects

    def shards(self, batch_id: str) -> ShardPage:
        with self._store.read() as tx:
            existing(tx, batch_id)
            return ShardPage(data=tuple(tx.shards.of_batch(batch_id)), output_root=self._objects.url)

    def manifest(self, batch_id: str) -> Manifest:
        with self._store.read() as tx:
            batch = existing(tx, batch_id)
            shards = tx.shards.of_batch(batch_id)
        if batch.ended_at is None:
            raise Conflict("not_finalized", f"{batch_id} is {batch.status}; its manifest is written when it ends")
        if batch.manifest is None:
            raise NotFound(f"{batch_id} ended without a shard, so there is no manifest; GET its items for the reasons")
        key, digest = batch.manifest
        try:
            manifest = parse_manifest(self._objects.read(key), self._objects.name_of(key))
        except (IntegrityError, UsageError) as error:
            log.error("the manifest of %s is made of the store again: %s", batch_id, error)
            manifest = manifest_of(batch, shards)
        if manifest.digest != digest:
            raise Damaged(
                "damaged_manifest",
                f"the manifest {key} is missing or not the one that was written; restore it from a copy, or POST "
                f"/v1/batches/{batch_id}/retry for items without a trace, which writes the next one",
            )
        return manifest

    def file(self, batch_id: str, number: int) -> tuple[ShardRef, bytes]:
        """A file that the manifest lists, and its bytes."""
        files = self.manifest(batch_id).files
        if not 0 <= number < len(files):
            raise NotFound(f"the manifest of {batch_id} lists {len(files)} files, 0 to {len(files) - 1}; not this one")
        shard = files[number]
        try:
            return shard, self._objects.get(shard.key, size=shard.size_bytes, digest=shard.sha256)
        except IntegrityError as error:
            raise Damaged("damaged_shard", str(error)) from None

    def results(self, batch_id: str) -> Iterator[Result]:
        """Units that have ended, in the order of drawing. Raises NotFound at once, not when iterated."""
        with self._store.read() as tx:
            existing(tx, batch_id)
            refused = tx.batches.refused(batch_id)
        unusable = (Result(item_id=one, sample=0, status="failed", error=why) for one, why in refused.items())
        return chain(unusable, self._results(batch_id))

    def parquet(self, batch_id: str) -> Iterator[bytes]:
        """One Parquet file of the committed traces, in the order of drawing. Raises at once; Damaged also later."""
        with self._store.read() as tx:
            existing(tx, batch_id)
            damaged = tx.shards.damaged(batch_id)
        if damaged:
            raise Damaged(
                "damaged_shard",
                f"{len(damaged)} traces of {batch_id} are in shards that are missing or damaged; restore them from a "
                f"copy, or take the results as JSON lines, which say which these are",
            )
        return self._parquet(batch_id)

    def _parquet(self, batch_id: str) -> Iterator[bytes]:
        encoder, reader = ShardEncoder(), ShardReader(self._objects)
        for page in self._ended(batch_id):
            tables = []
            for unit, shard, was_damaged in page:
                if shard is not None:
                    try:
                        tables.append(reader.table(shard))
                    except IntegrityError as error:
                        self._note(unit, True, was_damaged)
                        raise Damaged("damaged_shard", str(error)) from None
            if tables:
                encoder.add_table(concat_tables(tables))
                yield encoder.take()
        yield encoder.end()

    def _ended(self, batch_id: str) -> Iterator[list[tuple[UnitRecord, ShardRef | None, bool]]]:
        """Units that have ended with their shards, and whether these were damaged; some at a time."""
        last = 0
        while True:
            with self._store.read() as tx:
                ended = tx.units.ended(batch_id, last, _RESULTS_PAGE)
                damaged = tx.shards.damaged(batch_id)
            if not ended:
                return
            yield [(unit, shard, unit.n in damaged) for unit, shard in ended]
            last = ended[-1][0].n

    def _results(self, batch_id: str) -> Iterator[Result]:
        reader = ShardReader(self._objects)
        for page in self._ended(batch_id):
            for unit, shard, was_damaged in page:
                yield from self._results_of(reader, unit, shard, was_damaged)

    def _results_of(
        self, reader: ShardReader, unit: UnitRecord, shard: ShardRef | None, was_damaged: bool
    ) -> Iterator[Result]:
        if shard is None:
            assert unit.state in ("skipped", "failed", "cancelled", "expired"), (
                f"unit {unit.unit_id} ended as {unit.state}"
            )
            yield Result(item_id=unit.item_id, sample=unit.sample, status=unit.state, error=unit.error)
            return
        try:
            rows = reader.rows(shard)
        except IntegrityError as error:
            self._note(unit, True, was_damaged)
            damage = Failure(code="damaged_shard", detail=str(error))
            yield Result(item_id=unit.item_id, sample=unit.sample, status="failed", error=damage)
            return
        self._note(unit, False, was_damaged)
        for row in rows:
            trace = row.model_dump(mode="json", exclude={"item_id", "sample_index"})
            yield Result(item_id=row.item_id, sample=row.sample_index, status="succeeded", trace=trace)

    def _note(self, unit: UnitRecord, is_damaged: bool, was_damaged: bool) -> None:
        if is_damaged != was_damaged:
            with self._store.write() as tx:
                tx.shards.set_damaged(unit.n, is_damaged)
                tx.noted.num_damaged += is_damaged
