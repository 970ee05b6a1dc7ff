"""A copy of a store, put back: nothing of it is lost, and who worked before may not commit against it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading

import pytest
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.store.backups import back_up, restore
from dail.serve.store.tables import STORE_VERSION
from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.schema.manifest import read_rows
from tests.serve.worker import FakeWorker


@pytest.fixture
def elsewhere(settings, tmp_path):
    return settings.model_copy(update={"data_dir": tmp_path / "new"})


def test_what_was_copied_goes_on_elsewhere_and_old_leases_are_void(
    api, post, worker, model, settings, elsewhere, tmp_path
):
    batch = post(4)["id"]
    done, held = worker.lease(1)[0], worker.lease(1)[0]
    assert worker.commit(done).status_code == 204
    copy = tmp_path / "copies" / "monday.sqlite"
    assert back_up(settings.store_place, copy) == copy.stat().st_size
    late = worker.lease(1)[0]  # after the copy
    assert worker.commit(late).status_code == 204
    restore(copy, elsewhere.store_place)
    shutil.copytree(settings.data_dir / "objects", elsewhere.data_dir / "objects")
    with TestClient(create_app(elsewhere), "http://127.0.0.1") as new:
        found = new.get(f"/v1/batches/{batch}").json()
        assert (found["units"]["committed"], found["units"]["queued"], found["units"]["leased"]) == (1, 3, 0)
        zombie = FakeWorker(new, model, worker.name)
        zombie.objects = worker.objects
        assert zombie.heartbeat(held).status_code == 409
        fenced = zombie.commit(held)
        assert (fenced.status_code, fenced.json()["code"]) == (409, "fenced")
        again = FakeWorker(new, model, "w2")
        assert again.run() == 3
        ended = new.get(f"/v1/batches/{batch}").json()
        assert ended["status"] == "completed"
        lines = [json.loads(line) for line in new.get(f"/v1/batches/{batch}/results").text.splitlines()]
        assert sorted(line["item_id"] for line in lines) == ["i0", "i1", "i2", "i3"]
        assert len(list(read_rows(elsewhere.data_dir / "objects" / ended["manifest"]["key"]))) == 4


def test_a_copy_is_of_one_moment_while_others_write(api, post, settings, tmp_path):
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            post(3, run_label=f"{number}")
            number += 1
            for one in api.get("/v1/batches").json()["data"]:
                api.post(f"/v1/batches/{one['id']}/cancel")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            copy = tmp_path / f"{number}.sqlite"
            back_up(settings.store_place, copy)
            with sqlite3.connect(copy) as sql:
                batches, units = (
                    sql.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("batches", "units")
                )
            assert units == 3 * batches
    finally:
        stop.set()
        writer.join()


def test_what_is_no_copy_or_in_the_way_is_said(api, settings, elsewhere, tmp_path):
    copy = tmp_path / "copy.sqlite"
    with pytest.raises(UsageError, match="there is no store"):
        back_up(tmp_path / "nowhere.sqlite", copy)
    back_up(settings.store_place, copy)
    with pytest.raises(UsageError, match="is there already"):
        back_up(settings.store_place, copy)
    with pytest.raises(UsageError, match="is there already; stop its server"):
        restore(copy, settings.store_place)
    (tmp_path / "text").write_text("no store at all, but long enough to be looked at as one" * 20)
    for path, why in ((tmp_path / "text", "is no store"), (tmp_path / "nowhere", "there is no file")):
        with pytest.raises(UsageError, match=why):
            restore(path, elsewhere.store_place)
    with sqlite3.connect(copy) as sql:
        sql.execute(f"PRAGMA user_version={STORE_VERSION + 1}")
    with pytest.raises(UsageError, match="upgrade dail"):
        restore(copy, elsewhere.store_place)
    assert not elsewhere.store_place.exists()


def test_a_damaged_store_is_not_copied(api, post, settings, tmp_path):
    for number in range(5):
        post(40, run_label=f"{number}")
    api.app.state.service.store.close()
    data = bytearray(settings.store_place.read_bytes())
    assert len(data) > 40_000
    data[20_000:36_000] = b"\xff" * 16_000
    settings.store_place.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"damaged|cannot be copied"):
        back_up(settings.store_place, tmp_path / "copy.sqlite")
    assert not (tmp_path / "copy.sqlite").exists()


def test_the_verbs(api, post, worker, settings, tmp_path, dail):
    batch = post(2)["id"]
    worker.run()
    where = ("--data-dir", settings.data_dir)
    assert dail("store", "check", *where).returncode == 0
    copied = dail("store", "backup", tmp_path / "copy.sqlite", *where, "--json")
    assert copied.returncode == 0 and json.loads(copied.stdout)["bytes"] > 0
    assert dail("store", "backup", tmp_path / "copy.sqlite", *where).returncode == 2
    assert dail("store", "restore", tmp_path / "copy.sqlite", "--data-dir", tmp_path / "new").returncode == 0
    alone = dail("store", "check", "--data-dir", tmp_path / "new", "--json")
    assert alone.returncode == 1 and len(json.loads(alone.stdout)["findings"]) == 3, "two shards and a manifest"
    (shard, _) = api.get(f"/v1/batches/{batch}/shards").json()["data"]
    path = settings.data_dir / "objects" / shard["key"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    assert dail("store", "check", *where).returncode == 0, "of the same size"
    assert "is damaged" in dail("store", "check", *where, "--deep").stderr


def test_postgresql_has_tools_of_its_own(dail, monkeypatch, tmp_path):
    monkeypatch.setenv("DAIL_STORE", "postgresql://dail@db/dail")
    done = dail("store", "backup", tmp_path / "copy")
    assert done.returncode == 2 and "pg_dump --format=custom" in done.stderr
