"""The data-set card of an output root, read by `datasets` as anybody reads it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from dail.synth.core.files import Objects
from dail.synth.run.trace_rows import located, reference, shard_of
from dail.synth.schema.card import CARD, rows_key, write_card
from dail.synth.schema.manifest import build_manifest, encode_manifest, manifest_key, newest_manifests
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import TraceRow, encode_shard
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import Told


def committed(root: Path, rows: list[TraceRow], model: ModelIdentity, generation: int = 1, day: int = 1) -> None:
    """A batch whose manifest lists these rows' shards."""
    objects, batch = Objects(root), rows[0].batch_id
    shards = []
    for row in rows:
        data, shard = shard_of(row)
        objects.put(shard.key, data)
        shards.append(shard)
    made = build_manifest(batch, generation, model, Synthesis(), shards, dt.datetime(2026, 1, day, tzinfo=dt.UTC))
    objects.put(manifest_key(batch, generation), encode_manifest(made))


def rows(row: TraceRow, count: int, **changes: Any) -> list[TraceRow]:
    return [row.model_copy(update={"unit_id": f"{n:032x}", "item_id": f"i{n}", **changes}) for n in range(count)]


def read(root: Path, tmp_path: Path, config: str | None = None) -> list[str]:
    data = load_dataset(str(root), config, split="train", cache_dir=str(tmp_path / "cache"))
    return list(data["unit_id"])


def test_a_folder_with_one_shard_is_read_through_its_card(tmp_path: Path, row: TraceRow, model: ModelIdentity):
    root = tmp_path / "out"
    committed(root, rows(row, 1), model)
    (root / "ledger.jsonl").write_text('{"batch_id": "b"}\n')
    (root / "prefixes" / "b").mkdir(parents=True)
    (root / "prefixes" / "b" / "0.json").write_text("{}")
    assert write_card(root)
    assert read(root, tmp_path) == [f"{0:032x}"]


def test_what_was_not_committed_is_not_read(tmp_path: Path, row: TraceRow, model: ModelIdentity):
    root = tmp_path / "out"
    committed(root, rows(row, 2), model)
    # an earlier attempt; a unit that never ended
    for stray in (rows(row, 1, trace_text="earlier")[0], rows(row, 3)[2]):
        data, shard = shard_of(stray)
        Objects(root).put(shard.key, data)
    assert write_card(root)
    assert sorted(read(root, tmp_path)) == [f"{n:032x}" for n in range(2)]


def test_a_row_that_no_manifest_names_is_not_read_out_of_a_shard_either(
    tmp_path: Path, row: TraceRow, model: ModelIdentity
):
    root = tmp_path / "out"
    objects, together = Objects(root), rows(row, 3)
    data = encode_shard(together)
    first, _, last = located([reference(one, place) for place, one in enumerate(together)], row.batch_id, data)
    objects.put(first.key, data)
    made = build_manifest(row.batch_id, 1, model, Synthesis(), [first, last], dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    objects.put(manifest_key(row.batch_id, 1), encode_manifest(made))
    assert write_card(root) and write_card(root)
    assert sorted(read(root, tmp_path)) == [first.unit_id, last.unit_id]
    assert objects.path(rows_key(manifest_key(row.batch_id, 1))).is_file()


def test_each_batch_is_a_config_and_the_youngest_is_read_without_a_name(
    tmp_path: Path, row: TraceRow, model: ModelIdentity
):
    root = tmp_path / "out"
    committed(root, rows(row, 2, batch_id="young"), model, day=2)
    committed(root, rows(row, 1, batch_id="old"), model, day=1)
    assert write_card(root)
    assert [len(read(root, tmp_path, config)) for config in (None, "young", "old")] == [2, 2, 1]


def test_of_a_batch_the_newest_generation_counts(tmp_path: Path, row: TraceRow, model: ModelIdentity):
    root = tmp_path / "out"
    for generation in (2, 10, 9):
        committed(root, rows(row, generation), model, generation)
    assert [path.name for path in newest_manifests(root)] == ["v10.json"]
    assert write_card(root)
    assert len(read(root, tmp_path)) == 10


def test_sources_and_licences_are_counted_by_item_and_missing_ones_are_said(
    tmp_path: Path, row: TraceRow, model: ModelIdentity
):
    root = tmp_path / "out"
    ours = [
        *rows(row, 2, source="an olympiad | 2024", license="CC-BY-4.0"),
        row.model_copy(update={"unit_id": "f" * 32, "item_id": "i1", "source": "an olympiad | 2024", "sample_index": 1,
                               "license": "CC-BY-4.0"}),
        row.model_copy(update={"unit_id": "e" * 32, "item_id": "i9", "source": None, "license": None}),
    ]  # fmt: skip
    committed(root, ours, model)
    assert write_card(root)
    card = (root / CARD).read_text("utf-8")
    assert "| an olympiad \\| 2024 | CC-BY-4.0 | 2 |" in card and "| not said | not said | 1 |" in card
    assert "The licence of 1 expert solutions is not said" in card and "\nlicense:" not in card
    assert (
        "| traces | 4, of 8 tokens |" in card
        and "| all | | 3 |" in card
        and model.revision in card
        and "tau 0.8" in card
    )


def test_one_known_licence_is_said_as_hubs_spell_it(tmp_path: Path, row: TraceRow, model: ModelIdentity):
    committed(tmp_path, rows(row, 2, license="CC-BY-4.0"), model)
    assert write_card(tmp_path)
    assert DatasetCard.load(tmp_path / CARD).data.license == "cc-by-4.0"


def test_a_card_of_somebody_else_is_left_alone(tmp_path: Path, row: TraceRow, model: ModelIdentity, told: Told):
    committed(tmp_path, rows(row, 1), model)
    (tmp_path / CARD).write_text("# Mine\n")
    assert not write_card(tmp_path)
    assert (tmp_path / CARD).read_text() == "# Mine\n" and "was not written by dail" in told()


def test_a_damaged_manifest_is_told_of_and_does_not_hide_the_others(
    tmp_path: Path, row: TraceRow, model: ModelIdentity, told: Told
):
    root = tmp_path / "out"
    committed(root, rows(row, 1), model)
    committed(root, rows(row, 1, batch_id="broken"), model)
    path = root / manifest_key("broken", 1)
    path.write_text(path.read_text().replace('"tau": 0.8', '"tau": 0.7'))
    assert write_card(root)
    assert "broken" in told() and read(root, tmp_path) == [f"{0:032x}"]


def test_a_shard_that_is_gone_stops_the_card_and_not_the_run(
    tmp_path: Path, row: TraceRow, model: ModelIdentity, told: Told
):
    committed(tmp_path, rows(row, 1), model)
    next((tmp_path / "shards").rglob("*.parquet")).unlink()
    assert not write_card(tmp_path) and not (tmp_path / CARD).exists()
    assert "no data-set card: shard" in told()


@pytest.mark.parametrize("empty", [True, False])
def test_without_a_finished_batch_there_is_no_card(tmp_path: Path, empty: bool):
    if not empty:
        (tmp_path / "manifests" / "b").mkdir(parents=True)
        (tmp_path / "manifests" / "b" / "settings.json").write_text("{}")
    assert not write_card(tmp_path) and not (tmp_path / CARD).exists()
