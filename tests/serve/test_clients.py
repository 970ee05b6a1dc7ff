"""Clients that are not ours: the OpenAI SDK where its calls are promised, and many that post one body at once."""

from __future__ import annotations

import threading

import httpx
import openai
import pytest

from tests.serve.conftest import items, start_api


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
