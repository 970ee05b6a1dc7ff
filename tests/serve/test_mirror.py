"""A manifest by its URL, of a bucket and of an API: its shards are copied once, checked, and read as local ones are."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.settings import Settings
from dail.synth.core.errors import ApiError, DailError, IntegrityError, UsageError
from dail.synth.core.objects import open_objects
from dail.synth.schema.manifest import read_rows
from dail.synth.schema.mirror import local_manifest
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.contamination import find_contamination
from dail.train.evals.problems import EvalProblem
from tests.bucket import Breaking
from tests.serve.conftest import LiveApi, items, start_api
from tests.serve.worker import FakeWorker


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DAIL_TOKEN", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def in_bucket(settings: Settings, s3_place: str, model: ModelIdentity) -> str:
    """The URL of the manifest of a batch of three."""
    with TestClient(create_app(settings.model_copy(update={"objects": s3_place})), "http://127.0.0.1") as api:
        batch = api.post("/v1/batches", json={"items": items(3)}).json()["id"]
        FakeWorker(api, model).run()
        url: str = api.get(f"/v1/batches/{batch}").json()["manifest"]["path"]
    assert url == f"{s3_place}/manifests/{batch}/v1.json"
    return url


@pytest.fixture
def of_api(live: LiveApi, http: httpx.Client, model: ModelIdentity, tmp_path: Path) -> str:
    batch = http.post("/v1/batches", json={"items": items(3, answer=tmp_path.name)}).json()["id"]
    FakeWorker(http, model).run()
    return f"{live.url}/v1/batches/{batch}/manifest"


@pytest.fixture(params=["in_bucket", "of_api"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.parquet"))


def test_the_rows_are_read_from_copies(url: str, cache: Path):
    path = local_manifest(url)
    assert path.is_relative_to(cache)
    assert {row.item_id for row in read_rows(path)} == {"i0", "i1", "i2"}


def test_an_evaluation_looks_for_its_problems_there(url: str):
    problems = [EvalProblem(id="e", problem="1 + 1?", answer="2")]
    found = find_contamination(problems, (), [url])
    assert found is not None and [match.item_id for match in found.sets[0].matches] == ["i1"]


def test_copies_are_made_once_and_a_damaged_one_again(in_bucket: str, way: Breaking, cache: Path):
    local_manifest(in_bucket)
    asked, kept = len(way.seen), files(cache)
    kept[0].write_bytes(b"rot")
    kept[1].unlink()
    path = local_manifest(in_bucket)
    assert len(way.seen) == asked + 2
    assert len(list(read_rows(path))) == 3 and files(cache) == kept
    path.write_text("{}")
    assert len(list(read_rows(local_manifest(in_bucket)))) == 3


def test_several_at_once_make_one_copy(url: str, cache: Path):
    with ThreadPoolExecutor(4) as pool:
        (path,) = set(pool.map(local_manifest, [url] * 4))
    assert len(list(read_rows(path))) == 3 and len(files(cache)) == 3


def test_reads_that_break_are_repeated(in_bucket: str, way: Breaking):
    way.next = ["503", "cut", "short", "lost", "503"]
    assert len(list(read_rows(local_manifest(in_bucket)))) == 3
    assert way.next == []


def test_a_copy_that_is_killed_half_way_goes_on(in_bucket: str, way: Breaking, cache: Path):
    """It dies in front of its second file: what is there then is whole, and the rest comes by the next one.

    There is no manifest before its shards are.
    """
    code = (
        "import os, sys\nfrom dail.synth.core.files import Objects\nput, num = Objects.put, 0\n"
        "def dying(self, key, data):\n    global num\n    num += 1\n    if num == 2: os._exit(9)\n"
        "    put(self, key, data)\n"
        "Objects.put = dying\nfrom dail.synth.schema import mirror\nmirror._AT_ONCE = 1\n"
        "mirror.local_manifest(sys.argv[1])"
    )
    killed = subprocess.run([sys.executable, "-c", code, in_bucket], env={**os.environ}, timeout=120)
    assert killed.returncode == 9 and len(files(cache)) == 1 and not list(cache.rglob("*.json"))
    asked = len(way.seen)
    assert len(list(read_rows(local_manifest(in_bucket)))) == 3
    assert len(way.seen) == asked + 3


def test_a_shard_that_is_gone_or_rotten_is_refused_by_its_name(in_bucket: str, s3_place: str, cache: Path):
    place = open_objects(s3_place)
    shards = [one.key for one in place.listed() if one.key.startswith("shards/")]
    place.drop(shards[0])
    with pytest.raises(IntegrityError, match=f"{s3_place}/{shards[0]} is missing"):
        local_manifest(in_bucket)
    place.put(shards[0], b"rot")
    with pytest.raises(IntegrityError, match=f"{s3_place}/{shards[0]} is damaged"):
        local_manifest(in_bucket)
    assert len(files(cache)) == 2


def test_a_damaged_shard_of_an_api_is_told(api: TestClient, worker: FakeWorker, post: Any):
    batch = post(2)["id"]
    worker.run()
    (one, other) = api.get(f"/v1/batches/{batch}/manifest").json()["shards"]
    got = api.get(f"/v1/batches/{batch}/shards/1")
    assert got.headers["etag"] == f'"{other["sha256"]}"' and len(got.content) == other["size_bytes"]
    worker.objects.drop(one["key"])
    refused = api.get(f"/v1/batches/{batch}/shards/0")
    assert (refused.status_code, refused.json()["code"]) == (422, "damaged_shard")
    for number in ("2", "-1", "9" * 30, "x"):
        assert api.get(f"/v1/batches/{batch}/shards/{number}").status_code == 404


def test_an_api_with_a_token_wants_it(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    live = start_api(tmp_path / "api", model_folder, DAIL_TOKEN="a-token-of-the-test")
    try:
        with pytest.raises(ApiError, match="401"):
            local_manifest(f"{live.url}/v1/batches/batch_x/manifest")
        monkeypatch.setenv("DAIL_TOKEN", "a-token-of-the-test")
        with pytest.raises(ApiError, match="404"):
            local_manifest(f"{live.url}/v1/batches/batch_x/manifest")
    finally:
        live.process.terminate()
        live.process.wait(10)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/v1.json",
        "s3://bucket/../manifests/b/v1.json",
        "https://host/manifests/b/v1.json",
        "http://host/v1/batches/../manifest",
        "ftp://host/manifests/b/v1.json",
        "file:///etc/passwd",
        "s3://key:canary@bucket/a/manifests/b/v1.json",
    ],
)
def test_what_is_no_url_of_a_manifest_is_refused(url: str):
    with pytest.raises(UsageError, match="wanted a") as raised:
        local_manifest(url)
    assert "canary" not in str(raised.value)


def test_a_manifest_that_is_not_there_is_said(s3_place: str):
    with pytest.raises(DailError, match=r"manifests/b/v1\.json is missing"):
        local_manifest(f"{s3_place}/manifests/b/v1.json")


def test_verbs_take_the_url(in_bucket: str, dail: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    run = dail
    monkeypatch.setenv("DAIL_CACHE", str(cache))
    done = run("export", in_bucket, "--for", "trl-sft", "--out", tmp_path / "sft")
    assert done.returncode == 0, done.stderr
    assert len(files(cache)) == 3
