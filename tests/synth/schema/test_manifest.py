"""The manifest knows exactly its shards, and notices when it or they were changed."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.config import fingerprint
from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.core.files import Objects, sha256
from dail.synth.schema.manifest import (
    build_manifest,
    encode_manifest,
    manifest_key,
    output_root,
    read_manifest,
    read_rows,
)
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import TraceRow, encode_shard
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import ShardRef, shard_key

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def stored(objects: Objects, row: TraceRow, **said: Any) -> ShardRef:
    data = encode_shard([row])
    key = shard_key(row.batch_id, sha256(data))
    objects.put(key, data)
    values: dict[str, Any] = {"rows": 1, "size_bytes": len(data), "sha256": sha256(data), "unit_id": row.unit_id}
    return ShardRef(key=key, item_id=row.item_id, tokens=2, attributed_tokens=2, student_tokens=1.5, **values | said)


@pytest.fixture
def shards(tmp_path: Path, row: TraceRow) -> list[ShardRef]:
    return [stored(Objects(tmp_path), row.model_copy(update={"unit_id": f"{unit:032x}"})) for unit in range(4)]


def written(root: Path, model: ModelIdentity, shards: list[ShardRef]) -> Path:
    path = root / manifest_key("b", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_manifest(build_manifest("b", 1, model, Synthesis(), shards, NOW)))
    return path


def test_rows_come_back_in_the_order_of_units(tmp_path: Path, model: ModelIdentity, shards: list[ShardRef]):
    path = written(tmp_path, model, shards[::-1])
    assert output_root(path) == tmp_path
    assert [row.unit_id for row in read_rows(path)] == [shard.unit_id for shard in shards]


def test_totals_are_the_sums_of_the_shards(model: ModelIdentity, shards: list[ShardRef]):
    manifest = build_manifest("b", 1, model, Synthesis(), shards, NOW)
    assert (manifest.rows, manifest.tokens) == (4, 8)
    assert manifest.size_bytes == sum(shard.size_bytes for shard in shards)


def test_the_order_in_which_shards_were_committed_does_not_count(model: ModelIdentity, shards: list[ShardRef]):
    shuffled = random.Random(1).sample(shards, len(shards))
    first, second = (build_manifest("b", 1, model, Synthesis(), order, NOW) for order in (shards, shuffled))
    assert encode_manifest(first) == encode_manifest(second)


def test_the_output_root_is_found_from_another_folder(
    tmp_path: Path, model: ModelIdentity, shards: list[ShardRef], monkeypatch: pytest.MonkeyPatch
):
    path = written(tmp_path, model, shards)
    monkeypatch.chdir(path.parent)
    assert len(list(read_rows(Path("v1.json")))) == 4


def test_a_manifest_that_is_no_selection_says_nothing_of_one(model: ModelIdentity, shards: list[ShardRef]):
    """So that its digest is what it was before there were any."""
    written = json.loads(encode_manifest(build_manifest("b", 1, model, Synthesis(), shards, NOW)))
    assert not {"selection", "selected"} & set(written)


def test_a_manifest_from_before_a_setting_was_made_is_read(
    tmp_path: Path, model: ModelIdentity, shards: list[ShardRef]
):
    path = written(tmp_path, model, shards)
    before = json.loads(path.read_bytes())
    del before["synthesis"]["enough"], before["digest"]
    path.write_text(json.dumps({**before, "digest": fingerprint({**before, "digest": ""})}))
    assert read_manifest(path).synthesis.enough == "all"


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every number and text in a JSON value."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))
    elif value is not None:
        yield path


def changed(value: Any) -> Any:
    if isinstance(value, str):
        return {
            "mixed": "direct",
            "answer": "nothing",
            "raw": "tempered",
            "student": "privileged",
            "absolute": "relative",
            "solution": "nothing",
            "own": "other",
            "all": "random",
        }.get(value) or value.replace("2026", "2027") + "0" * ("2026" not in value)
    return value + 1 if isinstance(value, int) else value / 2


def test_any_changed_value_is_noticed(tmp_path: Path, model: ModelIdentity, shards: list[ShardRef]):
    path = written(tmp_path, model, shards[:1])
    original = path.read_bytes()
    found = list(places(json.loads(original)))
    assert len(found) > 25
    found.remove(("schema_version",))  # is looked at first
    found.remove(("synthesis", "too_long"))  # another one takes another setting too
    for place in found:
        value = json.loads(original)
        parent = value
        for part in place[:-1]:
            parent = parent[part]
        parent[place[-1]] = changed(parent[place[-1]])
        path.write_text(json.dumps(value))
        with pytest.raises(IntegrityError, match="was changed: its digest is"):
            read_manifest(path)


def test_a_dropped_shard_is_noticed(tmp_path: Path, model: ModelIdentity, shards: list[ShardRef]):
    path = written(tmp_path, model, shards)
    value = json.loads(path.read_bytes())
    del value["shards"][1]
    path.write_text(json.dumps(value))
    with pytest.raises(IntegrityError, match="was changed"):
        read_manifest(path)


def test_spelling_of_the_json_does_not_count(tmp_path: Path, model: ModelIdentity, shards: list[ShardRef]):
    path = written(tmp_path, model, shards)
    manifest = read_manifest(path)
    path.write_text(json.dumps(json.loads(path.read_bytes()), sort_keys=True))
    assert read_manifest(path) == manifest


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is no manifest: "),
        (b"{}", "is no manifest: /batch_id: it is missing"),
        (b"\xff", "is no manifest"),
        (None, "does not exist"),
        ("folder", r"is a folder; give the manifest file"),
    ],
)
def test_what_is_no_manifest_is_the_user_s_error(tmp_path: Path, content: Any, why: str):
    path = tmp_path / "v1.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=why):
        read_manifest(path)


def test_a_manifest_below_a_file_is_the_user_s_error(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be read: Not a directory"):
        read_manifest(tmp_path / "x" / "v1.json")


def test_a_field_of_a_newer_version_is_refused(tmp_path: Path, model: ModelIdentity, shards: list[ShardRef]):
    path = written(tmp_path, model, shards)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "signature": "x"}))
    with pytest.raises(UsageError, match="/signature: there is no such name"):
        read_manifest(path)


def test_a_missing_shard_is_named(tmp_path: Path, model: ModelIdentity, shards: list[ShardRef]):
    (tmp_path / shards[2].key).unlink()
    with pytest.raises(IntegrityError, match=f"{shards[2].key} is missing"):
        list(read_rows(written(tmp_path, model, shards)))


def test_a_damaged_shard_is_named(tmp_path: Path, model: ModelIdentity, shards: list[ShardRef]):
    path = tmp_path / shards[2].key
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=f"{shards[2].key} is damaged"):
        list(read_rows(written(tmp_path, model, shards)))


@pytest.mark.parametrize("said", [{"rows": 2}, {"unit_id": "f" * 32}])
def test_a_shard_with_other_rows_than_said_is_named(
    tmp_path: Path, model: ModelIdentity, row: TraceRow, said: dict[str, Any]
):
    shard = stored(Objects(tmp_path), row, **said)
    with pytest.raises(IntegrityError, match=f"{shard.key} holds other rows"):
        list(read_rows(written(tmp_path, model, [shard])))


def test_a_key_that_leaves_the_folder_is_refused(tmp_path: Path, model: ModelIdentity, row: TraceRow):
    shard = stored(Objects(tmp_path), row).model_copy(update={"key": "../../etc/passwd"})
    with pytest.raises(Exception, match="is not a plain relative name"):
        list(read_rows(written(tmp_path, model, [shard])))


@pytest.mark.parametrize("version", [1, 2, 3, 4, 7])
def test_a_manifest_of_another_schema_version_says_what_to_do(
    tmp_path: Path, model: ModelIdentity, shards: list[ShardRef], version: int
):
    path = written(tmp_path, model, shards)
    value = json.loads(path.read_bytes()) | {"schema_version": version, "tool_version": "0.0.9"}
    for shard in value["shards"]:
        del shard["attributed_tokens"]  # which other versions do not have
    path.write_text(json.dumps(value))
    why = f"schema version {version}, this build reads 5 and 6; draw the traces again, or read them with dail 0.0.9"
    with pytest.raises(IntegrityError, match=why):
        read_manifest(path)
