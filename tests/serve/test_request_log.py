from __future__ import annotations

import json
import subprocess

import httpx
import pytest

from dail.synth.core.logs import FIELDS
from tests.serve.conftest import items, start_api
from tests.serve.worker import FakeWorker

CANARY = "Canary: 2+2?"
ALWAYS = {"ts", "level", "event"}


@pytest.mark.parametrize("path", ["/livez", "/v1/batches", "/v1/batches/none", "/nowhere"])
def test_a_plain_request_id_is_kept_and_any_other_replaced(api, path):
    assert api.get(path, headers={"X-Request-Id": "build-17"}).headers["X-Request-Id"] == "build-17"
    for odd in ("a b", "x" * 65, "", "{}"):
        assert api.get(path, headers={"X-Request-Id": odd}).headers["X-Request-Id"].startswith("req_")


def test_a_problem_has_the_id_of_its_answer(api, monkeypatch):
    for answer in (api.get("/v1/batches/none"), api.post("/v1/batches", content=b"{"), api.delete("/livez")):
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    monkeypatch.setattr(api.app.state.service.batches, "page", lambda *_: 1 / 0)
    answer = api.get("/v1/batches", headers={"X-Request-Id": "build-17"})
    assert (answer.status_code, answer.json()["request_id"]) == (500, "build-17")
    assert answer.headers["X-Request-Id"] == "build-17"


@pytest.fixture(scope="module")
def log(tmp_path_factory, model_folder, model):
    """What a server wrote in a whole run of a batch, wrong requests included."""
    stderr = tmp_path_factory.mktemp("log") / "stderr"
    with open(stderr, "w") as out:
        live = start_api(
            tmp_path_factory.mktemp("api"), model_folder, stderr=out, DAIL_LOG_FORMAT="json", DAIL_TOKEN=f"t{'k' * 20}"
        )
    bearer = {"Authorization": f"Bearer t{'k' * 20}"}
    with httpx.Client(base_url=live.url, timeout=30, trust_env=False, headers=bearer) as http:
        body = {"items": [{**one, "problem": CANARY, "solution": f"{CANARY} {one['id']}"} for one in items(3)]}
        batch = http.post("/v1/batches", json=body).json()
        worker = FakeWorker(http, model)
        first, second, third = worker.lease(3)
        worker.commit(first)
        worker.fail(second, code=CANARY, detail=CANARY)
        worker.fail(third, code="engine_dead", detail=CANARY)
        worker.commit(third)  # fenced
        http.post("/v1/batches", json={"items": [{"problem": CANARY, "solution": "", CANARY: CANARY}]})
        http.post("/v1/batches", content=f'{{"{CANARY}'.encode())
        http.get(f"/v1/batches/{CANARY}", params={"after": CANARY}, headers={"X-Request-Id": CANARY})
        http.get("/v1/batches", headers={"Authorization": f"Bearer {CANARY}"})
        http.get(f"/v1/batches/{batch['id']}/results")
        live.process.terminate()
        live.process.wait(20)
    return stderr.read_text("utf-8"), batch


def test_every_line_is_an_object_of_known_fields(log):
    for line in map(json.loads, log[0].splitlines()):
        known = {"logger", "detail", "error", "at"} if line["event"] == "message" else set(FIELDS)
        # what the verb says to people is not part of the log
        assert set(line) <= ALWAYS | known, line


def test_a_run_is_told_by_events_with_their_ids(log):
    lines = [json.loads(line) for line in log[0].splitlines()]
    events = {line["event"] for line in lines}
    assert {"request", "batch_created", "unit_leased", "unit_committed", "unit_failed", "fenced"} <= events
    committed = next(line for line in lines if line["event"] == "unit_committed")
    assert (committed["batch_id"], committed["epoch"], committed["worker"]) == (log[1]["id"], 1, "w1")
    assert committed["duration_s"] > 0
    assert next(line for line in lines if line.get("status") == 409)["code"] == "fenced"


def test_no_text_and_no_token_is_in_the_log(log):
    assert "Canary" not in log[0]
    assert "kkkk" not in log[0]


def test_only_what_may_be_chosen_is(dail):
    assert dail("serve", "--log-format", "xml").returncode == 2


def test_a_wrong_format_in_the_environment_is_one_line(tmp_path):
    from tests.serve.conftest import DAIL, clean_environment

    done = subprocess.run(
        (*DAIL, "serve", "--data-dir", str(tmp_path)),
        env=clean_environment() | {"DAIL_LOG_FORMAT": "xml"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "log_format" in done.stderr
