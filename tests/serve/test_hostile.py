"""Hostile bodies against a real server (`hostile.py`): the documented answer, nothing fetched, alive after each."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from dail.serve.errors import MEDIA_TYPE
from tests.serve import hostile
from tests.serve.conftest import items

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def canary():
    """A server that nobody may ask: its URL and the paths that were asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def _refused(http, body, value=None):
    """(status, pointer) of a body that must not be taken."""
    response = http.post("/v1/batches", content=body, headers=JSON)
    assert response.headers["content-type"] == MEDIA_TYPE, response.text
    assert http.get("/livez").status_code == 200
    if isinstance(value, str) and len(value) > 6:
        assert json.dumps(value)[1:-1] not in response.text, "the answer gives the refused text back"
    return response.status_code, response.json()["errors"][0]["pointer"]


def _taken(http, body):
    response = http.post("/v1/batches", content=body, headers=JSON)
    assert response.status_code in (200, 201), response.text
    ended = http.post(f"/v1/batches/{response.json()['id']}/cancel")
    assert ended.status_code in (202, 409), ended.text


@pytest.mark.parametrize("name", hostile.BYTES)
def test_bytes_that_are_no_json_that_is_taken(http, name):
    status, _ = _refused(http, hostile.BYTES[name])
    assert status == 400


@pytest.mark.parametrize("where", hostile.KNOWN)
def test_a_name_is_one_that_is_known_and_nothing_is_looked_up(http, canary, where):
    url, asked = canary
    for value in {**hostile.uris(url), **hostile.NAMES, **hostile.MARKUP, **hostile.CONTROLS}.values():
        kept_secret = None if where == "synthesis.grader" else value  # which extension is missing is told by its name
        assert _refused(http, hostile.put(where, value), kept_secret) == (422, hostile.KNOWN[where]), value
    assert asked == []


@pytest.mark.parametrize("where", hostile.TEXTS)
def test_a_text_may_be_any_text_and_is_not_read_as_a_place(http, canary, where):
    url, asked = canary
    for value in {**hostile.uris(url), **hostile.MARKUP}.values():
        _taken(http, hostile.put(where, value))
    assert asked == []


def test_the_canary_would_tell(canary):
    url, asked = canary
    httpx.get(f"{url}/self", trust_env=False)
    assert asked.pop() == "/self"


@pytest.mark.parametrize("where", hostile.TEXTS)
def test_a_text_that_steers_a_terminal_is_refused(http, where):
    for value in {**hostile.CONTROLS, **hostile.ANSI}.values():
        assert _refused(http, hostile.put(where, value), value) == (422, hostile.TEXTS[where]), repr(value)


@pytest.mark.parametrize("name", hostile.COUNTS)
def test_a_count_is_a_number_in_its_bounds(http, name):
    for kind, value in hostile.NUMBERS.items():
        status, pointer = _refused(http, hostile.put(f"synthesis.{name}", value))
        wanted = 400 if kind == "beyond 64 bits" else 422  # what cannot be stored at all is no JSON that is taken
        assert (status, pointer) == (wanted, f"/synthesis/{name}"), kind


def test_there_are_enough_of_them():
    texts = len(hostile.CONTROLS) + len(hostile.ANSI) + len(hostile.MARKUP) + len(hostile.uris(""))
    assert len(hostile.BYTES) + len(hostile.TEXTS) * texts + len(hostile.COUNTS) * len(hostile.NUMBERS) >= 120


@pytest.mark.parametrize("kind", hostile.POISONED)
def test_one_poisoned_item_fails_alone(api, kind):
    value, code = hostile.POISONED[kind]
    body = {"items": [*items(20), value, *items(40)[21:]], "on_invalid_item": "skip"}
    batch = api.post("/v1/batches", json=body)
    assert batch.status_code == 201, batch.text
    counts = batch.json()["request_counts"]
    assert (counts["total"], counts["failed"], counts["queued"]) == (40, 1, 39)
    (failed,) = api.get(f"/v1/batches/{batch.json()['id']}/items", params={"status": "failed"}).json()["data"]
    assert failed["error"]["code"] == code
