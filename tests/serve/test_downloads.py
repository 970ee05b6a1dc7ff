"""What came of a batch, as files: a shard in parts, all traces as one Parquet file, a folder that a trainer reads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dail.serve import commands
from dail.synth.core.errors import ApiError
from dail.synth.core.http import Client
from dail.synth.schema.manifest import read_rows
from dail.synth.schema.shards import SCHEMA, decode_shard
from tests.bucket import Breaking
from tests.serve.conftest import items
from tests.serve.worker import FakeWorker


@pytest.fixture
def shard(api, post, worker):
    """The path of a batch's only shard, and its bytes."""
    batch = post(1)["id"]
    worker.run()
    path = f"/v1/batches/{batch}/shards/0"
    return path, api.get(path).content


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-999999999", 5, None),
     ("bytes=0-0", 0, 1), ("bytes=-999999999", 0, None)],
)  # fmt: skip
def test_a_part_of_a_shard(api, shard, wanted, first, last):
    path, data = shard
    got = api.get(path, headers={"Range": wanted})
    assert (got.status_code, got.content) == (206, data[first:last])
    begin = first % len(data)
    assert got.headers["content-range"] == f"bytes {begin}-{begin + len(got.content) - 1}/{len(data)}"
    assert got.headers["etag"] == api.get(path).headers["etag"] and got.headers["accept-ranges"] == "bytes"
    head = api.head(path, headers={"Range": wanted})
    assert (head.status_code, head.headers["content-length"], head.content) == (206, str(len(got.content)), b"")


@pytest.mark.parametrize(
    "wanted",
    ["bytes=0-1,4-5", "bytes=5-2", "items=0-1", "bytes=-", "bytes", "bytes=a-b", "bytes=" + "9" * 40 + "-", ""],
)
def test_what_is_no_range_is_answered_with_the_whole(api, shard, wanted):
    path, data = shard
    got = api.get(path, headers={"Range": wanted})
    assert (got.status_code, got.content) == (200, data)


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
def test_a_range_behind_the_end_is_416(api, shard, wanted):
    path, data = shard
    got = api.get(path, headers={"Range": wanted})
    assert (got.status_code, got.json()["code"]) == (416, "no_such_range")
    assert got.headers["content-range"] == f"bytes */{len(data)}"


def test_a_part_of_another_file_is_not_given(api, shard):
    path, data = shard
    for other in ('"another"', 'W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        got = api.get(path, headers={"Range": "bytes=5-", "If-Range": other})
        assert (got.status_code, got.content) == (200, data)
    tag = api.get(path).headers["etag"]
    assert api.get(path, headers={"Range": "bytes=5-", "If-Range": tag}).content == data[5:]


def test_all_traces_as_one_parquet_file(api, post, worker, monkeypatch):
    monkeypatch.setattr("dail.serve.rules.outputs._RESULTS_PAGE", 2)  # several row groups
    batch = post(5)["id"]
    (bad,) = worker.lease()
    worker.fail(bad, code="context_length_exceeded")
    worker.run()
    got = api.get(f"/v1/batches/{batch}/results?format=parquet")
    assert got.headers["content-type"] == "application/vnd.apache.parquet"
    assert f'filename="{batch}.parquet"' in got.headers["content-disposition"]
    rows = decode_shard(got.content, "results")
    lines = [json.loads(line) for line in api.get(f"/v1/batches/{batch}/results").text.splitlines()]
    traces = [(line["item_id"], line["trace"]["trace_ids"]) for line in lines if line["status"] == "succeeded"]
    assert [(row.item_id, list(row.trace_ids)) for row in rows] == traces and len(rows) == 4
    file = pq.ParquetFile(io.BytesIO(got.content))
    assert file.num_row_groups == 3 and file.schema_arrow.equals(SCHEMA)


def test_no_trace_is_a_file_without_rows(api, post):
    got = api.get(f"/v1/batches/{post(1)['id']}/results?format=parquet")
    assert pq.read_table(io.BytesIO(got.content)).num_rows == 0
    refused = api.get("/v1/batches/batch_x/results?format=csv")
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/query/format")


def test_a_damaged_shard_breaks_the_file_off_and_is_said_the_next_time(live, http, model, tmp_path):
    batch = http.post("/v1/batches", json={"items": items(2, answer=str(tmp_path))}).json()["id"]
    FakeWorker(http, model).run()
    (one, *_) = http.get(f"/v1/batches/{batch}/manifest").json()["shards"]
    (live.data_dir / "objects" / one["key"]).write_bytes(b"rot")
    with Client(live.url) as client:
        with pytest.raises(ApiError, match="broke off"):
            list(client.download(f"/v1/batches/{batch}/results?format=parquet"))
        with pytest.raises(ApiError, match=r"damaged_shard.*1 traces .* JSON lines"):
            list(client.download(f"/v1/batches/{batch}/results?format=parquet"))


@pytest.fixture
def ended(http, model, tmp_path) -> str:
    """A batch of three shards."""
    batch = http.post("/v1/batches", json={"items": items(3, answer=tmp_path.name)}).json()["id"]
    FakeWorker(http, model).run()
    return str(batch)


def test_a_folder_of_manifest_and_shards(dail, live, ended, tmp_path):
    out = tmp_path / "mine"
    done = dail("results", ended, "--api", live.url, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    manifest = Path(json.loads(done.stdout)["written"])
    assert manifest == out / "manifests" / ended / "v1.json" and "files: 3/3" in done.stderr
    assert {row.item_id for row in read_rows(manifest)} == {"i0", "i1", "i2"}
    (first, *_) = (out / "shards").rglob("*.parquet")
    first.write_bytes(b"rot")
    assert dail("results", ended, "--api", live.url, "--out", out).returncode == 0
    assert len(list(read_rows(manifest))) == 3


def test_a_copy_goes_on_where_it_broke_off(live, ended, tmp_path):
    with Breaking(live.url) as way, Client(way.url) as client:
        way.next = ["", "cut", "short", "lost"]  # of the manifest, and of the three first asked for shards
        written = commands._save(client, ended, tmp_path / "mine")
        assert len(list(read_rows(written))) == 3 and way.next == []
        assert len(way.seen) == 1 + 3 + 3 and sum(one.startswith("bytes=") for one in way.ranges) == 2
        before = len(way.seen)
        assert commands._save(client, ended, tmp_path / "mine") == written
        assert len(way.seen) == before + 1  # the manifest; nothing is copied twice


def test_a_copy_that_ends_in_the_middle_has_no_manifest_and_goes_on_later(live, ended, tmp_path, monkeypatch):
    monkeypatch.setattr("dail.synth.core.http._AGAIN_S", 0.01)
    monkeypatch.setattr("dail.synth.schema.mirror._AT_ONCE", 1)
    out = tmp_path / "mine"
    with Breaking(live.url) as way, Client(way.url) as client:
        way.next = ["", "", *["silent"] * 20]
        with pytest.raises(ApiError, match="broke off"):
            commands._save(client, ended, out)
        assert len(list(out.rglob("*.parquet"))) == 1 and not list(out.rglob("*.json"))
        way.next, before = [], len(way.seen)
        assert len(list(read_rows(commands._save(client, ended, out)))) == 3
        assert len(way.seen) == before + 3


def test_one_file_by_the_end_of_its_name(dail, live, ended, tmp_path):
    assert dail("results", ended, "--api", live.url, "--out", tmp_path / "all.parquet").returncode == 0
    assert pq.read_table(tmp_path / "all.parquet").num_rows == 3
    refused = dail("results", ended, "--api", live.url, "--out", tmp_path / "all.csv")
    assert refused.returncode == 2 and "wanted NAME.jsonl, NAME.parquet or a folder" in refused.stderr
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "within", "/dev/null"):
        refused = dail("results", ended, "--api", live.url, "--out", out)
        assert refused.returncode == 2 and "is no folder; wanted NAME.jsonl, NAME.parquet or a" in refused.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_batch_that_goes_on_has_no_folder_yet(dail, live, http, tmp_path):
    batch = http.post("/v1/batches", json={"items": items(1, answer=str(tmp_path))}).json()["id"]
    refused = dail("results", batch, "--api", live.url, "--out", tmp_path / "mine")
    assert refused.returncode == 1 and "not_finalized" in refused.stderr and not (tmp_path / "mine").exists()
    http.post(f"/v1/batches/{batch}/cancel")
