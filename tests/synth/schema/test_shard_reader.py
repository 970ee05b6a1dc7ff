"""Traces by their references: each shard is read once, and only what a reference names is anybody's trace."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dail.synth.core.config import fingerprint
from dail.synth.core.errors import IntegrityError
from dail.synth.core.files import Objects
from dail.synth.run.trace_rows import located, reference
from dail.synth.schema import shard_reader
from dail.synth.schema.manifest import build_manifest, encode_manifest, manifest_key, read_item_problems, read_rows
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shard_reader import ShardReader, by_file
from dail.synth.schema.shards import TraceRow, encode_shard
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import ShardRef


class CountingObjects(Objects):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.num_read = 0

    def get(self, key: str, *, size: int, digest: str) -> bytes:
        self.num_read += 1
        return super().get(key, size=size, digest=digest)


def rows_of(row: TraceRow, units: Sequence[int]) -> list[TraceRow]:
    return [row.model_copy(update={"unit_id": f"{n:032x}", "item_id": f"i{n}", "problem": f"p{n}"}) for n in units]


def stored(objects: Objects, rows: list[TraceRow]) -> list[ShardRef]:
    data = encode_shard(rows)
    refs = located([reference(row, place) for place, row in enumerate(rows)], rows[0].batch_id, data)
    objects.put(refs[0].key, data)
    return refs


def test_each_shard_is_read_once_in_the_order_of_files(tmp_path: Path, row: TraceRow) -> None:
    objects = CountingObjects(tmp_path)
    refs = [ref for units in ((0, 4, 2), (3, 1, 5)) for ref in stored(objects, rows_of(row, units))]
    reader = ShardReader(objects)
    read = [trace.unit_id for ref in by_file(refs) for trace in reader.rows(ref)]
    assert read == [f"{n:032x}" for n in (0, 2, 4, 1, 3, 5)]
    assert objects.num_read == 2


def test_no_more_than_some_bytes_of_shards_are_kept(
    tmp_path: Path, row: TraceRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = CountingObjects(tmp_path)
    (one,), (two,), (three,) = (stored(objects, rows_of(row, [n])) for n in range(3))
    monkeypatch.setattr(shard_reader, "KEPT_BYTES", one.size_bytes + two.size_bytes + 1)
    reader = ShardReader(objects)
    for ref in (one, two, one, three, one, two):
        assert reader.rows(ref)
    assert objects.num_read == 4, "the one that was used longest ago went, and no other"


def test_a_row_that_is_not_named_is_nobodys(tmp_path: Path, row: TraceRow, model: ModelIdentity) -> None:
    objects = Objects(tmp_path)
    one, _, three = stored(objects, rows_of(row, (1, 2, 3)))
    made = build_manifest("b", 1, model, Synthesis(), [three, one], dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    objects.put(manifest_key("b", 1), encode_manifest(made))
    path = objects.path(manifest_key("b", 1))
    assert [trace.problem for trace in read_rows(path)] == ["p1", "p3"]
    assert [trace.problem for trace in read_rows(path, {three.unit_id})] == ["p3"]
    assert read_item_problems(path) == {"i1": "p1", "i3": "p3"}
    assert made.rows == 2 and made.size_bytes == one.size_bytes, "a file counts once"


@pytest.mark.parametrize("said", [{"row": 1}, {"row": 3}, {"rows": 2}, {"unit_id": "f" * 32}, {"size_bytes": 7}])
def test_a_reference_to_anything_else_is_refused_by_name(
    tmp_path: Path, row: TraceRow, said: dict[str, object]
) -> None:
    refs = stored(Objects(tmp_path), rows_of(row, (1, 2)))
    reader = ShardReader(Objects(tmp_path))
    assert reader.rows(refs[0])
    wrong = refs[0].model_copy(update=said)
    for read in (reader.rows, reader.table, lambda ref: reader.columns(ref, ["problem"])):
        with pytest.raises(IntegrityError, match=refs[0].key):
            read(wrong)


def test_manifests_from_before_shards_held_several_are_read_and_made_again_alike(
    tmp_path: Path, row: TraceRow, model: ModelIdentity
) -> None:
    data = encode_shard([row])
    (ref,) = located([reference(row)], "b", data)
    old = ref.model_copy(update={"key": f"shards/b/{row.unit_id}/e1-{ref.sha256[:16]}.parquet"})
    made = build_manifest("b", 1, model, Synthesis(), [old], dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    said = json.loads(encode_manifest(made))
    assert "row" not in said["shards"][0]
    assert fingerprint({**said, "digest": ""}) == made.digest
    objects = Objects(tmp_path)
    objects.put(old.key, data)
    objects.put(manifest_key("b", 1), encode_manifest(made))
    assert list(read_rows(objects.path(manifest_key("b", 1)))) == [row]
