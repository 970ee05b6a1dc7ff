"""`dail orphans` finds what nothing names, in a folder and in a bucket, and deletes nothing else."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.rules import orphans as orphans_module
from dail.serve.settings import Settings
from dail.synth.core.files import Objects
from dail.synth.schema.models import ModelIdentity
from tests.serve.conftest import Ended, items
from tests.serve.worker import FakeWorker

DIGEST = "0123456789abcdef"


@pytest.fixture(params=["folder", "bucket"])
def objects_at(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "o") if request.param == "folder" else str(request.getfixturevalue("s3_place"))


@pytest.fixture
def api(settings: Settings, objects_at: str) -> Iterator[TestClient]:
    with TestClient(create_app(settings.model_copy(update={"objects": objects_at})), "http://127.0.0.1") as client:
        yield client


@pytest.fixture
def objects(api: TestClient) -> Objects:
    found: Objects = api.app.state.service.objects  # type: ignore[attr-defined]
    return found


@pytest.fixture
def batch(api: TestClient, model: ModelIdentity) -> str:
    created = api.post("/v1/batches", json={"items": items(2)}).json()["id"]
    FakeWorker(api, model).run()
    return str(created)


@pytest.fixture
def orphans(dail: Callable[..., Ended], settings: Settings, objects_at: str) -> Callable[..., Ended]:
    return lambda *more: dail("orphans", "--data-dir", settings.data_dir, "--objects", objects_at, *more)


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(dt.datetime):
        @classmethod
        def now(cls, zone: Any = None) -> Any:
            return dt.datetime.now(zone) + dt.timedelta(hours=25)

    class module:
        datetime, timedelta, UTC = Later, dt.timedelta, dt.UTC

    monkeypatch.setattr(orphans_module, "dt", module)


def keys(objects: Objects) -> set[str]:
    return {one.key for one in objects.listed()}


def test_what_nothing_names_is_told_then_deleted_and_all_else_stays(
    objects: Objects, batch: str, orphans: Callable[..., Ended], tomorrow: None, api: TestClient
):
    kept = keys(objects)
    named = f"shards/{batch}/chosen-{DIGEST}.parquet"
    others = {
        "shards/batch_of_another_store/x.parquet": b"1",
        "manifests/batch_of_another_store/v1.json": b'{"shards": []}',
        f"manifests/{batch}/select-correct-1.json": json.dumps({"shards": [{"key": named}]}).encode(),
        named: b"1",
        "notes.txt": b"mine",
    }
    stray = {f"shards/{batch}/{DIGEST}.parquet", f"manifests/{batch}/v7.json", "_staging/1-killed"}
    for key, data in others.items() | dict.fromkeys(stray, b'{"shards": []}').items():
        objects.put(key, data)
    told = orphans("--json")
    assert {json.loads(line)["key"] for line in told.stdout.splitlines()} == stray
    assert keys(objects) == kept | set(others) | stray
    said = orphans("--delete").stderr
    assert "deleted: 3 objects that nothing names, 42 bytes" in said and "2 objects are of batches" in said
    assert keys(objects) == kept | set(others)
    assert "found: 0 objects" in orphans().stderr
    assert '"failed"' not in api.get(f"/v1/batches/{batch}/results").text


def test_what_is_younger_than_a_day_may_still_be_committed(objects: Objects, batch: str, orphans: Callable[..., Ended]):
    objects.put(f"shards/{batch}/{DIGEST}.parquet", b"1")
    assert "deleted: 0 objects" in orphans("--delete").stderr
    assert f"shards/{batch}/{DIGEST}.parquet" in keys(objects)


def test_a_manifest_that_cannot_be_read_stops_it(
    objects: Objects, batch: str, orphans: Callable[..., Ended], tomorrow: None
):
    objects.put(f"manifests/{batch}/select-all.json", b"torn")
    objects.put(f"shards/{batch}/{DIGEST}.parquet", b"1")
    refused = orphans("--delete")
    assert (
        refused.returncode == 1 and f"{objects.url}/manifests/{batch}/select-all.json is no manifest" in refused.stderr
    )
    assert f"shards/{batch}/{DIGEST}.parquet" in keys(objects)


def test_without_a_store_nothing_is_an_orphan(dail: Callable[..., Ended], tmp_path: Path):
    refused = dail("orphans", "--data-dir", tmp_path, "--delete")
    assert refused.returncode == 2 and "has no store" in refused.stderr
    assert not list(tmp_path.iterdir())
