from __future__ import annotations

import json

import pytest

from dail.synth.schema.manifest import read_manifest, read_rows
from tests.conftest import install_package
from tests.serve.conftest import items


def test_a_new_batch_is_stored_and_all_its_items_are_queued(api, post):
    batch = post(3, synthesis={"samples_per_item": 2}, metadata={"owner": "me"})
    found = api.get(f"/v1/batches/{batch['id']}").json()
    assert found == batch
    assert found["status"] == "in_progress"
    assert found["request_counts"]["queued"] == found["request_counts"]["total"] == 3
    assert found["units"]["queued"] == 6
    assert found["metadata"] == {"owner": "me"}


def test_the_same_body_again_gives_the_same_batch_with_200(api, post):
    first = post(2, synthesis={"tau": 0.8})
    again = api.post("/v1/batches", json={"items": items(2)})  # 0.8 is the default: the same batch
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert again.headers["location"] == f"/v1/batches/{first['id']}"


def test_another_seed_or_run_label_makes_another_batch(post):
    ids = {post()["id"], post(synthesis={"seed": 1})["id"], post(run_label="second draw")["id"]}
    assert len(ids) == 3


def test_an_idempotency_key_with_another_body_is_refused(api):
    headers = {"Idempotency-Key": "k1"}
    first = api.post("/v1/batches", json={"items": items(1)}, headers=headers)
    again = api.post("/v1/batches", json={"items": items(1)}, headers=headers)
    other = api.post("/v1/batches", json={"items": items(2)}, headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert other.json()["errors"][0]["code"] == "idempotency_key_reused"


def test_an_unknown_model_is_refused_naming_the_registered_ones(api):
    response = api.post("/v1/batches", json={"items": items(1), "model": "gpt"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/model"
    assert "tiny" in response.json()["detail"]


def test_the_list_is_newest_first_and_pages_by_cursor(api, post):
    ids = [post(run_label=str(n))["id"] for n in range(3)]
    first = api.get("/v1/batches", params={"limit": 2}).json()
    second = api.get("/v1/batches", params={"limit": 2, "after": first["last_id"]}).json()
    assert [batch["id"] for batch in first["data"] + second["data"]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_a_list_can_be_narrowed_to_a_status(api, post):
    post()
    cancelled = post(run_label="x")["id"]
    api.post(f"/v1/batches/{cancelled}/cancel")
    found = api.get("/v1/batches", params={"status": "cancelled"}).json()
    assert [batch["id"] for batch in found["data"]] == [cancelled]


def test_items_are_listed_in_the_order_they_were_posted(api, post):
    batch = post(3)["id"]
    first = api.get(f"/v1/batches/{batch}/items", params={"limit": 2}).json()
    second = api.get(f"/v1/batches/{batch}/items", params={"limit": 2, "after": first["last_id"]}).json()
    assert [item["id"] for item in first["data"] + second["data"]] == ["i0", "i1", "i2"]


def test_a_finished_batch_has_a_manifest_that_a_trainer_can_read(api, post, worker):
    batch = post(2, synthesis={"samples_per_item": 2})["id"]
    assert worker.run() == 4
    found = api.get(f"/v1/batches/{batch}").json()
    assert (found["status"], found["request_counts"]["completed"], found["shards"]) == ("completed", 2, 4)
    assert found["tokens"] == {"total": 16, "attributed": 12, "student": 8.0, "student_share": 8 / 12}
    path = worker.objects.root / found["manifest"]["key"]
    assert str(path) == found["manifest"]["path"]
    assert read_manifest(path).digest == found["manifest"]["digest"]
    assert len(list(read_rows(path))) == 4
    assert api.get(f"/v1/batches/{batch}/manifest").json()["digest"] == found["manifest"]["digest"]
    assert len(api.get(f"/v1/batches/{batch}/shards").json()["data"]) == 4


def test_a_manifest_before_the_end_is_a_409(api, post):
    response = api.get(f"/v1/batches/{post()['id']}/manifest")
    assert (response.status_code, response.json()["code"]) == (409, "not_finalized")


def test_results_hold_a_line_for_every_ended_unit(api, post, worker):
    batch = post(3)["id"]
    good, bad, _ = worker.lease(3)
    worker.commit(good)
    worker.fail(bad, "context_length_exceeded")
    response = api.get(f"/v1/batches/{batch}/results")
    succeeded, failed = (json.loads(line) for line in response.text.splitlines())
    assert response.headers["content-type"] == "application/x-ndjson"
    assert (succeeded["status"], succeeded["item_id"]) == ("succeeded", good.item_id)
    assert succeeded["trace"]["trace_ids"] == [5, 6, 7, 8]
    assert succeeded["trace"]["student_logprob"][2] is None
    assert failed["error"] == {"code": "context_length_exceeded", "detail": "it broke", "retryable": False}


def test_a_damaged_shard_is_a_failed_line_and_the_others_are_given(api, post, worker):
    batch = post(2)["id"]
    first, second = worker.lease(2)
    shard = worker.write(first)
    worker.commit(first, shard)
    worker.commit(second)
    (worker.objects.root / shard.key).write_bytes(b"rot")
    lines = [json.loads(line) for line in api.get(f"/v1/batches/{batch}/results").text.splitlines()]
    assert [line["status"] for line in lines] == ["failed", "succeeded"]
    assert lines[0]["error"]["code"] == "damaged_shard"


def test_a_batch_whose_units_all_failed_is_completed_without_a_manifest(api, post, worker):
    batch = post(2)["id"]
    for unit in worker.lease(2):
        worker.fail(unit)
    found = api.get(f"/v1/batches/{batch}").json()
    assert (found["status"], found["request_counts"]["failed"], found["manifest"]) == ("completed", 2, None)
    assert api.get(f"/v1/batches/{batch}/manifest").status_code == 404
    item = api.get(f"/v1/batches/{batch}/items/i0").json()
    assert (item["status"], item["samples"][0]["error"]["code"]) == ("failed", "boom")


def test_cancel_ends_queued_units_at_once_and_running_ones_by_heartbeat(api, post, worker):
    batch = post(3)["id"]
    kept, dropped = worker.lease(2)
    cancelled = api.post(f"/v1/batches/{batch}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelling")
    assert cancelled.json()["request_counts"]["cancelled"] == 1
    assert worker.heartbeat(dropped).json()["cancel"] is True
    worker.fail(dropped, "cancelled")
    worker.commit(kept)
    found = api.get(f"/v1/batches/{batch}").json()
    assert (found["status"], found["request_counts"]["cancelled"], found["shards"]) == ("cancelled", 2, 1)
    assert found["manifest"] is not None


def test_cancel_twice_is_one_cancel_and_after_the_end_a_409(api, post, worker):
    batch = post()["id"]
    assert [api.post(f"/v1/batches/{batch}/cancel").status_code for _ in range(2)] == [202, 202]
    ended = post(run_label="x")["id"]
    worker.run()
    assert api.post(f"/v1/batches/{ended}/cancel").json()["code"] == "batch_ended"


def test_items_that_cannot_be_used_are_skipped_if_the_batch_says_so(api, worker):
    good, twin = items(2)
    bad = [
        good,
        {"id": "empty", "problem": "1?", "solution": ""},
        7,
        {**twin, "id": "i0"},
        {**good, "id": "again"},
        twin,
    ]
    body = {"items": bad, "on_invalid_item": "skip"}
    posted = api.post("/v1/batches", json=body)
    assert posted.status_code == 201, posted.text
    batch = posted.json()["id"]
    assert posted.json()["request_counts"] | {"total": 6, "queued": 2, "failed": 4} == posted.json()["request_counts"]
    assert api.post("/v1/batches", json=body).json()["id"] == batch
    assert worker.run() == 2
    ended = api.get(f"/v1/batches/{batch}").json()
    assert (ended["status"], ended["request_counts"]["completed"], ended["request_counts"]["failed"]) == (
        "completed",
        2,
        4,
    )
    found = api.get(f"/v1/batches/{batch}/items").json()["data"]
    assert [item["id"] for item in found if item["status"] == "completed"] == ["i0", "i1"]
    assert [item["error"]["detail"].partition(":")[0] for item in found if item["error"]] == [
        "/items/1/solution", "/items/2", "/items/3/id", "/items/4",
    ]  # fmt: skip
    assert api.get(f"/v1/batches/{batch}/items/{found[1]['id']}").json()["status"] == "failed"
    assert [line["status"] for line in map(json.loads, api.get(f"/v1/batches/{batch}/results").text.splitlines())] == (
        ["failed"] * 4 + ["succeeded"] * 2
    )
    assert api.post(f"/v1/batches/{batch}/retry", json={"items": "failed"}).json()["code"] == "nothing_to_retry"
    assert api.post("/v1/batches", json={"items": bad[1:3], "on_invalid_item": "skip"}).status_code == 422


def test_a_batch_too_many_is_told_to_come_back(api, post):
    posted = [post(run_label=str(n))["id"] for n in range(20)]
    assert api.get("/v1/limits").json()["open_batches"] == 20
    refused = api.post("/v1/batches", json={"items": items(1), "run_label": "20"})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_open_batches")
    assert 0 < int(refused.headers["retry-after"]) <= 120
    assert api.post("/v1/batches", json={"items": items(1), "run_label": "0"}).status_code == 200  # there already
    api.post(f"/v1/batches/{posted[0]}/cancel")
    post(run_label="20")


def test_what_is_not_there_is_a_404(api, post):
    batch = post()["id"]
    for path in ("/v1/batches/batch_none", "/v1/batches/batch_none/results", f"/v1/batches/{batch}/items/none"):
        response = api.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_openapi_shows_every_body_with_an_example(api):
    page = api.get("/openapi.json").json()
    schemas = page["components"]["schemas"]
    for path, name in (("/v1/batches", "BatchIn"), ("/internal/v1/leases", "LeaseRequest")):
        body = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body == {"$ref": f"#/components/schemas/{name}"}
    assert schemas["BatchIn"]["example"]["items"]
    assert schemas["BatchOut"]["example"]["request_counts"]
    named = {ref.rsplit("/", 1)[-1] for ref in _refs(page)}
    assert named <= set(schemas)


def _refs(value):
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "$ref":
                yield part
            yield from _refs(part)
    elif isinstance(value, list):
        for part in value:
            yield from _refs(part)


@pytest.mark.parametrize("setting", ["prompts", "extractor", "acceptance"])
@pytest.mark.parametrize(
    ("reference", "code", "detail"),
    [
        ("/etc/evil.py:run", "value_error", "runs no file that a request names"),
        ("os:system", "value_error", "runs no file that a request names"),
        ("./folder", "value_error", "runs no file that a request names"),
        ("nobody", "unknown_extension", "'nobody'; known are"),
    ],
)
def test_what_a_batch_brings_along_must_be_installed(api, setting, reference, code, detail):
    reply = api.post("/v1/batches", json={"items": items(1), "synthesis": {setting: reference}})
    assert reply.status_code == 422, reply.text
    (fault,) = reply.json()["errors"]
    assert (fault["pointer"], fault["code"]) == ("/synthesis", code) and detail in fault["detail"]


def test_what_is_installed_is_pinned_by_its_digest(api, post, worker, tmp_path, monkeypatch):
    (tmp_path / "lawful.py").write_text("def cited(solution, kind, answer):\n    return []\n")
    install_package(tmp_path, "lawful", "[dail.extractors]\ncited = lawful:cited\n")
    monkeypatch.syspath_prepend(tmp_path)
    batch = post(1, synthesis={"extractor": "cited"})
    (unit,) = worker.lease()
    assert unit.batch_id == batch["id"] and unit.synthesis.extractor.startswith("cited#")
    assert batch["synthesis"]["extractor"] == unit.synthesis.extractor
    again = api.post("/v1/batches", json={"items": items(1), "synthesis": {"extractor": "cited"}})
    assert (again.status_code, again.json()["id"]) == (200, batch["id"])
    (tmp_path / "lawful.py").write_text("def cited(solution, kind, answer):\n    return ['a']\n")
    assert post(1, synthesis={"extractor": "cited"})["id"] != batch["id"]


def test_what_is_dealt_is_what_dail_synth_deals(api, worker, model):
    from dail.synth.run.local import make_batch
    from dail.synth.schema.items import check_items
    from dail.synth.schema.synthesis import Synthesis

    asked = {"contexts": ["wrong_hint", "other_solution"], "waypoints_from": "other", "seed": 3}
    given = [{**item, "answer": str(n)} for n, item in enumerate(items(5))]
    response = api.post("/v1/batches", json={"items": given, "synthesis": asked})
    assert response.status_code == 201, response.text
    leased = {unit.unit_id: unit for unit in worker.lease(10)}
    here = make_batch(check_items(given), Synthesis.model_validate(asked), model).units
    assert leased.keys() == here.keys()
    assert all(leased[name].item == unit.item and unit.item.dealt for name, unit in here.items())


@pytest.mark.parametrize(
    ("asked", "code"),
    [({"shown": "other_solution"}, "no_other_problem"), ({"contexts": ["answer_only"]}, "no_answer")],
)
def test_a_batch_that_lacks_what_is_to_be_dealt_is_refused(api, asked, code):
    response = api.post("/v1/batches", json={"items": items(1), "synthesis": asked})
    assert (response.status_code, response.json()["errors"][0]["code"]) == (422, code)
    assert response.json()["errors"][0]["pointer"] == "/items/0"
