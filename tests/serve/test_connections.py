"""Clients that are slow, torn or gone, on real sockets: they cost little, and others are answered."""

from __future__ import annotations

import asyncio
import json
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from dail.serve import request_body, server
from dail.serve.app import create_app
from dail.serve.server import Server
from tests.serve.conftest import items
from tests.serve.worker import FakeWorker

PATIENCE_S = 60.0  # for what comes within a second or two on a quiet machine


@contextmanager
def serving(app: FastAPI) -> Iterator[int]:
    """The port of the app behind real sockets."""
    running = Server(app, port=0)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield running.servers[0].sockets[0].getsockname()[1]
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture
def port(settings, monkeypatch) -> Iterator[int]:
    monkeypatch.setattr(request_body, "SILENCE_S", 1.5)
    monkeypatch.setattr(server, "HEAD_S", 1.5)
    with serving(create_app(settings)) as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_S) as client:
        yield client


def head(length: int, path: str = "/v1/batches", **more: str) -> bytes:
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(length), **more}
    return (
        f"POST {path} HTTP/1.1\r\n".encode() + b"".join(f"{k}: {v}\r\n".encode() for k, v in fields.items()) + b"\r\n"
    )


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Its status and problem. It must be closed behind it."""
    said = b""
    try:
        while block := connection.recv(1 << 16):
            said += block
    except ConnectionResetError:  # we were still sending
        pass
    if not said:
        return 0, {}
    first, _, body = said.partition(b"\r\n\r\n")
    assert b"application/problem+json" in first
    return int(first.split()[1]), json.loads(body)


def is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def drip(connections: list[socket.socket], until: Callable[[], bool]) -> None:
    """A byte down each of them now and then."""
    left = set(connections)
    while left and not until():
        for connection in list(left):
            try:
                connection.send(b" ")
            except OSError:
                left.discard(connection)
        time.sleep(0.2)


def test_four_hundred_who_drip_get_408_or_503_and_others_are_answered_meanwhile(port, client):
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(port)) for _ in range(400)]
        for connection in connections:
            connection.sendall(head(100_000) + b"{")
        waits: list[float] = []
        is_over = threading.Event()
        dripping = threading.Thread(target=drip, args=(connections, is_over.is_set))
        dripping.start()
        answers: list[tuple[int, dict[str, object]]] = []
        collecting = threading.Thread(target=lambda: answers.extend(map(answer, connections)))
        collecting.start()
        while collecting.is_alive():
            started = time.monotonic()
            assert client.get("/livez").status_code == 200
            assert client.get("/v1/batches").status_code == 200
            waits.append(time.monotonic() - started)
            time.sleep(0.05)
        is_over.set()
        dripping.join()
    statuses = [status for status, _ in answers]
    assert set(statuses) <= {408, 503, 0}, "each is answered, or was cut while it was sending"
    assert statuses.count(408) and statuses.count(503), "as many as are taken at once, and those beyond"
    assert {problem["code"] for _, problem in answers if problem} == {"body_too_slow", "busy"}
    assert sorted(waits)[len(waits) // 2] < 1.0
    assert client.post("/v1/batches", json={"items": items(1)}).status_code == 201


def test_a_body_that_comes_in_pieces_is_taken(port):
    body = json.dumps({"items": items(1)}).encode()
    with connect(port) as connection:
        connection.sendall(head(len(body), Connection="close"))
        for start in range(0, len(body), 20):
            connection.sendall(body[start : start + 20])
            time.sleep(0.05)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 201")


def test_a_body_without_end_is_refused_by_its_pace(port, monkeypatch):
    """Never silent for long, and too slow in the long run."""
    monkeypatch.setattr(request_body, "SLOWEST_BYTES_S", 100_000)
    with connect(port) as connection:
        connection.sendall(head(1_000_000) + b'{"items": [')
        threading.Thread(target=drip, args=([connection], lambda: False), daemon=True).start()
        status, problem = answer(connection)
    assert (status, problem.get("code")) in ((408, "body_too_slow"), (0, None))


@pytest.mark.parametrize("said", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "])
def test_a_head_that_does_not_come_is_not_waited_for(port, said):
    with connect(port) as connection:
        connection.sendall(said)
        threading.Thread(target=drip, args=([connection] if said else [], lambda: False), daemon=True).start()
        assert is_closed(connection)


def test_a_body_that_drips_on_behind_its_answer_is_not_waited_for(port):
    with connect(port) as connection:
        connection.sendall(head(1000, "/nowhere") + b"{")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 404")
        threading.Thread(target=drip, args=([connection], lambda: False), daemon=True).start()
        assert is_closed(connection)


@pytest.mark.parametrize(
    "said",
    [b"\x16\x03\x01\x02\x00\x01\x00\n\r\n", b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
     b"POST /v1/batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
     b"POST /v1/batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{"],
)  # fmt: skip
def test_what_is_no_http_is_refused_as_a_problem(port, said):
    with connect(port) as connection:
        connection.sendall(said)
        status, problem = answer(connection)
    assert (status, problem["code"]) == (400, "no_http")


def test_bodies_in_hand_are_bounded_in_number_and_bytes(port, client, monkeypatch):
    monkeypatch.setattr(request_body, "MOST_AT_ONCE", 2)
    with connect(port) as one, connect(port) as two:
        for connection in (one, two):
            connection.sendall(head(10) + b"{")
        until = time.monotonic() + PATIENCE_S
        while (refused := client.post("/v1/batches", json={"items": items(1)})).status_code != 503:
            assert time.monotonic() < until
        assert refused.json()["code"] == "busy" and refused.headers["Retry-After"] == "5"
    monkeypatch.setattr(request_body, "MOST_BYTES", 100)
    assert client.post("/v1/batches", json={"items": items(10)}).status_code == 503
    monkeypatch.setattr(request_body, "MOST_BYTES", 1 << 20)
    while client.post("/v1/batches", json={"items": items(10)}).status_code == 503:  # those who left are noticed
        assert time.monotonic() < until
    assert client.get("/livez").status_code == 200


def test_who_leaves_in_the_middle_is_not_worth_a_line(port, client, model, caplog):
    batch = client.post("/v1/batches", json={"items": items(3)}).json()["id"]
    FakeWorker(client, model).run()
    with caplog.at_level(logging.INFO):
        for said in (head(1000) + b'{"items": [', head(1000), head(10) + b"{"):
            with connect(port) as connection:
                connection.sendall(said)
        with connect(port) as half:
            half.sendall(head(1000) + b"{")
            half.shutdown(socket.SHUT_WR)
            assert is_closed(half)
        for path in (f"/v1/batches/{batch}/results", f"/v1/batches/{batch}/events"):
            with connect(port) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                connection.recv(10)
        for _ in range(3):
            assert client.get("/livez").status_code == 200
            time.sleep(0.1)
    of_requests = ("httpx", "httpcore", "uvicorn.access", "dail.events")  # one line a request, as of all others
    ours = [record for record in caplog.records if not record.name.startswith(of_requests)]
    assert [record.getMessage() for record in ours] == []


def test_who_takes_nothing_of_what_it_asked_for_is_let_go(monkeypatch):
    monkeypatch.setattr(server, "UNREAD_S", 1.0)
    app = FastAPI()
    app.state.watching = SimpleNamespace(stop=lambda: None)
    is_over = threading.Event()

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def pieces():
            try:
                while True:
                    yield b"0" * (1 << 20)
                    await asyncio.sleep(0)  # once it is let go, sending takes no time
            finally:
                is_over.set()

        return StreamingResponse(pieces())

    with serving(app) as port, connect(port) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert is_over.wait(PATIENCE_S)


def test_the_longest_idle_connections_make_room(monkeypatch, settings):
    monkeypatch.setattr(server, "IDLE_CONNECTIONS", 5)
    with serving(create_app(settings)) as port, ExitStack() as stack:
        connections = [stack.enter_context(connect(port)) for _ in range(9)]
        with selectors.DefaultSelector() as selector:
            for connection in connections:
                selector.register(connection, selectors.EVENT_READ)
            closed: set[int] = set()
            until = time.monotonic() + PATIENCE_S
            while len(closed) < 4 and time.monotonic() < until:
                closed |= {key.fd for key, _ in selector.select(0.1)}
        assert len(closed) >= 4
        assert httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
