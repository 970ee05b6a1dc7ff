"""Committed traces by their references: a shard is read and checked once, however many of its traces are wanted.

    reader = ShardReader(Objects(root))
    for ref in by_file(manifest.shards):
        (row,) = reader.rows(ref)

Only what a reference names is ever read, so a row that no manifest names is nobody's trace.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from dail.synth.core.errors import IntegrityError
from dail.synth.core.files import Objects
from dail.synth.schema.shards import ShardFile, TraceRow
from dail.synth.schema.units import ShardRef

KEPT_BYTES = 128 << 20


class ShardReader:
    """Keeps the newest files, in bytes at most KEPT_BYTES or one file. Threads may share it.

    Raises:
        IntegrityError: from each method; a shard is missing, damaged, or does not hold what the reference says.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._kept: OrderedDict[tuple[str, str], ShardFile] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, ref: ShardRef) -> list[TraceRow]:
        """The traces of a reference, which are one, but for shards that other tools made."""
        found = self.file(ref).rows(ref.row)
        _check(ref, [row.unit_id for row in found])
        return found

    def columns(self, ref: ShardRef, names: Iterable[str]) -> list[dict[str, Any]]:
        """Of each of its traces these columns."""
        found = self.file(ref).columns(ref.row, list(dict.fromkeys(["unit_id", *names])))
        _check(ref, [row["unit_id"] for row in found])
        return found

    def table(self, ref: ShardRef) -> pa.Table:
        found = self.file(ref).table(ref.row)
        _check(ref, found["unit_id"].to_pylist())
        return found

    def file(self, ref: ShardRef) -> ShardFile:
        """The whole shard, with what does not count of it."""
        name = ref.key, ref.sha256
        with self._lock:  # also while it is read: many commits of one shard come at once
            file = self._kept.get(name)
            if file is None or file.size_bytes != ref.size_bytes:
                data = self._objects.get(ref.key, size=ref.size_bytes, digest=ref.sha256)
                file = self._kept[name] = ShardFile(data, ref.key)
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and sum(one.size_bytes for one in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return file


def by_file(refs: Iterable[ShardRef]) -> list[ShardRef]:
    """Those of one file together, so that each is read once. Of shards with one trace each: by unit, as they were."""
    ordered = sorted(refs, key=lambda ref: ref.unit_id)
    first: dict[str, int] = {}
    for place, ref in enumerate(ordered):
        first.setdefault(ref.key, place)
    return sorted(ordered, key=lambda ref: first[ref.key])


def _check(ref: ShardRef, units: list[str]) -> None:
    if units != [ref.unit_id] * ref.rows:
        raise IntegrityError(f"shard {ref.key} holds other rows than the manifest says; rebuild it")
