"""Paths and URLs that clients send: nothing is fetched, read or written by them, wherever they stand.

The fields are read from the bodies' schemas, so that a new one is tried as well.
"""

from __future__ import annotations

import copy
import http.server
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.batch_in import BatchIn
from dail.synth.core.files import sha256
from dail.synth.schema.units import Commit, LeaseRequest
from tests.serve.worker import FakeWorker

SECRET = "a line that nobody but this machine has"
Place = tuple[str | int, ...]
FULL: dict[str, Any] = {
    "item": {"problem": "1 + 1?", "solution": "It is 2."},
    "message": {"role": "user", "content": "1 + 1?"},
}

FREE = {  # what may be any text
    *("problem", "solution", "answer", "content", "waypoints", "privileged", "wrong_answer", "source", "license"),
    *("metadata", "run_label", "opening", "stop", "suppress", "template_args"),
}
HEADERS = ("Idempotency-Key", "If-None-Match", "Last-Event-ID", "X-Forwarded-Host", "Referer", "Content-Type")


@pytest.fixture(scope="module")
def lure(tmp_path_factory) -> Iterator[tuple[list[str], list[str]]]:
    """Addresses to send, and what was asked of the server that some of them name."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    file = tmp_path_factory.mktemp("secret") / "secret.txt"
    file.write_text(SECRET)
    here = f"127.0.0.1:{server.server_port}"
    yield (
        [
            f"http://{here}/x.jsonl",
            f"s3://bucket/x?endpoint_override={here}&scheme=http",
            f"simplecache::http://{here}/x",
            f"zip://x::http://{here}/x.zip",
            f"hf://datasets/me/x@{here}",
            f"//{here}/x",
            f"file://{file}",
            str(file),
            "/.." * 12 + str(file),
            quote("/.." * 12 + str(file), safe=""),
            f"\\\\{here}\\x",
            f"{file}:run",
        ],
        asked,
    )
    server.shutdown()
    server.server_close()


def places(schema: dict[str, Any], defs: dict[str, Any], at: Place = ()) -> Iterator[Place]:
    """Where a text may stand in a body of this schema."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if len(at) > 5:  # items within items
        return
    for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from places(one, defs, at)
    if schema.get("type") == "string" or not {"type", "anyOf", "oneOf"} & schema.keys():
        yield at
    if "items" in schema:
        yield from places(schema["items"], defs, (*at, 0))
    for name, one in schema.get("properties", {}).items():
        yield from places(one, defs, (*at, name))
    if isinstance(more := schema.get("additionalProperties"), dict):
        yield from places(more, defs, (*at, "name"))


def with_text(body: Any, place: Place, text: str) -> Any:
    """The body with a text at a place, and around it what is wanted there."""
    body = copy.deepcopy(body)
    here = body
    for step, after in pairwise(place):
        fresh: Any = [] if isinstance(after, int) else {}
        if step == "dealt":
            fresh = dict(FULL["item"])
        if isinstance(step, int):
            if not here:
                here.append(dict(FULL["message"]) if after in ("role", "content") else fresh)
        elif not isinstance(here.get(step), type(fresh)):
            here[step] = fresh
        here = here[step]
    if isinstance(here, list):
        here[:] = [text]
    else:
        here[place[-1]] = text
    return body


def of(model: type) -> list[Place]:
    schema = model.model_json_schema()  # type: ignore[attr-defined]
    return sorted(set(places(schema, schema["$defs"])), key=str)


@pytest.fixture
def app(settings) -> Iterator[TestClient]:
    many = settings.model_copy(update={"open_batches": 100_000})
    with TestClient(create_app(many), "http://127.0.0.1") as client:
        yield client


def tree(folder: Path) -> set[Path]:
    return {path for path in folder.parent.rglob("*") if not path.is_relative_to(folder)}


def harmless(answer: Any, asked: list[str]) -> None:
    assert answer.status_code < 500, answer.text
    assert SECRET not in answer.text
    assert asked == []


def test_no_text_of_a_batch_is_taken_for_an_address(app, lure, settings, model):
    addresses, asked = lure
    before, found = tree(settings.data_dir), of(BatchIn)
    assert {("model",), ("items", 0, "id"), ("items", 0, "problem", 0, "content"), ("synthesis", "prompts")} <= {*found}
    taken = set()
    for number, place in enumerate(found):
        for address in addresses[number % 3 :: 3]:
            answer = app.post("/v1/batches", json=with_text({"items": [FULL["item"]]}, place, address))
            harmless(answer, asked)
            if answer.status_code == 201:
                taken.add(place)
            else:
                assert (place, answer.status_code) == (place, 422)
    assert {place for place in taken if not FREE & {*map(str, place)}} == set()
    FakeWorker(app, model).run()
    for batch in app.get("/v1/batches", params={"limit": 100}).json()["data"]:
        harmless(app.get(f"/v1/batches/{batch['id']}/results"), asked)
    assert tree(settings.data_dir) == before


def test_no_address_leads_out_of_a_route_or_a_header(app, lure):
    addresses, asked = lure
    for address in addresses:
        for url in ("/v1/batches/{}", "/v1/batches/{}/results", "/v1/batches/x/items/{}", "/static-offline-docs/{}"):
            for spelled in (address, quote(address, safe="")):
                harmless(app.get(url.format(spelled)), asked)
        for name in ("after", "status", "limit"):
            harmless(app.get("/v1/batches", params={name: address}), asked)
        for header in HEADERS:
            harmless(app.post("/v1/batches", json={"items": [FULL["item"]]}, headers={header: address}), asked)


def test_no_text_of_a_worker_is_taken_for_an_address(app, lure, settings, model):
    addresses, asked = lure
    app.post("/v1/batches", json={"items": [FULL["item"]]})
    worker = FakeWorker(app, model)
    (unit,) = worker.lease()
    before = tree(settings.data_dir)
    commit = Commit(worker=worker.name, epoch=unit.epoch, shard=worker.write(unit)).model_dump(mode="json")
    lease = LeaseRequest(worker="other", count=1, model=model).model_dump(mode="json")
    for path, body, model_of in (
        ("/internal/v1/leases", lease, LeaseRequest),
        (f"/internal/v1/leases/{unit.unit_id}/commit", commit, Commit),
    ):
        for place in of(model_of):
            for address in addresses:
                harmless(app.post(path, json=with_text(body, place, address)), asked)
    for address in addresses:
        for spelled in (
            address,
            quote(address, safe=""),
            "/".join((unit.batch_id, address)),
            f"batches/{unit.batch_id}/../../x",
        ):
            headers = {"x-dail-sha256": sha256(b"x"), "content-type": "application/octet-stream"}
            answer = app.put(f"/internal/v1/objects/{spelled}", content=b"x", headers=headers)
            harmless(answer, asked)
            assert answer.status_code >= 400, spelled
    assert tree(settings.data_dir) == before
    assert app.post(f"/internal/v1/leases/{unit.unit_id}/commit", json=commit).status_code == 204
