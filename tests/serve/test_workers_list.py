from __future__ import annotations

import json

from tests.serve.conftest import lapse, lapse_leases
from tests.serve.worker import FakeWorker


def test_each_worker_is_listed_with_what_it_holds(api, post, model):
    batch = post(3)
    first, second = FakeWorker(api, model, "w1"), FakeWorker(api, model, "w2")
    held = first.lease(2)
    second.lease(1)
    data = api.get("/v1/workers").json()["data"]
    assert [(one["id"], one["model"], one["silent"], len(one["units"])) for one in data] == [
        ("w1", "tiny", False, 2),
        ("w2", "tiny", False, 1),
    ]
    assert {unit["unit_id"] for unit in data[0]["units"]} == {unit.unit_id for unit in held}
    assert data[0]["units"][0]["batch_id"] == batch["id"]
    assert not data[0]["units"][0]["lapsed"]


def test_what_nobody_renews_is_lapsed(api, post, worker):
    post()
    worker.lease()
    lapse(api.app.state.service.store)
    (one,) = api.get("/v1/workers").json()["data"]
    assert all(unit["lapsed"] for unit in one["units"])


def test_the_verb_shows_the_same(live, http, dail, model):
    http.post("/v1/batches", json={"items": [{"problem": "workers 1+1?", "solution": "2"}]})
    FakeWorker(http, model, "shown").lease(1)
    shown = dail("workers", "--api", live.url, "--json")
    assert shown.returncode == 0
    assert "shown" in [json.loads(line)["id"] for line in shown.stdout.splitlines()]
    assert "shown  tiny" in dail("workers", "--api", live.url).stdout
    lapse_leases(live.data_dir)
