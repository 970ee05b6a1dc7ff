"""Large batches: JSON lines, gzip, and what is neither."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib

import pytest

from dail.serve.request_body import BODY_BYTES
from dail.synth.core import http as client_module
from dail.synth.core.http import Client
from tests.serve.conftest import items

LINES = {"Content-Type": "application/x-ndjson"}
GZIP = {"Content-Encoding": "gzip"}
JSON = {"Content-Type": "application/json"}


def lines(*values: object) -> bytes:
    return b"\n".join(json.dumps(value).encode() for value in values) + b"\n"


def test_a_batch_is_the_same_however_it_is_sent(api):
    settings = {"model": "tiny", "synthesis": {"samples_per_item": 2}, "metadata": {"owner": "ana"}}
    whole = json.dumps({**settings, "items": items(3)}).encode()
    by_line = lines(settings, *items(3))
    sent = [
        (whole, JSON),
        (gzip.compress(whole), JSON | GZIP),
        (by_line, LINES),
        (gzip.compress(by_line), LINES | GZIP),
    ]
    replies = [api.post("/v1/batches", content=body, headers=headers) for body, headers in sent]
    assert [reply.status_code for reply in replies] == [201, 200, 200, 200]
    assert len({reply.json()["id"] for reply in replies}) == 1


def test_lines_without_settings_take_the_defaults(api):
    reply = api.post("/v1/batches", content=b"{}\n\n" + lines(*items(2)) + b"\n\n", headers=LINES)
    assert reply.status_code == 201 and reply.json()["request_counts"]["total"] == 2


def test_a_fault_in_a_line_is_told_by_its_item(api):
    reply = api.post(
        "/v1/batches", content=lines({}, *items(2), {"id": "x", "problem": "1?", "solution": " "}), headers=LINES
    )
    assert reply.status_code == 422 and reply.json()["errors"][0]["pointer"] == "/items/2/solution"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_lines"),
        (b"[1]\n", "bad_lines"),
        (b'{"id": "a", "problem": "p?", "solution": "s."}\n{"id": "b", "problem": "p?", "solution": "s."}\n', None),
        (b'{"items": []}\n{"id": "a", "problem": "1?", "solution": "s."}\n', None),
        (b'{}\n{"id": "a", "problem": "1?", "solution": "s."}, {"id": "b"}\n', "bad_lines"),
        (b'{}\n{"id": "a", "problem": "1?", "solution": "s."}], "synthesis": {"tau": 0.1}, "more": [{}\n', None),
        (b'{}\n{"id": "a", "problem": "1?",\n"solution": "s."}\n', None),
        (b'{"synthesis": {"tau": 0.5}\n{"id": "a", "problem": "1?", "solution": "s."}\n', None),
    ],
)  # fmt: skip
def test_lines_that_are_none_are_refused(api, body, code):
    reply = api.post("/v1/batches", content=body, headers=LINES)
    assert 400 <= reply.status_code < 500, reply.text
    assert code is None or reply.json()["code"] == code
    assert api.get("/v1/batches").json()["data"] == []


WHOLE = gzip.compress(json.dumps({"items": items(1)}).encode(), mtime=0)  # the same in every process of the tests


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"no gzip", JSON | GZIP, 400, "bad_gzip"),
        (WHOLE[:-5], JSON | GZIP, 400, "bad_gzip"),
        (WHOLE[:20] + b"\x00" + WHOLE[21:], JSON | GZIP, 400, "bad_gzip"),
        (WHOLE + WHOLE, JSON | GZIP, 400, "bad_gzip"),
        (WHOLE + b"x", JSON | GZIP, 400, "bad_gzip"),
        (zlib.compress(b"{}"), JSON | GZIP, 400, "bad_gzip"),
        (b"", JSON | GZIP, 400, "bad_gzip"),
        (WHOLE, JSON | {"Content-Encoding": "br"}, 415, "content_encoding"),
        (WHOLE, JSON | {"Content-Encoding": "gzip, gzip"}, 415, "content_encoding"),
        (WHOLE, {"Content-Type": "application/gzip"}, 415, "content_type"),
        (WHOLE, {"Content-Type": "application/vnd.apache.parquet"}, 415, "content_type"),
    ],
    ids=range(11),
)
def test_what_cannot_be_unpacked_is_refused(api, body, headers, status, code):
    reply = api.post("/v1/batches", content=body, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_a_bomb_is_stopped_while_it_is_unpacked(api):
    bomb = gzip.compress(b'{"items": [' + b" " * (3 * BODY_BYTES), 6)
    assert len(bomb) < BODY_BYTES // 100
    tracemalloc.start()
    try:
        reply = api.post("/v1/batches", content=bomb, headers=JSON | GZIP)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
    assert most < 2 * BODY_BYTES


def test_workers_bodies_are_not_unpacked(api):
    reply = api.post("/internal/v1/leases", content=gzip.compress(b"{}"), headers=JSON | GZIP)
    assert reply.json()["code"] == "content_encoding"


def test_a_client_packs_what_is_large(http, live, monkeypatch):
    monkeypatch.setattr(client_module, "_PACKED_FROM", 10)
    packed = []
    compress = gzip.compress
    monkeypatch.setattr(client_module.gzip, "compress", lambda *of: packed.append(of) or compress(*of))
    with Client(live.url) as client:
        batch = client.post("/v1/batches", {"items": items(2), "run_label": "packed"})
    assert packed and batch["request_counts"]["total"] == 2
