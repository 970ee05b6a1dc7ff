"""Who may come in at all: a server without a token answers only to its own names, and to no foreign web page.

A page in a browser on this machine can ask 127.0.0.1, or have its own name resolved to it (DNS rebinding): being on
loopback is no proof of who asks. A token is, so with one names are only checked if `hosts` lists them.

    curl http://127.0.0.1:8765/v1/batches                          200
    curl -H 'Host: evil.example' http://127.0.0.1:8765/v1/batches  403 foreign_host
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dail.serve.errors import problem
from dail.serve.settings import Settings
from dail.synth.core.http import is_loopback


class Guard:
    """Middleware before every route, also those that the framework makes."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = {name.lower() for name in (settings.host, *settings.hosts)}
        self._is_watched = settings.token is None or bool(settings.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_watched and (refusal := self._refusal(Headers(scope=scope))):
            await problem(403, *refusal)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> tuple[str, str] | None:
        if not self._is_ours(f"//{headers.get('host', '')}"):
            return "foreign_host", "this server is not called so; use its address, or name it in DAIL_HOSTS"
        if "origin" in headers and not self._is_ours(headers["origin"]):
            return "foreign_origin", "a page of another site may not ask this server; set a token, DAIL_TOKEN"
        return None

    def _is_ours(self, url: str) -> bool:
        try:
            name = (urlsplit(url).hostname or "").lower()
        except ValueError:  # no address at all, as "[::"
            return False
        return bool(name) and (name in self._names or is_loopback(name))
