"""Events of a batch, and what else became of one: retries, deletion, expiry."""

from __future__ import annotations

import json
import sqlite3
import threading

import httpx
import pytest

from dail.synth.schema.card import rows_key
from tests.serve.conftest import items, start_api
from tests.serve.worker import FakeWorker, write_together


def events(http, batch, last=None):
    """(id, kind, data) of every event up to the end of the stream."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    found = []
    with http.stream("GET", f"/v1/batches/{batch}/events", headers=headers) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        one = {}
        for line in response.iter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                one[name] = value
            elif one:
                found.append((int(one["id"]), one["event"], json.loads(one["data"])))
                one = {}
    return found


def add_up(data):
    for counts in (data["request_counts"], data["units"]):
        assert sum(count for state, count in counts.items() if state != "total") == counts["total"]


def sql(api, statement, *values):
    with sqlite3.connect(api.app.state.settings.store_place, timeout=30) as connection:
        connection.execute(statement, values)
    connection.close()


def test_every_change_is_an_event_whose_counts_add_up(api, post, worker):
    batch = post(2, synthesis={"samples_per_item": 2})["id"]
    good, bad, *_ = worker.lease(2)
    worker.commit(good)
    worker.fail(bad, "boom")
    worker.run()
    found = events(api, batch)
    assert [n for n, *_ in found[:-1]] == list(range(1, len(found)))
    assert found[0][1] == "in_progress" and [kind for _, kind, _ in found[-2:]] == ["completed", "done"]
    assert any({"id": bad.item_id, "status": "failed"} in data.get("items", []) for *_, data in found)
    for *_, data in found:
        add_up(data)
    assert found[-1][2]["request_counts"]["failed"] == 1 and found[-1][0] == found[-2][0]


def test_a_watcher_that_comes_back_gets_what_it_missed_and_no_more(api, post, worker):
    batch = post(3)["id"]
    worker.run()
    whole = events(api, batch)
    assert events(api, batch, last=2) == whole[2:]
    assert events(api, batch, last=whole[-1][0]) == whole[-1:]
    assert events(api, batch, last=10_000) == whole[-1:]
    assert api.get(f"/v1/batches/{batch}/events", headers={"Last-Event-ID": "x"}).status_code == 422
    assert api.get("/v1/batches/none/events").status_code == 404


def test_watchers_of_two_servers_see_every_event_once_and_in_order(tmp_path, model_folder, model):
    servers = [start_api(tmp_path / "api", model_folder) for _ in range(2)]
    try:
        clients = [httpx.Client(base_url=one.url, timeout=60, trust_env=False) for one in servers]
        batch = clients[0].post("/v1/batches", json={"items": items(6)}).json()["id"]
        seen: list[list] = [[] for _ in range(6)]
        threads = [
            threading.Thread(target=lambda n=n: seen[n].extend(events(clients[n % 2], batch))) for n in range(len(seen))
        ]
        for thread in threads:
            thread.start()
        assert FakeWorker(clients[0], model).run() + FakeWorker(clients[1], model, "w2").run() == 6
        for thread in threads:
            thread.join(60)
        assert all(one == seen[0] and one[-1][1] == "done" for one in seen)
        assert [n for n, *_ in seen[0][:-1]] == list(range(1, len(seen[0])))
        open_one = clients[0].post("/v1/batches", json={"items": items(1)}).json()["id"]
        with clients[0].stream("GET", f"/v1/batches/{open_one}/events") as response:
            lines = response.iter_lines()
            assert next(lines) == "id: 1"
            servers[0].process.terminate()
            assert "event: done" not in list(lines)
        servers[0].process.wait(30)
    finally:
        for one in servers:
            one.kill()


def test_failed_items_are_tried_again_in_the_same_batch_and_traces_are_kept(api, post, worker):
    batch = post(2)["id"]
    good, bad = worker.lease(2)
    worker.commit(good)
    assert api.post(f"/v1/batches/{batch}/retry", json={"items": "failed"}).status_code == 409
    worker.fail(bad, "boom")
    first = api.get(f"/v1/batches/{batch}").json()
    assert api.post(f"/v1/batches/{batch}/retry", json={"items": [good.item_id]}).status_code == 422
    unknown = api.post(f"/v1/batches/{batch}/retry", json={"items": [bad.item_id, "none"]})
    assert [fault["pointer"] for fault in unknown.json()["errors"]] == ["/items/1"]
    retried = api.post(f"/v1/batches/{batch}/retry", json={"items": [bad.item_id]})
    assert retried.status_code == 202, retried.text
    now = retried.json()
    assert (now["status"], now["generation"], now["completed_at"], now["manifest"]) == ("in_progress", 2, None, None)
    assert (now["request_counts"]["completed"], now["request_counts"]["queued"]) == (1, 1)
    (again,) = worker.lease(5)
    assert again.item_id == bad.item_id and again.epoch > bad.epoch
    assert worker.commit(bad).status_code == 409  # the first attempt's lease is over
    worker.commit(again)
    ended = api.get(f"/v1/batches/{batch}").json()
    assert ended["status"] == "completed" and ended["manifest"]["key"] != first["manifest"]["key"]
    assert (worker.objects.root / first["manifest"]["key"]).exists()
    nothing = api.post(f"/v1/batches/{batch}/retry", json={"items": "failed"})
    assert (nothing.status_code, nothing.json()["code"]) == (409, "nothing_to_retry")


def test_a_cancelled_batch_is_taken_up_again(api, post, worker):
    batch = post(3, synthesis={"samples_per_item": 2, "enough": "random"})["id"]
    api.post(f"/v1/batches/{batch}/cancel")
    now = api.post(f"/v1/batches/{batch}/retry", json={"items": "failed"}).json()
    assert (now["status"], now["units"]["queued"], now["units"]["waiting"]) == ("in_progress", 3, 3)
    worker.run()
    assert api.get(f"/v1/batches/{batch}").json()["request_counts"]["completed"] == 3


def test_a_deleted_batch_is_gone_at_once_and_its_bytes_later(api, post, worker):
    batch = post(3)["id"]
    assert api.delete(f"/v1/batches/{batch}").json()["code"] == "batch_open"
    units = worker.lease(3)
    for unit, shard in zip(units, write_together(worker.objects, units), strict=True):
        assert worker.commit(unit, shard).status_code == 204
    path = worker.objects.root / api.get(f"/v1/batches/{batch}").json()["manifest"]["key"]
    copies = worker.objects.root / rows_key(path.relative_to(worker.objects.root).as_posix())
    copies.write_bytes(b"of a shard that held more")
    assert [api.delete(f"/v1/batches/{batch}").status_code for _ in range(2)] == [204, 404]
    for way in ("", "/items", "/events", "/results", "/manifest"):
        assert api.get(f"/v1/batches/{batch}{way}").status_code == 404
    assert api.get("/v1/batches").json()["data"] == []
    anew = post()["id"]
    assert anew != batch and path.exists()
    sql(api, "UPDATE batches SET deleted_at = 0 WHERE id = ?", batch)
    for _ in range(2):
        api.app.state.service.ending.sweep()
    assert (
        not path.exists()
        and not copies.exists()
        and not list((worker.objects.root / "shards" / batch).rglob("*.parquet"))
    )
    assert api.get(f"/v1/batches/{anew}").status_code == 200


def test_a_batch_whose_time_is_over_expires_and_keeps_its_traces(api, post, worker):
    batch = post(2, completion_window="72h")
    assert batch["completion_window"] == "72h" and batch["expires_at"] - batch["created_at"] == 72 * 3600
    kept, held = worker.lease(2)
    worker.commit(kept)
    sql(api, "UPDATE batches SET expires_at = 0")
    api.app.state.service.ending.sweep()
    ended = api.get(f"/v1/batches/{batch['id']}").json()
    assert (ended["status"], ended["shards"], ended["request_counts"]["expired"]) == ("expired", 1, 1)
    assert ended["expired_at"] and ended["manifest"] and worker.commit(held).status_code == 409
    assert events(api, batch["id"])[-1][2]["status"] == "expired"
    assert api.post(f"/v1/batches/{batch['id']}/retry", json={"items": "failed"}).json()["expires_at"] > 0


@pytest.mark.parametrize("window", ["0h", "72", "h", "1.5h", -1, "1w"])
def test_a_window_that_is_no_time_is_refused(api, window):
    reply = api.post("/v1/batches", json={"items": items(1), "completion_window": window})
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/completion_window")


def test_workers_that_never_let_go_do_not_keep_a_cancelled_batch_open(api, post, worker):
    batch = post()["id"]
    (held,) = worker.lease()
    assert api.post(f"/v1/batches/{batch}/cancel").json()["status"] == "cancelling"
    sql(api, "UPDATE batches SET cancelling_at = 0")
    api.app.state.service.ending.sweep()
    assert api.get(f"/v1/batches/{batch}").json()["status"] == "cancelled"
    assert worker.heartbeat(held).status_code == 409


def test_a_batch_that_did_not_change_is_a_304(api, post, worker):
    path = f"/v1/batches/{post()['id']}"
    worker.run()
    first = api.get(path)
    again = api.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
