"""Large batches: JSON lines, gzip, Parquet, and what is none of these."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import random
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dail.serve import parquet_body, request_body
from dail.serve.request_body import BODY_BYTES
from dail.synth.core import http as client_module
from dail.synth.core.http import Client
from tests.serve.conftest import items

PARQUET = {"Content-Type": "application/vnd.apache.parquet"}
LINES = {"Content-Type": "application/x-ndjson"}
GZIP = {"Content-Encoding": "gzip"}
JSON = {"Content-Type": "application/json"}


def lines(*values: object) -> bytes:
    return b"\n".join(json.dumps(value).encode() for value in values) + b"\n"


def test_a_batch_is_the_same_however_it_is_sent(api):
    settings = {"model": "tiny", "synthesis": {"samples_per_item": 2}, "metadata": {"owner": "ana"}}
    whole = json.dumps({**settings, "items": items(3)}).encode()
    by_line = lines(settings, *items(3))
    sent = [
        (whole, JSON),
        (gzip.compress(whole), JSON | GZIP),
        (by_line, LINES),
        (gzip.compress(by_line), LINES | GZIP),
    ]
    replies = [api.post("/v1/batches", content=body, headers=headers) for body, headers in sent]
    assert [reply.status_code for reply in replies] == [201, 200, 200, 200]
    assert len({reply.json()["id"] for reply in replies}) == 1


def parquet(table: pa.Table, settings: object = None, **options: Any) -> bytes:
    file = io.BytesIO()
    kept = {} if settings is None else {"dail.batch": json.dumps(settings, indent=1)}
    pq.write_table(table.replace_schema_metadata(kept), file, **options)
    return file.getvalue()


def test_parquet_is_the_same_batch_too(api):
    settings = {"model": "tiny", "synthesis": {"samples_per_item": 2}}
    rows = [
        {"id": "c", "problem": "2?", "solution": "2.", "answer": "2", "metadata": {"k": 1, "deep": [1.5]}},
        *items(2),  # without an answer and metadata, of which a table has a null then
    ]
    whole = api.post("/v1/batches", json={**settings, "items": rows}).json()["id"]
    body = parquet(pa.Table.from_pylist(rows), settings)
    for sent, headers in ((body, PARQUET), (gzip.compress(body), PARQUET | GZIP)):
        reply = api.post("/v1/batches", content=sent, headers=headers)
        assert (reply.status_code, reply.json()["id"]) == (200, whole)
    maps = pa.table(
        {"problem": ["1?"], "solution": ["1."], "metadata": pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string()))}
    )
    reply = api.post("/v1/batches", content=parquet(maps), headers=PARQUET)
    assert reply.status_code == 201


PLAIN = {"problem": ["1?", "2?"], "solution": ["1.", "2."]}
TEXTS = pa.map_(pa.string(), pa.string())


def table(**more: Any) -> bytes:
    """Two items and what else is in them."""
    return parquet(pa.table({**PLAIN, **more}))


WRONG: dict[str, tuple[bytes, int, str, str]] = {
    # name: (body, status, code, pointer of the first fault)
    "nothing": (b"", 400, "bad_parquet", ""),
    "JSON": (b'{"items": []}', 400, "bad_parquet", ""),
    "magic alone": (b"PAR1" + b"x" * 400 + b"PAR1", 400, "bad_parquet", ""),
    "cut": (table()[:-40] + b"PAR1", 400, "bad_parquet", ""),
    "no columns": (parquet(pa.table({})), 422, "invalid_input", "/items"),
    "no rows": (parquet(pa.table(PLAIN).slice(0, 0)), 422, "invalid_input", "/items"),
    "blank": (table(solution=["1.", " "]), 422, "invalid_input", "/items/1/solution"),
    "a null": (table(solution=["1.", None]), 422, "invalid_input", "/items/1/solution"),
    "a column of its own": (table(mine=[1, 2]), 422, "invalid_input", "/items/0/mine"),
    "bytes": (table(answer=[b"1", b"2"]), 400, "bad_parquet", "/items/0/answer"),
    "bytes in a list": (table(metadata=[{"l": [b"1"]}, None]), 400, "bad_parquet", "/items/0/metadata"),
    "a time": (table(**{"a/b": [dt.datetime(2026, 1, 1)] * 2}), 400, "bad_parquet", "/items/0/a~1b"),
    "a day beyond all calendars": (
        table(metadata=pa.array([2**31 - 1] * 2, pa.int32()).cast(pa.date32())),
        400, "bad_parquet", "/items/0/metadata",
    ),
    "a zone that is a path": (
        table(metadata=pa.array([1, 2]).cast(pa.timestamp("us", "../../etc/passwd"))),
        400, "bad_parquet", "/items/0/metadata",
    ),
    "a map of numbers": (
        table(metadata=pa.array([[(1, "v")], []], pa.map_(pa.int64(), pa.string()))),
        400, "bad_parquet", "/items/0/metadata",
    ),
    "a map with a name twice": (
        table(metadata=pa.array([[("k", "v"), ("k", "w")], []], TEXTS)), 400, "bad_parquet", "/items/0"
    ),
    "a struct with a name twice": (
        table(metadata=pa.StructArray.from_arrays([pa.array([1, 2])] * 2, ["a", "a"])), 400, "bad_parquet", "/items/0"
    ),
    "no UTF-8": (table(answer=pa.array([b"1", b"\xed\xa0\x80"]).view(pa.string())), 400, "bad_parquet", "/items/0"),
    "NaN": (table(answer=[1.0, float("nan")]), 400, "bad_parquet", "/items/1"),
    "a number too large": (
        table(metadata=pa.array([{"a": 2**64 - 1}] * 2, pa.struct([("a", pa.uint64())]))),
        400, "invalid_json", "/items/0/metadata/a",
    ),
    "settings that are no object": (parquet(pa.table(PLAIN), [1]), 400, "bad_lines", ""),
    "a setting that is none": (parquet(pa.table(PLAIN), {"thau": 1}), 422, "invalid_input", "/thau"),
    "items among the settings": (parquet(pa.table(PLAIN), {"items": []}), 400, "invalid_json", ""),
    "many columns": (parquet(pa.table({f"c{n}": [1] for n in range(300)})), 400, "bad_parquet", ""),
    "too many rows": (
        parquet(pa.table({name: [f"{n}" for n in range(10_001)] for name in PLAIN})), 422, "invalid_input", "/items"
    ),
    "rows without end": (
        parquet(pa.table({"problem": pa.nulls(20_000_000, pa.string())})), 422, "invalid_input", "/items"
    ),
    "too many values": (
        parquet(pa.table({"metadata": [[None] * 9000] * 60}), compression="zstd"), 400, "invalid_json", ""
    ),
    "a bomb of rows": (
        parquet(pa.table({"problem": pa.array(["x" * (1 << 20)] * 2000).dictionary_encode()}), compression="zstd"),
        413, "body_too_large", "",
    ),
    "a bomb in one row": (
        parquet(pa.table({"problem": ["x" * (600 << 20)]}), compression="zstd"), 413, "body_too_large", ""
    ),
}  # fmt: skip


def test_the_bombs_are_small():
    assert len(WRONG["a bomb of rows"][0]) < 1000 and len(WRONG["rows without end"][0]) < 100_000
    assert len(WRONG["a bomb in one row"][0]) < 100_000


@pytest.mark.parametrize("name", WRONG)
def test_parquet_that_is_wrong_is_refused_as_lines_are(api, name):
    body, status, code, pointer = WRONG[name]
    refused = api.post("/v1/batches", content=body, headers=PARQUET)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (status, code), problem
    assert [fault["pointer"] for fault in problem["errors"]][:1] == ([pointer] if problem["errors"] else [])
    assert "etc" not in refused.text
    assert api.get("/v1/batches").json()["data"] == []


@pytest.fixture
def unpacking(api, monkeypatch):
    """Posts Parquet to an API whose process that unpacks does something else; its status and code."""

    def post(command: str, body: bytes = table()) -> tuple[int, str]:
        monkeypatch.setattr(parquet_body, "_COMMAND", command)
        refused = api.post("/v1/batches", content=body, headers=PARQUET)
        return refused.status_code, refused.json()["code"]

    return post


def test_what_takes_too_long_to_unpack_is_ended(unpacking, monkeypatch):
    monkeypatch.setattr(parquet_body, "TIME_S", 0.1)
    assert unpacking("import time; time.sleep(600)") == (413, "body_too_large")


def test_a_process_that_says_too_much_is_ended(unpacking, monkeypatch):
    monkeypatch.setattr(request_body, "BODY_BYTES", 1 << 20)
    assert unpacking("while True: print('{}' * 10_000)") == (413, "body_too_large")


def test_a_file_that_kills_the_process_is_one_that_cannot_be_read(unpacking):
    assert unpacking("import os; os.kill(os.getpid(), 11)") == (400, "bad_parquet")


def test_where_no_process_can_be_started_it_is_said_for_now(unpacking, monkeypatch):
    large = table(answer=["x" * (4 << 20), "1"])  # more than a pipe holds: it breaks while the file is written
    assert unpacking("import nothing_of_that_name", large) == (503, "busy")
    monkeypatch.setattr(parquet_body.sys, "executable", "/nowhere/python")
    assert unpacking("") == (503, "busy")


def test_what_is_unpacked_keeps_no_others_waiting(api, monkeypatch, tmp_path):
    """Two at once, and JSON goes by."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    begun.mkdir()
    waits = (
        f"import os, time; open(f'{begun}/{{os.getpid()}}', 'w').close()\n"
        f"while not os.path.exists('{go}'): time.sleep(0.01)\n"
    )
    monkeypatch.setattr(parquet_body, "_COMMAND", waits + parquet_body._COMMAND)
    bodies = [table(id=[f"{n}", "b"]) for n in range(6)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        sent = [pool.submit(api.post, "/v1/batches", content=body, headers=PARQUET) for body in bodies]
        until = time.monotonic() + 60
        while len(list(begun.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        other = api.post("/v1/batches", json={"items": items(1)}).status_code
        at_once = len(list(begun.iterdir()))
        go.touch()
        assert [one.result().status_code for one in sent] == [201] * 6
    assert (other, at_once) == (201, 2)


def test_the_process_that_unpacks_has_no_secrets(monkeypatch):
    monkeypatch.setenv("DAIL_TOKEN", "canary-of-the-environment")
    monkeypatch.setattr(parquet_body, "_COMMAND", "import os, sys; sys.stdin.buffer.read(); print(dict(os.environ))")
    said = parquet_body.lines_of(table(), BODY_BYTES, 10, 100).decode()
    assert "LC_ALL" in said and "canary" not in said


def test_a_file_as_large_as_a_body_may_be_is_within_the_bounds():
    text = random.Random(1).randbytes(30 << 20).hex()  # that nothing packs
    rows = pa.table({"problem": ["1?"] * 40, "solution": [text[n << 20 : n + 1 << 20] for n in range(40)]})
    read = parquet_body.lines_of(parquet(rows), BODY_BYTES, 10_000, 500_000).split(b"\n")
    assert len(read) == 41 and json.loads(read[40])["solution"] == rows["solution"][39].as_py()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PLAIN_VALUE = st.one_of(TEXT, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"problem": TEXT, "solution": TEXT},
        optional={"answer": TEXT, "metadata": st.dictionaries(TEXT, PLAIN_VALUE, min_size=1, max_size=3)},
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=6, deadline=None)
@given(ROWS)
def test_rows_are_the_lines_that_they_were(rows):
    columns = {name: [row.get(name) for row in rows] for name in ("problem", "solution", "answer")}
    kinds: dict[str, pa.DataType] = {}
    for row in rows:  # a struct has one type for each name, so each row has names of its own
        row["metadata"] = {f"{len(kinds)}{name}": one for name, one in row.get("metadata", {"": 1}).items()}
        kinds |= {name: pa.scalar(one).type for name, one in row["metadata"].items()}
    fields = pa.struct(list(kinds.items()))
    columns["metadata"] = pa.array([row["metadata"] for row in rows], fields)
    _, *read = parquet_body.lines_of(parquet(pa.table(columns)), BODY_BYTES, 10_000, 500_000).split(b"\n")
    assert [json.loads(line) for line in read] == rows


def test_lines_without_settings_take_the_defaults(api):
    reply = api.post("/v1/batches", content=b"{}\n\n" + lines(*items(2)) + b"\n\n", headers=LINES)
    assert reply.status_code == 201 and reply.json()["request_counts"]["total"] == 2


def test_a_fault_in_a_line_is_told_by_its_item(api):
    reply = api.post(
        "/v1/batches", content=lines({}, *items(2), {"id": "x", "problem": "1?", "solution": " "}), headers=LINES
    )
    assert reply.status_code == 422 and reply.json()["errors"][0]["pointer"] == "/items/2/solution"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_lines"),
        (b"[1]\n", "bad_lines"),
        (b'{"id": "a", "problem": "p?", "solution": "s."}\n{"id": "b", "problem": "p?", "solution": "s."}\n', None),
        (b'{"items": []}\n{"id": "a", "problem": "1?", "solution": "s."}\n', None),
        (b'{}\n{"id": "a", "problem": "1?", "solution": "s."}, {"id": "b"}\n', "bad_lines"),
        (b'{}\n{"id": "a", "problem": "1?", "solution": "s."}], "synthesis": {"tau": 0.1}, "more": [{}\n', None),
        (b'{}\n{"id": "a", "problem": "1?",\n"solution": "s."}\n', None),
        (b'{"synthesis": {"tau": 0.5}\n{"id": "a", "problem": "1?", "solution": "s."}\n', None),
    ],
)  # fmt: skip
def test_lines_that_are_none_are_refused(api, body, code):
    reply = api.post("/v1/batches", content=body, headers=LINES)
    assert 400 <= reply.status_code < 500, reply.text
    assert code is None or reply.json()["code"] == code
    assert api.get("/v1/batches").json()["data"] == []


WHOLE = gzip.compress(json.dumps({"items": items(1)}).encode(), mtime=0)  # the same in every process of the tests


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"no gzip", JSON | GZIP, 400, "bad_gzip"),
        (WHOLE[:-5], JSON | GZIP, 400, "bad_gzip"),
        (WHOLE[:20] + b"\x00" + WHOLE[21:], JSON | GZIP, 400, "bad_gzip"),
        (WHOLE + WHOLE, JSON | GZIP, 400, "bad_gzip"),
        (WHOLE + b"x", JSON | GZIP, 400, "bad_gzip"),
        (zlib.compress(b"{}"), JSON | GZIP, 400, "bad_gzip"),
        (b"", JSON | GZIP, 400, "bad_gzip"),
        (WHOLE, JSON | {"Content-Encoding": "br"}, 415, "content_encoding"),
        (WHOLE, JSON | {"Content-Encoding": "gzip, gzip"}, 415, "content_encoding"),
        (WHOLE, {"Content-Type": "application/gzip"}, 415, "content_type"),
    ],
    ids=range(10),
)
def test_what_cannot_be_unpacked_is_refused(api, body, headers, status, code):
    reply = api.post("/v1/batches", content=body, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_a_bomb_is_stopped_while_it_is_unpacked(api):
    bomb = gzip.compress(b'{"items": [' + b" " * (3 * BODY_BYTES), 6)
    assert len(bomb) < BODY_BYTES // 100
    tracemalloc.start()
    try:
        reply = api.post("/v1/batches", content=bomb, headers=JSON | GZIP)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
    assert most < 2 * BODY_BYTES


def test_workers_bodies_are_not_unpacked(api):
    reply = api.post("/internal/v1/leases", content=gzip.compress(b"{}"), headers=JSON | GZIP)
    assert reply.json()["code"] == "content_encoding"


def test_a_client_packs_what_is_large(http, live, monkeypatch):
    monkeypatch.setattr(client_module, "_PACKED_FROM", 10)
    packed = []
    compress = gzip.compress
    monkeypatch.setattr(client_module.gzip, "compress", lambda *of: packed.append(of) or compress(*of))
    with Client(live.url) as client:
        batch = client.post("/v1/batches", {"items": items(2), "run_label": "packed"})
    assert packed and batch["request_counts"]["total"] == 2
