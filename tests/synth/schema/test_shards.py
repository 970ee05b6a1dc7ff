"""The Parquet shard, read back by us, by plain pyarrow, and after damage."""

from __future__ import annotations

import datetime as dt
import io
import random
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dail.synth.core.errors import IntegrityError
from dail.synth.core.files import Objects, sha256
from dail.synth.schema.shards import (
    SCHEMA,
    SCHEMA_VERSION,
    NamedContext,
    ShardFile,
    TraceMessage,
    TraceRow,
    decode_shard,
    encode_shard,
)
from tests.synth.schema.conftest import ROW

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
PER_TOKEN = st.lists(st.none() | st.floats(-(2.0**100), 1, width=32), max_size=5).map(tuple)
MESSAGES = st.lists(st.builds(TraceMessage, role=TEXT, content=TEXT), max_size=2).map(tuple)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys((field.name for field in SCHEMA if field.type == pa.string()), TEXT),
    **dict.fromkeys(("answer", "source", "license", "student_revision"), st.none() | TEXT),
    **dict.fromkeys(("student_prompt_ids", "privileged_prompt_ids", "negative_prompt_ids", "trace_ids"), IDS),
    **dict.fromkeys(("student_prob", "student_logprob", "privileged_logprob"), PER_TOKEN),
    **dict.fromkeys(("prompt", "completion"), MESSAGES),
    **dict.fromkeys(("tau", "temperature", "top_p", "shown_share"), FLOAT),
    **dict.fromkeys(("sample_index", "max_tokens", "acceptance_k", "top_k"), st.integers(0, 2**31 - 1)),
    "contexts": st.lists(st.builds(NamedContext, name=TEXT, ids=IDS), max_size=3).map(tuple),
    **dict.fromkeys(("other_item", "other_solution", "wrong_answer"), st.none() | TEXT),
    "kind": st.sampled_from(["proof", "verifiable"]),
    "token_texts": st.lists(TEXT, max_size=5).map(tuple),
    "rejected_texts": st.lists(st.none() | TEXT, max_size=5).map(tuple),
    "rejected_ids": st.lists(st.none() | st.integers(0, 2**31 - 1), max_size=5).map(tuple),
    **dict.fromkeys(("waypoints", "stop"), st.lists(TEXT, max_size=3).map(tuple)),
    "seed": st.integers(0, 2**63 - 1),
    "thinking": st.none() | st.booleans(),
    "created_at": st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC)),
}
ROWS = st.builds(TraceRow, **COLUMNS)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, max_size=3))
def test_any_rows_come_back_as_they_were(rows: list[TraceRow]):
    assert decode_shard(encode_shard(rows), "s") == rows


VERSION_6 = """
unit_id: string not null
batch_id: string not null
item_id: string not null
sample_index: int32 not null
problem: string not null
solution: string not null
answer: string
answer_found: string not null
kind: string not null
waypoints: list<element: string not null> not null
privileged: string
dropped: list<element: string not null> not null
shown: string not null
shown_share: double not null
waypoints_from: string not null
other_item: string
other_solution: string
wrong_answer: string
source: string
license: string
metadata: string not null
student_prompt_ids: list<element: int32 not null> not null
privileged_prompt_ids: list<element: int32 not null> not null
negative_prompt_ids: list<element: int32 not null> not null
contexts: list<element: struct<name: string not null, ids: list<element: int32 not null> not null> not null> not null
trace_ids: list<element: int32 not null> not null
student_prob: list<element: float> not null
rejected_ids: list<element: int32> not null
student_logprob: list<element: float> not null
privileged_logprob: list<element: float> not null
trace_text: string not null
token_texts: list<element: string not null> not null
rejected_texts: list<element: string> not null
prompt: list<item: struct<role: string not null, content: string not null>> not null
completion: list<item: struct<role: string not null, content: string not null>> not null
finish_reason: string not null
truncated: bool not null
method: string not null
strategy: string not null
prompts: string not null
extractor: string not null
acceptance: string not null
tau: double not null
acceptance_k: int32 not null
temperature: double not null
probability_space: string not null
top_p: double not null
top_k: int32 not null
stop: list<element: string not null> not null
proposer: string not null
proposals: int32 not null
greedy_proposals: bool not null
suppressed_ids: list<element: int32 not null> not null
max_tokens: int32 not null
thinking: bool
template_args: string not null
date: string
opening: string not null
drop_empty_thought: bool not null
probe_hash: string not null
seed: int64 not null
model_name: string not null
model_revision: string not null
student_revision: string
privileged_revision: string
tokenizer_hash: string not null
template_hash: string not null
config_fingerprint: string not null
engine: string not null
tool_version: string not null
created_at: timestamp[us, tz=UTC] not null
"""


def test_other_columns_take_another_schema_version():
    columns = [f"{column.name}: {column.type}{'' if column.nullable else ' not null'}" for column in SCHEMA]
    assert (SCHEMA_VERSION, columns) == (6, VERSION_6.split("\n")[1:-1])


def test_plain_pyarrow_reads_flat_columns_with_known_types(row: TraceRow):
    table = pq.read_table(io.BytesIO(encode_shard([row])))
    assert table.schema.equals(SCHEMA)
    for name in ("student_prompt_ids", "privileged_prompt_ids", "negative_prompt_ids", "trace_ids"):
        assert table.schema.field(name).type.value_type == pa.int32()
    assert table.column("trace_ids").combine_chunks().flatten().to_pylist() == [5, 6]
    assert table.column("student_prob").to_pylist() == [[1.0, None]]
    assert table.column("completion").to_pylist() == [[{"role": "assistant", "content": "so"}]]


def test_a_shard_says_its_schema_version_in_the_file_metadata(row: TraceRow):
    assert pq.read_metadata(io.BytesIO(encode_shard([row]))).metadata[b"dail.schema_version"] == b"6"


def test_equal_rows_make_equal_bytes(row: TraceRow):
    assert encode_shard([row]) == encode_shard([row])


def _shard(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("metadata", "got"),
    [
        ({"dail.schema_version": "1"}, "1"),
        ({"dail.schema_version": "4"}, "4"),
        ({}, "none"),
        ({"dail.schema_version": ""}, ""),
    ],
)
def test_another_schema_version_is_refused_with_what_to_do(metadata: dict[str, str], got: str):
    table = pa.Table.from_pylist([ROW], schema=SCHEMA).replace_schema_metadata(metadata)
    why = (
        f"shard s: schema version {got}, this build reads 5 and 6; draw the traces again, or read them with the release"
    )
    with pytest.raises(IntegrityError, match=why):
        decode_shard(_shard(table), "s")


def test_a_shard_of_version_2_is_refused_by_its_version_not_by_its_columns():
    names = ["trace_source" if name == "student_prob" else name for name in SCHEMA.names]
    table = pa.Table.from_pylist([ROW], schema=SCHEMA).rename_columns(names)
    with pytest.raises(IntegrityError, match="shard s: schema version 2, this build reads 5 and 6"):
        decode_shard(_shard(table.replace_schema_metadata({"dail.schema_version": "2"})), "s")


def _as_version_5(*rows: dict[str, Any]) -> pa.Table:
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA).drop_columns(["token_texts", "rejected_texts"])
    return table.replace_schema_metadata({"dail.schema_version": "5"})


def test_a_shard_of_version_5_is_read_as_one_whose_tokens_have_no_texts(row: TraceRow):
    old = ShardFile(_shard(_as_version_5(ROW)), "s")
    (read,) = old.rows(0)
    assert read == row.model_copy(update={"token_texts": (), "rejected_texts": ()})
    assert old.table(0).schema.equals(SCHEMA)
    assert old.columns(0, ["rejected_texts", "tau"]) == [{"rejected_texts": [], "tau": 0.8}]
    assert old.columns(0, ["tau"]) == [{"tau": 0.8}]


def test_a_shard_of_version_5_with_columns_of_another_is_refused():
    table = _as_version_5(ROW).drop_columns(["tau"])
    with pytest.raises(IntegrityError, match=r"columns of schema version 5: \['tau'\]"):
        decode_shard(_shard(table), "s")


def test_a_version_that_is_no_text_is_refused():
    table = pa.Table.from_pylist([ROW], schema=SCHEMA).replace_schema_metadata({b"dail.schema_version": b"\xff"})
    with pytest.raises(IntegrityError, match="shard s is not readable"):
        decode_shard(_shard(table), "s")


def test_missing_and_foreign_columns_are_named():
    table = pa.Table.from_pylist([ROW], schema=SCHEMA).drop_columns(["tau"]).append_column("extra", [["x"]])
    with pytest.raises(IntegrityError, match=r"\['extra', 'tau'\]"):
        decode_shard(_shard(table), "s")


def test_a_column_of_another_type_is_refused():
    schema = SCHEMA.set(SCHEMA.get_field_index("trace_ids"), pa.field("trace_ids", pa.list_(pa.int64()), False))
    with pytest.raises(IntegrityError, match="column types"):
        decode_shard(_shard(pa.Table.from_pylist([ROW], schema=schema)), "s")


def test_a_row_that_breaks_the_format_is_refused():
    table = pa.Table.from_pylist([{**ROW, "kind": "essay"}], schema=SCHEMA)
    with pytest.raises(IntegrityError, match="shard s breaks the format: "):
        decode_shard(_shard(table), "s")


def test_a_shard_cut_at_any_sixteenth_is_refused(row: TraceRow):
    data = encode_shard([row])
    for part in range(16):
        with pytest.raises(IntegrityError, match="shard s is not readable Parquet"):
            decode_shard(data[: len(data) * part // 16], "s")


def test_a_flipped_byte_is_refused_or_changes_nothing_that_is_read(row: TraceRow):
    data = encode_shard([row])
    outcomes = {"refused": 0, "unread": 0}
    for place in random.Random(0).sample(range(len(data)), 800):
        flipped = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        try:
            assert decode_shard(flipped, "s") == [row], f"byte {place}"
            outcomes["unread"] += 1
        except IntegrityError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 500


def test_a_stored_shard_with_any_flipped_byte_is_refused_by_its_hash(row: TraceRow, tmp_path: Any):
    data, objects = encode_shard([row]), Objects(tmp_path)
    objects.put("s", data)
    for place in range(0, len(data), 50):
        objects.path("s").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(IntegrityError, match="damaged"):
            objects.get("s", size=len(data), digest=sha256(data))


def test_reading_shards_and_items_starts_no_thread(tmp_path: Any):
    """Arrow's threads (26.0) end every fifth process that ends soon after it read, with SIGABRT, on a busy machine."""
    pq.write_table(pa.table({"problem": ["1 + 1?"], "solution": ["2"]}), tmp_path / "items.parquet")
    (tmp_path / "shard.parquet").write_bytes(encode_shard([TraceRow.model_validate(ROW)]))
    code = f"""
import os
from pathlib import Path
from dail.synth.data.reader import load_items
from dail.synth.schema.shards import decode_shard
before = len(os.listdir("/proc/self/task"))
load_items(Path({str(tmp_path / "items.parquet")!r}))
decode_shard(Path({str(tmp_path / "shard.parquet")!r}).read_bytes(), "shard")
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("0\n", "")
