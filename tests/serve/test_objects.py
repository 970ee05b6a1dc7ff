"""Objects without a shared disk: an API on a bucket, and workers that put their shards there or through the API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.settings import Settings
from dail.synth.core import objects as objects_module
from dail.synth.core.errors import StorageError
from dail.synth.core.files import Objects, sha256
from dail.synth.core.objects import open_objects
from dail.synth.run.unit_source import Fenced, HttpSource
from dail.synth.run.uploads import Uploads
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import encode_shard
from dail.synth.schema.units import Failure, Unit, shard_key
from tests.bucket import SECRET, Breaking
from tests.serve.conftest import Ended, LiveApi, items, start_api
from tests.serve.worker import FakeWorker, trace_row


def on_bucket(settings: Settings, place: str) -> Settings:
    return settings.model_copy(update={"objects": place})


@pytest.fixture
def bucket_api(settings: Settings, s3_place: str) -> Iterator[TestClient]:
    with TestClient(create_app(on_bucket(settings, s3_place)), "http://127.0.0.1") as client:
        yield client


def ended(api: Any, worker: FakeWorker, count: int = 3) -> str:
    batch = api.post("/v1/batches", json={"items": items(count)}).json()["id"]
    worker.run()
    assert api.get(f"/v1/batches/{batch}").json()["status"] == "completed"
    return str(batch)


def test_a_batch_runs_from_end_to_end_on_a_bucket(bucket_api: TestClient, model: ModelIdentity, s3_place: str):
    worker = FakeWorker(bucket_api, model)
    batch = ended(bucket_api, worker)
    assert worker.objects.url == s3_place
    lines = bucket_api.get(f"/v1/batches/{batch}/results").text.splitlines()
    assert len(lines) == 3 and all('"succeeded"' in line for line in lines)
    manifest = bucket_api.get(f"/v1/batches/{batch}/manifest").json()
    keys = {shard["key"] for shard in manifest["shards"]}
    there = {one.key for one in open_objects(s3_place).listed() if not one.key.startswith("_dail")}
    assert there == keys | {f"manifests/{batch}/v1.json"}
    assert bucket_api.get(f"/v1/batches/{batch}/shards").json()["output_root"] == s3_place
    assert bucket_api.get("/readyz").json()["checks"]["objects"]["ok"]


def test_a_deleted_batchs_objects_leave_the_bucket(
    bucket_api: TestClient, model: ModelIdentity, s3_place: str, monkeypatch: pytest.MonkeyPatch
):
    batch = ended(bucket_api, FakeWorker(bucket_api, model))
    monkeypatch.setattr("dail.serve.rules.ending.TOMBSTONE_S", -1)
    assert bucket_api.delete(f"/v1/batches/{batch}").status_code == 204
    for _ in range(3):
        bucket_api.app.state.service.ending.sweep()  # type: ignore[attr-defined]
    assert [one.key for one in open_objects(s3_place).listed()] == ["_dail/place"]


def test_a_damaged_object_of_a_bucket_is_told_by_its_name(bucket_api: TestClient, model: ModelIdentity, s3_place: str):
    worker = FakeWorker(bucket_api, model)
    batch = ended(bucket_api, worker, 1)
    (shard,) = bucket_api.get(f"/v1/batches/{batch}/shards").json()["data"]
    worker.objects.drop(shard["key"])
    (line,) = bucket_api.get(f"/v1/batches/{batch}/results").text.splitlines()
    assert '"damaged_shard"' in line and f"{s3_place}/{shard['key']}" in line


def test_a_commit_while_the_bucket_is_away_is_503_and_the_next_one_counts(
    settings: Settings, s3_place: str, way: Breaking, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(objects_module, "RETRY_S", 0.3)
    with TestClient(create_app(on_bucket(settings, s3_place)), "http://127.0.0.1") as api:
        batch = api.post("/v1/batches", json={"items": items(1)}).json()["id"]
        worker = FakeWorker(api, model)
        (unit,) = worker.lease()
        shard = worker.write(unit)
        way.next = ["503"] * 100
        refused = worker.commit(unit, shard)
        assert (refused.status_code, refused.json()["code"]) == (503, "objects_away")
        ready = api.get("/readyz")
        assert ready.status_code == 503 and "answered 503" in ready.json()["checks"]["objects"]["detail"]
        assert refused.headers["retry-after"] and SECRET not in refused.text
        way.next = []
        assert worker.commit(unit, shard).status_code == 204
        assert api.get(f"/v1/batches/{batch}").json()["status"] == "completed"


def test_a_batch_ends_once_a_bucket_that_was_away_at_its_end_is_back(
    settings: Settings, s3_place: str, way: Breaking, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(objects_module, "RETRY_S", 0.3)
    with TestClient(create_app(on_bucket(settings, s3_place)), "http://127.0.0.1") as api:
        batch = api.post("/v1/batches", json={"items": items(1)}).json()["id"]
        worker = FakeWorker(api, model)
        (unit,) = worker.lease()
        shard = worker.write(unit)
        way.methods, way.next = ("PUT",), ["503"] * 100
        assert worker.commit(unit, shard).status_code == 204
        found = api.get(f"/v1/batches/{batch}").json()
        assert found["status"] == "finalizing" and "answered 503" in found["ending_error"]
        way.next = []
        api.app.state.service.ending.finish(batch)  # type: ignore[attr-defined]
        assert api.get(f"/v1/batches/{batch}").json()["status"] == "completed"


def uploaded(api: Any, key: str, data: bytes, **headers: str) -> Any:
    named = {"Content-Type": "application/octet-stream", "x-dail-sha256": sha256(data), **headers}
    return api.put(f"/internal/v1/objects/{key}", content=data, headers=named)


@pytest.fixture
def unit(api: TestClient, worker: FakeWorker, post: Any) -> Unit:
    post(1)
    (unit,) = worker.lease()
    return unit


def test_a_shard_goes_through_the_api_and_is_committed(api: TestClient, worker: FakeWorker, unit: Unit, tmp_path: Path):
    there, worker.objects = worker.objects, Objects(tmp_path / "elsewhere")
    shard = worker.write(unit)
    data = worker.objects.read(shard.key)
    refused = worker.commit(unit, shard)
    assert refused.status_code == 422 and f"PUT it to /internal/v1/objects/{shard.key}" in refused.text
    assert [uploaded(api, shard.key, data).status_code for _ in range(2)] == [204, 204]
    assert there.read(shard.key) == data
    assert worker.commit(unit, shard).status_code == 204


@pytest.mark.parametrize(
    "key",
    [
        "manifests/{batch}/v1.json",
        "manifests/{batch}/{digest}.parquet",
        "_dail/place",
        "shards/{batch}/{digest}.json",
        "shards/{batch}/0123456789abcdef.parquet",
        "shards/{batch}/../../../{digest}.parquet",
        "shards/{batch}/%2e%2e/{digest}.parquet",
        "shards/{batch}/a/b/c/{digest}.parquet",
        "/etc/{digest}.parquet",
        "s3://bucket/{digest}.parquet",
    ],
)
def test_nothing_but_a_shard_under_its_own_digest_is_taken(api: TestClient, worker: FakeWorker, unit: Unit, key: str):
    data = b"whatever"
    before = {one.key for one in worker.objects.listed()}
    reply = uploaded(api, key.format(batch=unit.batch_id, digest=sha256(data)[:16]), data)
    assert reply.status_code in (404, 422), reply.text
    assert {one.key for one in worker.objects.listed()} == before


def test_an_upload_is_of_a_batch_that_is_there_whole_bounded_and_never_over_other_bytes(
    api: TestClient, worker: FakeWorker, unit: Unit, monkeypatch: pytest.MonkeyPatch
):
    data = encode_shard([trace_row(unit)])
    key = shard_key(unit.batch_id, sha256(data))
    assert uploaded(api, key.replace(unit.batch_id, "batch_none"), data).status_code == 404
    assert uploaded(api, key, data[:-1], **{"x-dail-sha256": sha256(data)}).status_code == 422
    assert uploaded(api, key, data, **{"x-dail-sha256": "short"}).status_code == 422
    assert uploaded(api, key, data, **{"Content-Type": "application/json"}).status_code == 415
    worker.objects.put(key, b"rot")
    taken = uploaded(api, key, data)
    assert (taken.status_code, taken.json()["code"]) == (409, "object_exists")
    monkeypatch.setattr("dail.serve.request_body.BODY_BYTES", 100)
    assert uploaded(api, key, data).status_code == 413


def test_a_worker_elsewhere_finds_out_and_goes_through_the_api(
    live: LiveApi, model: ModelIdentity, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async def work() -> None:
        async with httpx.AsyncClient(base_url=f"{live.url}/internal/v1/", trust_env=False, timeout=30) as client:
            await client.post(f"{live.url}/v1/batches", json={"items": items(1, answer="elsewhere")})
            source = HttpSource(client, "elsewhere", model)
            reply = await source.lease(1)
            (unit,) = reply.units
            uploads, data = Uploads(source), encode_shard([trace_row(unit)])
            # a folder of the same name on another machine: empty, or with a mark of its own
            await uploads.look(reply.model_copy(update={"output_root": str(tmp_path)}))
            key = shard_key(unit.batch_id, sha256(data))
            await uploads.put(unit, key, data)
            assert Objects(Path(reply.output_root)).read(key) == data
            assert not list(Objects(tmp_path).listed())
            await uploads.look(reply)
            Objects(Path(reply.output_root)).drop(key)
            await uploads.put(unit, key, data)
            assert Objects(Path(reply.output_root)).read(key) == data
            await source.fail(unit, Failure(code="boom", detail="of the test"))
            gone = unit.model_copy(update={"batch_id": "batch_none"})
            with pytest.raises(Fenced):
                await source.upload(gone, key.replace(unit.batch_id, "batch_none"), data)

    asyncio.run(work())
    assert "shards go through the API, since this worker does not share its place" in caplog.text
    assert str(tmp_path) in caplog.text


def test_a_place_that_is_closed_is_found_before_the_server_listens(
    settings: Settings, s3_place: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-another")
    with pytest.raises(StorageError, match=r"cannot read s3://.*403"):
        create_app(on_bucket(settings, s3_place))


def test_serve_says_what_is_no_place_and_where_it_keeps_things(dail: Any, tmp_path: Path):
    refused: Ended = dail("serve", "--data-dir", tmp_path, "--objects", "https://key:canary@host/b")
    assert refused.returncode == 2
    assert "wanted a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX" in refused.stderr
    assert "canary" not in refused.stderr + refused.stdout


def test_a_real_server_on_a_bucket_is_killed_and_goes_on(
    tmp_path: Path, model_folder: Path, model: ModelIdentity, s3_place: str
):
    live = start_api(tmp_path / "api", model_folder, DAIL_OBJECTS=s3_place)
    with httpx.Client(base_url=live.url, timeout=60, trust_env=False) as http:
        batch = http.post("/v1/batches", json={"items": items(4)}).json()["id"]
        worker = FakeWorker(http, model)
        for unit in worker.lease(2):
            assert worker.commit(unit).status_code == 204
    live.kill()
    live = start_api(tmp_path / "api", model_folder, DAIL_OBJECTS=s3_place)
    try:
        with httpx.Client(base_url=live.url, timeout=60, trust_env=False) as http:
            FakeWorker(http, model).run()
            assert http.get(f"/v1/batches/{batch}").json()["status"] == "completed"
            assert len(http.get(f"/v1/batches/{batch}/results").text.splitlines()) == 4
    finally:
        live.process.terminate()
        live.process.wait(10)
