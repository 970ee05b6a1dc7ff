from __future__ import annotations

import dataclasses
import itertools
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.rules.ending import MAX_LEASES
from dail.serve.store.units import SUSPECT_LEASES, Units
from dail.synth.core.files import Objects, sha256
from dail.synth.schema.manifest import read_rows
from dail.synth.schema.shards import encode_shard
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import WIRE_VERSION, Beat, Heartbeat, ShardRef, shard_key
from tests.serve.conftest import items, lapse_leases
from tests.serve.worker import FakeWorker, trace_row, write_together


def test_a_leased_unit_carries_all_that_a_rollout_needs(post, worker, model):
    batch = post(synthesis={"tau": 0.5, "seed": 3})
    (unit,) = worker.lease()
    assert (unit.batch_id, unit.item_id, unit.sample, unit.epoch) == (batch["id"], "i0", 0, 1)
    assert unit.item.solution_text == "It is 1."
    assert (unit.synthesis.tau, unit.synthesis.seed) == (0.5, 3)
    assert unit.model == model


def test_units_are_leased_oldest_first_and_never_twice(post, worker):
    post(3)
    first, second = worker.lease(2), worker.lease(2)
    assert [unit.item_id for unit in first + second] == ["i0", "i1", "i2"]


def test_heartbeats_show_in_the_batch(api, post, worker):
    batch = post()["id"]
    (unit,) = worker.lease()
    assert worker.heartbeat(unit, tokens=10, attributed_tokens=9, student_tokens=4.5).json() == {
        "cancel": False,
        "known": 0,
    }
    found = api.get(f"/v1/batches/{batch}").json()
    assert found["tokens"] == {"total": 10, "attributed": 9, "student": 4.5, "student_share": 0.5}
    assert (found["request_counts"]["running"], found["units"]["leased"]) == (1, 1)


def test_an_expired_lease_goes_to_another_and_the_zombie_is_fenced(api, post, worker, model, settings):
    batch = post()["id"]
    (old,) = worker.lease()
    lapse_leases(settings.data_dir)
    other = FakeWorker(api, model, "w2")
    (new,) = other.lease()
    assert (new.unit_id, new.epoch) == (old.unit_id, old.epoch + 1)
    zombie = worker.commit(old)
    assert (zombie.status_code, zombie.json()["code"]) == (409, "fenced")
    assert worker.heartbeat(old).status_code == 409
    assert other.commit(new).status_code == 204
    assert api.get(f"/v1/batches/{batch}").json()["shards"] == 1


def test_an_older_lease_of_the_same_worker_is_fenced_too(post, worker, settings):
    post()
    (old,) = worker.lease()
    lapse_leases(settings.data_dir)
    (new,) = worker.lease()
    assert [worker.heartbeat(old).status_code, worker.commit(old).status_code] == [409, 409]
    assert worker.commit(new).status_code == 204


def test_nobody_else_can_speak_for_a_lease(api, post, worker, model):
    post()
    (unit,) = worker.lease()
    assert FakeWorker(api, model, "w2").heartbeat(unit).status_code == 409


def test_a_late_commit_counts_if_nobody_took_the_unit_over(post, worker, settings):
    post()
    (unit,) = worker.lease()
    lapse_leases(settings.data_dir)
    assert worker.commit(unit).status_code == 204


def test_a_commit_whose_reply_was_lost_can_be_repeated(api, post, worker):
    batch = post()["id"]
    (unit,) = worker.lease()
    shard = worker.write(unit)
    assert [worker.commit(unit, shard).status_code for _ in range(2)] == [204, 204]
    assert api.get(f"/v1/batches/{batch}").json()["shards"] == 1


def test_a_shard_that_the_api_cannot_read_is_refused(post, worker):
    post()
    (unit,) = worker.lease()
    shard = worker.write(unit)
    (worker.objects.root / shard.key).unlink()
    response = worker.commit(unit, shard)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (422, "unreadable_shard")


def test_a_shard_of_another_unit_is_refused(post, worker):
    post(2)
    one, two = worker.lease(2)
    response = worker.commit(one, worker.write(two))
    assert (response.status_code, response.json()["errors"][0]["code"]) == (422, "wrong_shard")


def as_shard(worker, unit, data: bytes, **more) -> ShardRef:
    key = shard_key(unit.batch_id, sha256(data))
    worker.objects.put(key, data)
    return worker.write(unit).model_copy(update={"key": key, "size_bytes": len(data), "sha256": sha256(data), **more})


@pytest.mark.parametrize("data", [b"PAR1", b"no Parquet at all" * 100], ids=["short", "text"])
def test_bytes_that_are_no_shard_are_never_committed(api, post, worker, data):
    batch = post()["id"]
    (unit,) = worker.lease()
    response = worker.commit(unit, as_shard(worker, unit, data))
    assert (response.status_code, response.json()["errors"][0]["code"]) == (422, "unreadable_shard")
    assert api.get(f"/v1/batches/{batch}").json()["units"]["committed"] == 0
    assert worker.commit(unit).status_code == 204


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("unit_id", "f" * 32), ("batch_id", "other"), ("item_id", "other"), ("sample_index", 7),
        ("model_revision", "other"), ("student_revision", "other"), ("privileged_revision", "other"),
        ("tokenizer_hash", "other"), ("template_hash", "other"), ("config_fingerprint", "other"),
    ],
)  # fmt: skip
def test_a_row_of_another_identity_is_refused_by_name(post, worker, column, value):
    post()
    (unit,) = worker.lease()
    row = trace_row(unit).model_copy(update={column: value})
    response = worker.commit(unit, as_shard(worker, unit, encode_shard([row])))
    assert response.status_code == 422, response.text
    (error,) = response.json()["errors"]
    assert error["code"] == "wrong_shard" and error["detail"].startswith(column.removesuffix("_index"))


def test_rows_and_tokens_must_be_those_that_are_told(post, worker):
    post()
    (unit,) = worker.lease()
    row = trace_row(unit)
    for more in ({"row": 1}, {"rows": 2}, {"tokens": 5}):
        data = encode_shard([row])
        assert worker.commit(unit, as_shard(worker, unit, data, **more)).status_code == 422


def test_a_retryable_failure_is_tried_three_times(api, post, worker):
    batch = post()["id"]
    epochs = []
    while units := worker.lease():
        epochs.append(units[0].epoch)
        assert worker.fail(units[0], retryable=True).status_code == 204
    assert epochs == [1, 2, 3]
    assert api.get(f"/v1/batches/{batch}").json()["request_counts"]["failed"] == 1


def test_units_handed_back_by_a_stopped_worker_did_not_fail(post, worker):
    post()
    for _ in range(5):
        (unit,) = worker.lease()
        worker.fail(unit, "worker_stopped", retryable=True)
    (unit,) = worker.lease()
    assert worker.commit(unit).status_code == 204


def test_a_unit_that_every_worker_loses_fails_in_the_end(api, post, worker, settings):
    batch = post()["id"]
    for _ in range(10):
        assert worker.lease()
        lapse_leases(settings.data_dir)
    api.app.state.service.ending.sweep()
    item = api.get(f"/v1/batches/{batch}/items/i0").json()
    assert item["samples"][0]["error"]["code"] == "poisoned_item"
    assert api.get(f"/v1/batches/{batch}").json()["status"] == "completed"


def test_engines_that_die_cost_a_unit_nothing_however_often(post, worker):
    post()
    for _ in range(12):
        (unit,) = worker.lease()
        worker.fail(unit, "engine_died", retryable=True)
    (unit,) = worker.lease()
    assert worker.commit(unit).status_code == 204


def test_workers_that_die_cost_a_unit_nothing_while_it_gets_further(post, worker, settings):
    post()
    for number in range(15):
        (unit,) = worker.lease()
        assert len(unit.prefix) == number
        reply = worker.heartbeat(unit, number + 1, start=number, checkpoint=dataclasses.asdict(Tokens.of([7])))
        assert reply.json()["known"] == number + 1
        lapse_leases(settings.data_dir)
    (unit,) = worker.lease()
    assert worker.commit(unit).status_code == 204


def test_a_unit_with_which_workers_die_is_tried_alone_and_last(api, post, settings, model):
    """Beside it nothing can be charged with what it does, and nothing else waits for it."""
    batch = post(3)["id"]
    workers = (FakeWorker(api, model, f"w{number}") for number in itertools.count())
    for _ in range(SUSPECT_LEASES):
        assert len(next(workers).lease(8)) == 3
        lapse_leases(settings.data_dir)
    later = post(2, synthesis={"seed": 1000})["id"]
    busy = next(workers)
    first, second = busy.lease(1), busy.lease(8)
    assert [unit.batch_id for unit in first] == [later], "what is no suspect goes first"
    assert [unit.batch_id for unit in second] == [later], "a suspect is given to no worker that holds something"
    assert busy.lease(8) == []
    assert [busy.commit(unit).status_code for unit in first + second] == [204, 204]
    for number in range(2 + MAX_LEASES - SUSPECT_LEASES):
        worker = next(workers)
        (suspect,) = worker.lease(8)
        more = post(1, synthesis={"seed": number})["id"]
        assert worker.lease(8) == [], "and nothing beside it"
        if suspect.item_id == "i0":
            lapse_leases(settings.data_dir)
            api.app.state.service.ending.sweep()
        else:
            assert worker.commit(suspect).status_code == 204
        api.post(f"/v1/batches/{more}/cancel")
    items = api.get(f"/v1/batches/{batch}/items").json()["data"]
    assert [item["status"] for item in items] == ["failed", "completed", "completed"]
    (sample,) = api.get(f"/v1/batches/{batch}/items/i0").json()["samples"]
    assert sample["error"]["code"] == "poisoned_item"


def test_a_unit_that_is_in_two_batches_is_leased_once_at_a_time(api, post, worker):
    first, second = post()["id"], post(run_label="again")["id"]
    (unit,) = worker.lease(8)
    assert worker.lease(8) == []
    worker.commit(unit)
    (twin,) = worker.lease(8)
    assert (twin.unit_id, twin.batch_id, twin.epoch) == (unit.unit_id, second, unit.epoch + 1)
    worker.commit(twin)
    assert {api.get(f"/v1/batches/{batch}").json()["status"] for batch in (first, second)} == {"completed"}


def test_a_lapsed_lease_is_over_once_another_batch_has_the_unit_leased(api, post, worker, model, settings):
    post(run_label="one")
    (old,) = worker.lease()
    post(run_label="two")
    lapse_leases(settings.data_dir)
    api.post(f"/v1/batches/{old.batch_id}/cancel")
    (new,) = FakeWorker(api, model, "w2").lease()
    assert (new.unit_id, new.epoch) == (old.unit_id, old.epoch + 1) and new.batch_id != old.batch_id
    assert worker.heartbeat(old).status_code == 409


def test_a_worker_with_other_weights_is_told_so(api, post, model):
    post()
    stranger = FakeWorker(api, model.model_copy(update={"revision": "f" * 40}))
    response = stranger.http.post(
        "/internal/v1/leases",
        json={"worker": "w", "count": 1, "model": stranger.model.model_dump(), "wire": WIRE_VERSION},
    )
    assert response.status_code == 422
    assert "tiny" in response.json()["detail"]


def test_a_name_does_not_keep_a_worker_from_the_same_weights(api, post, model):
    post()
    assert len(FakeWorker(api, model.model_copy(update={"name": "folder-name"})).lease()) == 1


def test_four_workers_at_once_lease_each_unit_exactly_once(live, model):
    with httpx.Client(base_url=live.url, timeout=30, trust_env=False) as http:
        body = {"items": items(60), "synthesis": {"samples_per_item": 2}, "run_label": "race"}
        batch = http.post("/v1/batches", json=body).json()["id"]

        def work(name: str) -> list[str]:
            worker, mine = FakeWorker(http, model, name), []
            while units := worker.lease(5):
                for unit in units:
                    assert worker.commit(unit).status_code == 204
                    mine += [unit.unit_id] * (unit.batch_id == batch)
            return mine

        with ThreadPoolExecutor(4) as threads:
            done = [unit for mine in threads.map(work, ("a", "b", "c", "d")) for unit in mine]
        assert len(done) == len(set(done)) == 120
        found = http.get(f"/v1/batches/{batch}").json()
        assert (found["status"], found["shards"]) == ("completed", 120)


def test_a_restart_gives_live_leases_more_time(settings, model):
    with TestClient(create_app(settings), "http://127.0.0.1") as api:
        api.post("/v1/batches", json={"items": items(1)})
        (unit,) = FakeWorker(api, model).lease()
    lapse_leases(settings.data_dir)
    with TestClient(create_app(settings), "http://127.0.0.1") as api:
        assert FakeWorker(api, model, "w2").lease() == []
        worker = FakeWorker(api, model)
        assert worker.lease() == []
        assert worker.commit(unit).status_code == 204


def test_a_number_that_the_store_cannot_hold_is_refused(post, worker):
    post()
    (unit,) = worker.lease()
    response = worker.heartbeat(unit.model_copy(update={"epoch": 2**63}))
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (400, "/beats/0/epoch")


def test_a_unit_that_was_never_there_is_fenced(worker, post):
    post()
    (unit,) = worker.lease()
    unknown = unit.model_copy(update={"unit_id": "f" * 32})
    assert worker.heartbeat(unknown).status_code == 409
    failed = worker.fail(unknown)
    assert (failed.status_code, failed.json()["code"]) == (409, "fenced")


def test_one_heartbeat_renews_all_that_a_worker_holds_but_what_is_fenced(post, worker, settings):
    post(3)
    units = worker.lease(3)
    worker.fail(units[1])
    beats = tuple(
        Beat(unit_id=unit.unit_id, epoch=unit.epoch, tokens=1, attributed_tokens=0, student_tokens=0) for unit in units
    )
    reply = worker.http.post(
        "/internal/v1/leases/heartbeat", json=Heartbeat(worker=worker.name, beats=beats).model_dump(mode="json")
    )
    assert [(beat["unit_id"], beat["fenced"]) for beat in reply.json()["beats"]] == [
        (unit.unit_id, number == 1) for number, unit in enumerate(units)
    ]
    with pytest.raises(ValidationError, match="at most 1000 items"):
        Heartbeat(worker="w", beats=beats[:1] * 1001)


def tokens(*ids: int) -> Tokens:
    return Tokens(list(ids), [1.0 for _ in ids], [None for _ in ids], [-0.5 for _ in ids], [None for _ in ids])


def test_what_was_told_of_a_trace_comes_with_the_next_lease(api, post, worker, model, settings):
    post()
    (old,) = worker.lease()
    assert old.prefix == Tokens()
    assert worker.heartbeat(old, tokens=2, start=0, checkpoint=tokens(5, 6)).json()["known"] == 2
    assert worker.heartbeat(old, tokens=3, start=2, checkpoint=tokens(7)).json()["known"] == 3
    lapse_leases(settings.data_dir)
    other = FakeWorker(api, model, "w2")
    (new,) = other.lease()
    assert new.prefix == tokens(5, 6, 7)
    assert worker.heartbeat(old, start=3, checkpoint=tokens(8)).status_code == 409, "a zombie adds nothing"
    known = other.heartbeat(new, start=1, checkpoint=tokens(9)).json()["known"]
    assert known == 2, "a piece is kept whole, and what came behind it goes"
    assert other.heartbeat(new, start=0, checkpoint=tokens(5, 9)).json()["known"] == 2
    assert other.fail(new, code="worker_stopped", retryable=True).status_code == 204
    (again,) = other.lease()
    assert again.prefix == tokens(5, 9)


def test_a_gap_in_a_trace_is_not_kept_and_the_worker_is_told_where_to_go_on(post, worker):
    post()
    (unit,) = worker.lease()
    assert worker.heartbeat(unit, start=0, checkpoint=tokens(1)).json()["known"] == 1
    assert worker.heartbeat(unit, start=5, checkpoint=tokens(6)).json()["known"] == 1


def test_nothing_is_kept_of_a_trace_that_ended(post, worker, settings):
    post(2)
    for unit in worker.lease(2):
        worker.heartbeat(unit, start=0, checkpoint=tokens(1, 2))
        worker.commit(unit) if unit.item_id == "i0" else worker.fail(unit)
    with sqlite3.connect(settings.store_place) as connection:
        assert connection.execute("SELECT count(*) FROM prefixes").fetchone() == (0,)


def test_a_checkpoint_that_cannot_be_one_is_refused(post, worker):
    post()
    (unit,) = worker.lease()
    body = {
        "unit_id": unit.unit_id,
        "epoch": unit.epoch,
        "tokens": 1,
        "attributed_tokens": 0,
        "student_tokens": 0,
        "start": 0,
    }
    for checkpoint in ({"ids": [1, 2], "student_prob": [1.0]}, {"ids": ["a"]}, {"unknown": []}):
        response = worker.http.post(
            "/internal/v1/leases/heartbeat",
            json={"worker": worker.name, "beats": [{**body, "checkpoint": checkpoint}]},
        )
        assert response.status_code == 422
    with pytest.raises(ValidationError, match="at most 4096 are taken"):
        worker.heartbeat(unit, checkpoint=tokens(*range(4097)))


def test_a_lease_reply_ends_at_its_bytes_with_one_unit_at_least(api, worker, monkeypatch):
    assert api.post("/v1/batches", json={"items": items(3, privileged="x" * 10_000)}).status_code == 201
    monkeypatch.setattr(Units.claim, "__defaults__", (90_000,))
    assert [len(worker.lease(3)), len(worker.lease(3))] == [2, 1]
    assert api.post("/v1/batches", json={"items": items(2, privileged="y" * 100_000)}).status_code == 201
    assert len(worker.lease(2)) == 1


def test_limits_say_what_bounds_a_batch_and_a_reply(api):
    limits = api.get("/v1/limits").json()
    assert {"units", "item_bytes", "item_metadata_bytes", "reply_bytes", "values"} <= limits.keys()


def test_units_of_one_shard_are_committed_alone_and_what_is_fenced_counts_nowhere(api, post, worker, monkeypatch):
    batch = post(3)["id"]
    units = worker.lease(3)
    one, fenced, three = write_together(worker.objects, units)
    reads, get = [], Objects.get
    monkeypatch.setattr(Objects, "get", lambda self, key, **said: reads.append(key) or get(self, key, **said))
    assert worker.commit(units[2], three).status_code == 204
    stale = units[1].model_copy(update={"epoch": units[1].epoch - 1})
    assert worker.commit(stale, fenced).status_code == 409
    assert worker.commit(units[0], one).status_code == 204
    assert reads == [one.key], "a shard is read and checked once for all its units"
    assert worker.fail(units[1], retryable=False).status_code == 204

    listed = api.get(f"/v1/batches/{batch}/manifest").json()
    assert [(ref["unit_id"], ref.get("row", 0)) for ref in listed["shards"]] == sorted(
        [(units[0].unit_id, 0), (units[2].unit_id, 2)]
    )
    assert listed["rows"] == 2 and listed["size_bytes"] == one.size_bytes
    results = [json.loads(line) for line in api.get(f"/v1/batches/{batch}/results").text.splitlines()]
    assert [one["status"] for one in results] == ["succeeded", "failed", "succeeded"]
    manifest = api.get(f"/v1/batches/{batch}").json()["manifest"]["path"]
    assert sorted(row.unit_id for row in read_rows(manifest)) == sorted([units[0].unit_id, units[2].unit_id])


def test_two_units_cannot_be_committed_with_one_row(post, worker):
    post(2)
    units = worker.lease(2)
    one, two = write_together(worker.objects, units)
    assert worker.commit(units[0], one).status_code == 204
    response = worker.commit(units[1], two.model_copy(update={"row": 0}))
    assert (response.status_code, response.json()["errors"][0]["code"]) == (422, "wrong_shard")
    assert worker.commit(units[1], two).status_code == 204
