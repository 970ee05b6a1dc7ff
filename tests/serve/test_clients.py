"""Clients that are not ours: the OpenAI SDK where its calls are promised, and many that post one body at once."""

from __future__ import annotations

import threading
import time

import httpx
import openai
import pytest
import uvicorn

from dail.serve.app import create_app
from dail.serve.commands import _save
from dail.synth.core.errors import ApiError
from dail.synth.core.http import Client
from tests.serve.conftest import items, start_api
from tests.serve.worker import FakeWorker


@pytest.fixture
def sdk(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", http_client=httpx.Client(trust_env=False)) as client:
        yield client


def test_the_openai_sdk_lists_retrieves_and_cancels(sdk, http, tmp_path):
    posted = [
        http.post("/v1/batches", json={"items": items(1), "run_label": f"{tmp_path.name}-{n}"}).json()["id"]
        for n in range(5)
    ]
    listed = [batch.id for batch in sdk.batches.list(limit=2)]
    assert listed[:5] == posted[::-1] and len(set(listed)) == len(listed)
    for batch in posted:
        assert sdk.batches.retrieve(batch).status == "in_progress"
        assert sdk.batches.cancel(batch).status == "cancelled"


def test_what_can_never_succeed_is_asked_for_once_by_the_openai_sdk(live, http, tmp_path):
    asked = []
    hooks = {"request": [asked.append]}
    body = {"items": items(1), "run_label": tmp_path.name}
    batch = http.post("/v1/batches", json=body, headers={"Idempotency-Key": tmp_path.name}).json()["id"]
    client = httpx.Client(trust_env=False, event_hooks=hooks)
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", http_client=client) as sdk:
        with pytest.raises(openai.UnprocessableEntityError):
            other = {**body, "items": items(2)}
            sdk.post("/batches", cast_to=object, body=other, options={"headers": {"Idempotency-Key": tmp_path.name}})
        with pytest.raises(openai.NotFoundError):
            sdk.batches.retrieve("batch_none")
    assert len(asked) == 2
    http.post(f"/v1/batches/{batch}/cancel")


def test_one_body_posted_at_once_to_two_servers_is_one_batch(tmp_path, model_folder):
    servers = [start_api(tmp_path / "api", model_folder) for _ in range(2)]
    try:
        replies = []
        start = threading.Barrier(32)

        def post(number):
            start.wait()
            url = f"{servers[number % 2].url}/v1/batches"
            replies.append(httpx.post(url, json={"items": items(3)}, timeout=120, trust_env=False))

        threads = [threading.Thread(target=post, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(reply.status_code for reply in replies) == [200] * 31 + [201]
        assert len({reply.json()["id"] for reply in replies}) == 1
    finally:
        for one in servers:
            one.kill()


def test_results_that_break_off_are_no_file(settings, tmp_path, model, monkeypatch):
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        while not server.started:
            time.sleep(0.02)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with httpx.Client(base_url=url, trust_env=False) as http:
            batch = http.post("/v1/batches", json={"items": items(2)}).json()["id"]
            FakeWorker(http, model).run()
        whole = app.state.service.outputs._results

        def broken(batch_id):
            yield next(whole(batch_id))
            raise RuntimeError("the disk went away")

        monkeypatch.setattr(app.state.service.outputs, "_results", broken)
        with Client(url) as client, pytest.raises(ApiError, match="broke off"):
            _save(client, batch, tmp_path / "out.jsonl")
        assert not list(tmp_path.glob("out*"))
    finally:
        server.should_exit = True
        serving.join()
