"""Does a store hold together: its kept counts, and the objects that its rows name."""

from __future__ import annotations

from collections.abc import Iterator

from dail.serve.store.transaction import Store
from dail.synth.core.errors import IntegrityError
from dail.synth.core.files import Objects


def findings(store: Store, objects: Objects, is_deep: bool) -> Iterator[str]:
    """What is not as it must be, a line each.

    Args:
        is_deep: read every shard and hold it against its sha256; else its size alone is looked at.
    """
    there = {stored.key: stored.size_bytes for stored in objects.listed()}
    with store.read() as tx:
        for batch_id in sorted(tx.batches.ids()):
            if not tx.counts.agree(batch_id):
                yield f"{batch_id}: its kept counts are not those of its units"
            for shard in {shard.key: shard for shard in tx.shards.of_batch(batch_id)}.values():  # a file has many units
                if shard.key not in there:
                    yield f"{batch_id}: shard {objects.name_of(shard.key)} is missing"
                elif (size := there[shard.key]) != shard.size_bytes:
                    yield f"{batch_id}: shard {objects.name_of(shard.key)} has {size} bytes, not {shard.size_bytes}"
                elif is_deep and (fault := _damage(objects, shard.key, shard.size_bytes, shard.sha256)):
                    yield f"{batch_id}: {fault}"
            batch = tx.batches.get(batch_id)
            if batch and batch.manifest and batch.manifest[0] not in there:
                name = objects.name_of(batch.manifest[0])
                yield f"{batch_id}: manifest {name} is missing; asking the API for it makes it again"


def _damage(objects: Objects, key: str, size: int, digest: str) -> str | None:
    try:
        objects.get(key, size=size, digest=digest)
    except IntegrityError as error:
        return str(error)
    return None
