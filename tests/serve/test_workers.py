"""What is said to a worker before it starts an engine, and of a batch that nobody works on."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from dail.serve.rules import workers as rules
from dail.serve.store.tables import WORKERS
from dail.synth.core.config import TOOL_VERSION
from dail.synth.core.errors import ApiError
from dail.synth.core.http import worker_http
from dail.synth.run import unit_source
from dail.synth.run.unit_source import greet
from dail.synth.schema.models import ModelIdentity, differences, identify
from dail.synth.schema.shards import SCHEMA_VERSION
from dail.synth.schema.units import WIRE_VERSION, Hello
from tests.conftest import safetensors_of
from tests.serve.conftest import make_model, start_api
from tests.serve.worker import FakeWorker


def hello(api, model: ModelIdentity, **more: object) -> httpx.Response:
    said = Hello(worker="w1", wire=WIRE_VERSION, tool_version=TOOL_VERSION, schema_version=SCHEMA_VERSION, model=model,
                 host="node7", versions={"vllm": "0.32.0"}, time=time.time())  # fmt: skip
    response: httpx.Response = api.post("/internal/v1/hello", json=said.model_dump(mode="json") | more)
    return response


def test_a_worker_that_could_work_is_welcome_and_remembered(api, model, settings):
    reply = hello(api, model)
    assert reply.status_code == 200, reply.text
    assert reply.json()["wire"] == WIRE_VERSION and reply.json()["lease_s"] == settings.lease_s
    assert abs(reply.json()["time"] - time.time()) < 60
    with api.app.state.service.store.read() as tx:
        (known,) = tx.workers.recent(60)
    assert (known.id, known.host, known.versions, known.model) == ("w1", "node7", {"vllm": "0.32.0"}, model)


@pytest.mark.parametrize("wire", [1, WIRE_VERSION + 1])
def test_another_protocol_is_refused_for_good(api, model, wire):
    reply = hello(api, model, wire=wire)
    assert (reply.status_code, reply.json()["code"]) == (409, "wire_version")
    assert f"speaks version {wire}" in reply.json()["detail"] and "install one release" in reply.json()["detail"]
    assert reply.headers["x-should-retry"] == "false"


def test_a_worker_that_tells_no_version_at_its_lease_is_too_old(api, model):
    lease = {"worker": "w", "count": 1, "model": model.model_dump(mode="json")}
    assert api.post("/internal/v1/leases", json=lease).json()["code"] == "wire_version"
    assert api.post("/internal/v1/leases", json={**lease, "wire": WIRE_VERSION}).status_code == 200


def test_shards_of_another_version_are_refused(api, model):
    reply = hello(api, model, schema_version=SCHEMA_VERSION + 1)
    assert (reply.status_code, reply.json()["code"]) == (409, "schema_version")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("revision", "weights"),
        ("tokenizer_hash", "tokenizer"),
        ("template_hash", "templates or prompts"),
        ("student", "student's own adapter or weights"),
        ("privileged", "privileged student's adapter"),
    ],
)
def test_which_part_of_a_model_differs_is_said(api, model, part, words):
    other = model.model_copy(update={part: "other"})
    reply = hello(api, other)
    assert reply.status_code == 422
    assert f"of tiny differ: {words};" in reply.json()["detail"]
    assert differences(model, other) == [words]


def test_a_model_that_an_open_batch_was_posted_for_is_still_wanted(api, post, model):
    post()
    api.app.state.service.workers._models.clear()  # as after a restart with other models
    assert hello(api, model).status_code == 200


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, model_folder):
    server = start_api(
        tmp_path_factory.mktemp("guarded"), model_folder, DAIL_WORKER_TOKEN="w" * 20, DAIL_TOKEN="p" * 20
    )
    yield server
    server.kill()


def greeted(url: str, model: ModelIdentity, token: str | None = "w" * 20):
    return asyncio.run(greet(worker_http(url, token), "w1", model, {}))


def test_a_worker_greets_a_real_server(guarded, model, monkeypatch, caplog):
    assert greeted(guarded.url, model).tool_version == TOOL_VERSION
    assert caplog.text == ""
    clock = time.time
    monkeypatch.setattr(unit_source.time, "time", lambda: clock() + 3600)
    greeted(guarded.url, model)
    assert "this machine's clock is 3600 s before the API's" in caplog.text


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("x" * 20, 401), ("p" * 20, 403)])
def test_a_worker_with_the_wrong_token_hears_so_at_once(guarded, model, token, status):
    with pytest.raises(ApiError, match=f"refused with {status}.*set DAIL_TOKEN to a worker token"):
        greeted(guarded.url, model, token)


def test_a_worker_with_other_files_hears_so_at_once(guarded, tmp_path):
    folder = make_model(tmp_path / "tiny")
    (folder / "model.safetensors").write_bytes(safetensors_of(b"other weights"))
    with pytest.raises(ApiError, match="of tiny differ: weights; start the worker with the same files"):
        greeted(guarded.url, identify(folder, "tiny"))


def test_a_batch_says_that_no_worker_asks_for_its_model(api, post, worker, model):
    batch = post(2)["id"]

    def waiting_for():
        return api.get(f"/v1/batches/{batch}").json()["waiting_for"]

    assert waiting_for()["reason"] == "no_worker"
    assert "no worker with the model tiny" in waiting_for()["detail"]
    assert (
        "1 open batches wait for a worker with their model: tiny"
        in api.get("/readyz").json()["checks"]["work"]["detail"]
    )
    hello(api, model)
    assert waiting_for() is None, "one is starting its engine"
    worker.run()
    assert waiting_for() is None and api.get("/readyz").json()["ok"]


def test_a_batch_says_that_workers_have_other_files(api, post, model):
    batch = post()["id"]
    other = model.model_copy(update={"revision": "0" * 40})
    api.app.state.service.models["tiny"] = other  # as after a restart with other files under the same name
    FakeWorker(api, other).lease()
    found = api.get(f"/v1/batches/{batch}").json()
    assert found["waiting_for"]["reason"] == "other_model"
    assert "1 workers ask for a model tiny whose weights are not those of this batch" in found["waiting_for"]["detail"]
    assert api.get("/readyz").json()["ok"], "it is no fault of the server"


def test_a_worker_that_fell_silent_is_not_counted_on_and_one_that_beats_is(api, post, model, monkeypatch):
    batch = post(2, synthesis={"samples_per_item": 2})["id"]
    worker = FakeWorker(api, model)
    (unit,) = worker.lease()
    monkeypatch.setattr(rules, "_TELL_EVERY_S", 0.0)
    assert worker.heartbeat(unit).status_code == 200
    with api.app.state.service.store.read() as tx:
        heard = tx.workers.recent(60)[0].heard_at
    worker.heartbeat(unit)
    with api.app.state.service.store.read() as tx:
        assert tx.workers.recent(60)[0].heard_at > heard
    worker.fail(unit, "worker_stopped", retryable=True)
    monkeypatch.setattr(rules, "SILENT_S", -1.0)
    assert api.get(f"/v1/batches/{batch}").json()["waiting_for"]["reason"] == "no_worker"


def test_a_worker_whose_engine_starts_for_minutes_is_counted_on(api, post, model, monkeypatch):
    batch = post(1)["id"]
    hello(api, model)
    with api.app.state.service.store.write() as tx:
        tx._sql.execute(WORKERS.update().values(heard_at=0))
    assert api.get(f"/v1/batches/{batch}").json()["waiting_for"]["reason"] == "no_worker"
    assert api.post("/internal/v1/leases/heartbeat", json={"worker": "w1", "beats": []}).status_code == 200
    assert api.get(f"/v1/batches/{batch}").json()["waiting_for"] is None


def test_asking_writes_a_row_now_and_then_only(api, worker, monkeypatch):
    written = []
    saw = rules.Transaction.__init__

    def watched(self, *arguments):
        saw(self, *arguments)
        row = self.workers.saw
        self.workers.saw = lambda *told: written.append(told) or row(*told)

    monkeypatch.setattr(rules.Transaction, "__init__", watched)
    for _ in range(20):
        worker.lease()
    assert len(written) == 1
