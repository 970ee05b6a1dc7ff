"""The server under the API: uvicorn, whose connections have no deadlines by themselves.

    Server(create_app(settings), host=settings.host, port=settings.port).run()

A body has its own, where it is read (`request_body.py`). Here are those of the connection: a head that does not come, a
body that drips on behind its answer, and a client that takes nothing of what it asked for.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from dail.serve.errors import problem

HEAD_S = 30.0  # from a connection, or an answer, to the end of the next request's head
UNREAD_S = 60.0  # without a byte taken of what waits to be sent
IDLE_CONNECTIONS = 2000  # beyond these the longest idle are closed
_LOOK_EVERY = 5  # of uvicorn's ticks, ten a second

log = logging.getLogger("dail.serve")


class _Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's own, of httptools or h11, which tells what is no HTTP in one shape with all other errors."""

    def send_400_response(self, msg: str) -> None:
        detail = "this is no HTTP request that can be read; its head may be too long or torn"
        answer = problem(400, "no_http", detail, headers={"Connection": "close"})
        head = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in answer.raw_headers)
        self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n".encode() + bytes(answer.body))
        self.transport.close()


class Server(uvicorn.Server):
    """Args: `options` of `uvicorn.Config`, as host and port."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        settled = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": 5, "http": _Connection}
        super().__init__(uvicorn.Config(app, **(settled | options)))
        self._app = app
        self._idle: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # since when
        self._stuck: WeakKeyDictionary[Any, tuple[float, int]] = WeakKeyDictionary()  # since when, with how many bytes

    def run(self, sockets: Sequence[Any] | None = None) -> None:
        _allow_many_files()
        super().run(sockets=list(sockets) if sockets else None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.watching.stop()  # streams of events would hold the stop up
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if counter % _LOOK_EVERY == 0:
            self._close_late(time.monotonic())
        return await super().on_tick(counter)

    def _close_late(self, now: float) -> None:
        for connection in list(self.server_state.connections):
            if _is_answering(connection):
                self._idle.pop(connection, None)
                self._check_unread(connection, now)
            else:
                self._stuck.pop(connection, None)
                if now - self._idle.setdefault(connection, now) > HEAD_S:
                    connection.transport.abort()
        for connection in sorted(self._idle, key=self._idle.__getitem__)[: -IDLE_CONNECTIONS or None]:
            connection.transport.abort()

    def _check_unread(self, connection: Any, now: float) -> None:
        waiting = connection.transport.get_write_buffer_size()
        since, before = self._stuck.get(connection, (now, waiting))
        if not waiting or waiting != before:
            self._stuck[connection] = now, waiting
        elif now - since > UNREAD_S:
            connection.transport.abort()
        else:
            self._stuck[connection] = since, before


def _is_answering(connection: Any) -> bool:
    """Whether a request of its has come whole, at least its head, and its answer is not at its end."""
    cycle: Any = connection.cycle
    return cycle is not None and not cycle.response_complete


def _allow_many_files() -> None:
    """Each connection is a file, and many systems allow 1,024 of them by default and far more when asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if hard == resource.RLIM_INFINITY else min(16_384, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
