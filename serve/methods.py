"""What HTTP expects of every path: HEAD where there is GET, and an Allow that lists all that may be asked."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALL = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")


def allowed(app: FastAPI, scope: Scope) -> str:
    """The methods of a path, as Allow has them: those of every route that matches it."""
    found = [method for method in _ALL if _takes(app, {**scope, "method": method})]
    if "GET" in found and "HEAD" not in found:
        found.insert(1, "HEAD")
    return ", ".join(found)


def _takes(app: FastAPI, scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in app.routes)


class Head:
    """Middleware: HEAD is answered as GET, without the body; of a stream without end only its head."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        is_answered = False

        async def send_head(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                await send(message)
                is_answered = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def receive_until_then() -> Message:
            return {"type": "http.disconnect"} if is_answered else await receive()

        await self._app({**scope, "method": "GET"}, receive_until_then, send_head)
