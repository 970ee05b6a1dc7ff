"""Objects that nothing names: what a crash, or a lease that was over, left behind. Nobody reads them; they take room.

Only shards, staged files and manifests of batches that this store knows are looked at: a place may hold what other
stores, or people, put there. What any manifest names that lies there is named, whatever the store says.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass

from dail.serve.store.transaction import Store
from dail.synth.core.errors import StorageError
from dail.synth.core.files import STAGING, Objects, Stored

_OURS = re.compile(r"shards/(?P<of_shard>[^/]+)/.+|manifests/(?P<of_manifest>[^/]+)/v\d+\.json")
_MANIFEST = re.compile(r"manifests/[^/]+/[^/]+\.json")


@dataclass(frozen=True)
class Orphans:
    """`unknown`: how many objects are of batches that this store does not know, and are left alone."""

    found: tuple[Stored, ...]
    unknown: int


def find_orphans(store: Store, objects: Objects, age: dt.timedelta) -> Orphans:
    """Those older than `age`. The listing comes first, so what is committed meanwhile is named when it is looked up."""
    there = list(objects.listed())
    with store.read() as tx:
        named, batches = tx.shards.named(), tx.batches.ids()
    for one in there:
        if _MANIFEST.fullmatch(one.key):
            named |= _named_by(objects, one.key)
    before, unknown, found = dt.datetime.now(dt.UTC) - age, 0, []
    for one in there:
        ours = _OURS.fullmatch(one.key)
        if one.key in named or not (ours or one.key.startswith(f"{STAGING}/")):
            continue
        if ours and (ours["of_shard"] or ours["of_manifest"]) not in batches:
            unknown += 1
        elif one.modified < before:
            found.append(one)
    return Orphans(tuple(found), unknown)


def _named_by(objects: Objects, key: str) -> set[str]:
    try:
        return {str(shard["key"]) for shard in json.loads(objects.read(key))["shards"]}
    except (ValueError, KeyError, TypeError):
        raise StorageError(
            f"{objects.name_of(key)} is no manifest, so it is not known what it names; nothing was deleted; restore it "
            f"from a copy or move it away"
        ) from None
