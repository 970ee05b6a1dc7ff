"""Every request has an id, a line in the log and its place in the metrics.

    X-Request-Id: build-17      taken as it is if it is a plain name of at most 64 letters, else one is made

The id is on the answer, and in a problem as `request_id`. The line names the route by its template and of ids only
those that we made: what else is in an address is the client's own text. Outermost, so that it sees every answer.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dail.serve.metrics import Metrics
from dail.synth.core.logs import tell

HEADER = "X-Request-Id"
_TAKEN = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_OURS = {"batch_id": re.compile(r"batch_[0-9a-z]{8,40}"), "unit": re.compile(r"[0-9a-f]{32}")}


@dataclass
class Asked:
    """What is known of the request that is being answered."""

    id: str
    code: str | None = None  # of the problem that it was answered with


_asked: ContextVar[Asked | None] = ContextVar("asked", default=None)


def told_as(code: str) -> str:
    """Notes the problem that the request is answered with; the request's id, also where there is none."""
    asked = _asked.get() or Asked(f"req_{secrets.token_hex(8)}")
    asked.code = code
    return asked.id


class RequestLog:
    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        asked = Asked(given if _TAKEN.fullmatch(given) else f"req_{secrets.token_hex(8)}")
        _asked.set(asked)
        begun_at, status, size = time.monotonic(), 500, 0  # 500: what raises here is answered behind us

        async def sending(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = asked.id
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            asked.code = "internal"
            raise
        finally:
            self._note(scope, asked, status, size, time.monotonic() - begun_at)

    def _note(self, scope: Scope, asked: Asked, status: int, size: int, seconds: float) -> None:
        route = route_of(scope)
        self._metrics.request(scope["method"], route, status, seconds, asked.code)
        ids = {
            name: value
            for name, form in _OURS.items()
            if form.fullmatch(value := str(scope.get("path_params", {}).get(name, "")))
        }
        tell(
            "request", request_id=asked.id, method=scope["method"], route=route, status=status, duration_s=seconds,
            bytes=size, code=asked.code, batch_id=ids.get("batch_id"), unit_id=ids.get("unit"),
        )  # fmt: skip


def route_of(scope: Scope) -> str:
    """The template, as `/v1/batches/{batch_id}`; `other` for what is no route of ours."""
    route = scope.get("route")
    return str(getattr(route, "path", "other"))
