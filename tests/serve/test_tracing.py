"""Spans as a collector gets them: a real receiver of OTLP over HTTP, and ones that are away."""

from __future__ import annotations

import gzip
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.store.tables import BATCHES
from dail.serve.tracing import VARIABLES, known_traceparent
from dail.synth.core.errors import UsageError
from tests.serve.conftest import items, lapse
from tests.serve.worker import FakeWorker

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"
CANARY = "Canary: 2+2?"


class Collector:
    """`bodies` as they came; `status` is what it answers."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def spans(self) -> list[dict[str, Any]]:
        """In the order of their ends."""
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = {one.key: one.value.string_value for one in resource.resource.attributes}
                assert about["service.name"] == "dail" and about["service.version"]
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return [
            {
                "name": one.name,
                "trace": one.trace_id.hex(),
                "id": one.span_id.hex(),
                "parent": one.parent_span_id.hex(),
                "is_error": one.status.code == 2,
                "s": (one.end_time_unix_nano - one.start_time_unix_nano) / 1e9,
                **{a.key.removeprefix("dail."): a.value.string_value or a.value.int_value for a in one.attributes},
            }
            for one in sorted(found, key=lambda one: one.end_time_unix_nano)
        ]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLES[0], collector.url)
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture
def traced(collector: Collector, api: TestClient) -> TestClient:
    """An app that sends there what it did, once it has ended."""
    return api


def post(api: TestClient, count: int = 1, traceparent: str | None = GIVEN, **body: Any) -> dict[str, Any]:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    response = api.post("/v1/batches", json={"items": items(count), **body}, headers=headers)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


def end(api: TestClient) -> None:
    """What the app's end does with the spans that wait."""
    api.app.state.tracing.close()  # type: ignore[attr-defined]


def test_a_batch_is_one_trace_in_which_every_attempt_is_a_span(
    traced: TestClient, collector: Collector, model: Any
) -> None:
    batch = post(traced, 2)
    worker, other = FakeWorker(traced, model), FakeWorker(traced, model, "w2")
    first, second = worker.lease(2)
    worker.fail(second, code="engine_dead", retryable=True)
    worker.commit(first)
    (again,) = worker.lease()
    worker.fail(again, code="worker_stopped", retryable=True)
    worker.lease()
    lapse(traced.app.state.service.store)  # type: ignore[attr-defined]
    (last,) = other.lease()
    assert other.commit(last).status_code == 204
    assert traced.get(f"/v1/batches/{batch['id']}").json()["status"] == "completed"
    end(traced)

    *attempts, whole = collector.spans()
    assert {span["trace"] for span in (*attempts, whole)} == {TRACE}
    assert (whole["name"], whole["parent"], whole["batch.id"], whole["batch.status"]) == (
        "dail.batch", SPAN, batch["id"], "completed"
    )  # fmt: skip
    assert {(span["name"], span["parent"], span["batch.id"]) for span in attempts} == {
        ("dail.unit", whole["id"], batch["id"])
    }
    told = [(one["unit.id"], one["unit.epoch"], one["worker"], one["outcome"], one["is_error"]) for one in attempts]
    assert told == [
        (second.unit_id, 1, "w1", "failed", True),
        (first.unit_id, 1, "w1", "committed", False),
        (second.unit_id, 2, "w1", "handed_back", False),
        (second.unit_id, 3, "w1", "expired", True),
        (second.unit_id, 4, "w2", "committed", False),
    ]
    assert [one.get("code") for one in attempts] == ["engine_dead", None, None, None, None]
    assert [one.get("gen_ai.usage.output_tokens") for one in attempts] == [None, 4, None, None, 4]
    assert len({one["id"] for one in attempts}) == 5 and {one["gen_ai.request.model"] for one in attempts} == {"tiny"}
    assert all(0 < one["s"] <= whole["s"] for one in attempts)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_what_ends_with_its_batch_is_told_too(traced: TestClient, collector: Collector, model: Any, how: str) -> None:
    batch = post(traced, 1, completion_window="1h" if how == "expired" else None)["id"]
    service = traced.app.state.service  # type: ignore[attr-defined]
    FakeWorker(traced, model).lease()
    if how == "cancelled":
        traced.post(f"/v1/batches/{batch}/cancel")
    column = "cancelling_at" if how == "cancelled" else "expires_at"
    with service.store.write() as tx:
        tx._sql.execute(BATCHES.update().values({column: 1.0}))
    service.ending.sweep()
    assert traced.get(f"/v1/batches/{batch}").json()["status"] == how
    end(traced)
    attempt, whole = collector.spans()
    assert (attempt["outcome"], whole["batch.status"], attempt["parent"]) == (how, how, whole["id"])


def test_two_servers_of_one_store_tell_one_trace_though_nobody_named_it(
    traced: TestClient, collector: Collector, model: Any, settings: Any
) -> None:
    batch = post(traced, 2, traceparent=None)["id"]
    with TestClient(create_app(settings), "http://127.0.0.1") as second:
        first = FakeWorker(traced, model)
        for unit, http in zip(first.lease(2), (traced, second), strict=True):
            first.http = http
            first.commit(unit)
    end(traced)
    one, other, whole = collector.spans()
    assert {one["trace"], other["trace"]} == {whole["trace"]} and len(whole["trace"]) == 32
    assert {one["parent"], other["parent"]} == {whole["id"]} and whole["parent"] == ""
    assert whole["batch.id"] == batch


def test_a_batch_that_is_tried_again_has_another_span_in_its_trace(
    traced: TestClient, collector: Collector, model: Any
) -> None:
    batch, worker = post(traced)["id"], FakeWorker(traced, model)
    worker.fail(worker.lease()[0], code="engine_dead")
    traced.post(f"/v1/batches/{batch}/retry", json={"items": "failed"})
    worker.run()
    end(traced)
    failed, first, committed, second = collector.spans()
    assert failed["parent"] == first["id"] != committed["parent"] == second["id"]
    assert {one["trace"] for one in (failed, first, committed, second)} == {TRACE}


def test_no_text_and_no_token_is_in_a_span(traced: TestClient, collector: Collector, model: Any) -> None:
    texts = [{"problem": CANARY, "solution": CANARY, "metadata": {"a": CANARY}}]
    traced.post("/v1/batches", json={"items": texts, "run_label": CANARY}, headers={"tracestate": f"a={CANARY}"})
    worker = FakeWorker(traced, model, CANARY)
    (unit,) = worker.lease()
    worker.fail(unit, code=CANARY, detail=CANARY)
    end(traced)
    attempt, _ = collector.spans()
    assert (attempt["code"], attempt["worker"]) == ("other", "other")
    assert all(b"anary" not in body for body in collector.bodies)


def test_what_is_not_committed_is_not_told(traced: TestClient, collector: Collector, model: Any) -> None:
    post(traced, 2)
    (unit,) = FakeWorker(traced, model).lease()
    store = traced.app.state.service.store  # type: ignore[attr-defined]
    with pytest.raises(KeyError), store.write() as tx:
        held = tx.units.held(unit.unit_id, "w1", unit.epoch)
        assert tx.units.hand_back(held) == 1
        raise KeyError
    end(traced)
    assert collector.bodies == []


def test_a_client_that_wants_no_spans_gets_none(traced: TestClient, collector: Collector, model: Any) -> None:
    post(traced, traceparent=f"00-{TRACE}-{SPAN}-00")
    FakeWorker(traced, model).run()
    end(traced)
    assert collector.bodies == []


@pytest.mark.parametrize(
    ("header", "is_known"),
    [
        (GIVEN, True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"cc-{TRACE}-{SPAN}-01more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (GIVEN.upper(), False),
        (f" {GIVEN}\n", False),
        (f"00-{TRACE}-{SPAN}", False),
        (f"00-{TRACE[:-1]}é-{SPAN}-01", False),
        (f"cc-{TRACE}-{SPAN}-01-{'x' * 1000}", False),
        ("", False),
        (None, False),
    ],
)
def test_only_what_w3c_has_is_a_traceparent(header: str | None, is_known: bool) -> None:
    assert known_traceparent(header) == (header if is_known else None)


@pytest.mark.parametrize("header", [GIVEN, "nonsense", None])
def test_a_batch_keeps_the_posts_traceparent_whether_spans_are_made_or_not(api: TestClient, header: str | None) -> None:
    assert api.app.state.tracing is None  # type: ignore[attr-defined]
    post(api, traceparent=header)
    with api.app.state.service.store.read() as tx:  # type: ignore[attr-defined]
        assert tx._sql.scalar(sa.select(BATCHES.c.traceparent)) == (GIVEN if header == GIVEN else None)


def silent() -> str:
    """Takes connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    listeners.append(listener)
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


listeners: list[socket.socket] = []


@pytest.mark.parametrize("collected_at", [lambda: "http://127.0.0.1:9", silent, lambda: "no url"])
def test_a_collector_that_is_away_costs_no_request_anything(
    collected_at: Callable[[], str], settings: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLES[1], collected_at())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with TestClient(create_app(settings), "http://127.0.0.1") as api:
        post(api, 3)
        assert FakeWorker(api, model).run() == 3
        began = time.monotonic()
    assert time.monotonic() - began < 20, "the end waits for the collector for some seconds"


def test_a_collector_that_refuses_costs_no_request_anything(
    traced: TestClient, collector: Collector, model: Any
) -> None:
    collector.status = 400
    post(traced, 2)
    assert FakeWorker(traced, model).run() == 2
    end(traced)
    assert collector.bodies


def test_a_mistake_of_ours_in_a_span_is_no_refusal_of_a_commit(
    traced: TestClient, model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    post(traced)
    monkeypatch.setattr(traced.app.state.tracing, "_tell", lambda *_: 1 / 0)  # type: ignore[attr-defined]
    assert FakeWorker(traced, model).run() == 1
    assert "spans were lost" in caplog.text


@pytest.mark.parametrize("variable", VARIABLES)
def test_without_the_extra_the_start_says_which_one_it_needs(
    variable: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(UsageError, match=rf"{variable} is set, .*pip install 'dail\[otel\]', or unset {variable}"):
        create_app(settings)
    assert not settings.data_dir.exists()


def test_another_protocol_is_refused(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES[0], "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(UsageError, match="sent by http/protobuf, and OTEL_EXPORTER_OTLP_PROTOCOL is grpc; leave it"):
        create_app(settings)


def test_two_servers_in_a_process_end_without_a_thread_more(settings: Any, collector: Collector) -> None:
    before = {one.name for one in threading.enumerate()}
    with TestClient(create_app(settings), "http://127.0.0.1"):
        assert any("Otel" in one.name for one in threading.enumerate())
    assert not {one.name for one in threading.enumerate() if "Otel" in one.name} - before
