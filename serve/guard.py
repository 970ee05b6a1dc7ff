"""Who may come in at all: callers with a token; and where a server has none, its own names and no foreign web page.

A page in a browser on this machine can ask 127.0.0.1, or have its own name resolved to it (DNS rebinding): being on
loopback is no proof of who asks. A token is, so with one names are only checked if `hosts` lists them. Tokens are read
from the header Authorization alone, never from a URL, which proxies and browsers keep.

    curl http://127.0.0.1:8765/v1/batches                          200, or 401 unauthorized if there are tokens
    curl -H 'Host: evil.example' http://127.0.0.1:8765/v1/batches  403 foreign_host

Nothing of a request's body is read before it is let in. /livez and /readyz answer anybody, since probes have no token:
whether it is ready, and to those who may read also why not; so does the page (`page.py`), which holds no data. A token
of people has a pace, `requests_per_s`; workers have none, since many share one.
"""

from __future__ import annotations

import asyncio
import math
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dail.serve.errors import NOT_SNIFFED, RequestError, answer
from dail.serve.page import PREFIX
from dail.serve.rules.tokens import Caller, Tokens
from dail.serve.settings import Settings
from dail.synth.core.errors import DailError
from dail.synth.core.http import is_loopback

_OPEN, _OF_WORKERS = ("/livez", "/readyz", "/"), "/internal/"


class Guard:
    """Middleware before every route, also those that the framework makes."""

    def __init__(self, app: ASGIApp, settings: Settings, tokens: Tokens) -> None:
        self._app, self._tokens = app, tokens
        self._names = {name.lower() for name in (settings.host, *settings.hosts)}
        self._has_names = bool(settings.hosts)
        self._pace = Pace(settings.requests_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = await self._refusal(scope)
        await (refused or self._app)(scope, receive, _not_sniffed(send))

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        try:
            if self._has_names or not self._tokens.are_wanted:
                self._check_names(headers)
            if scope["path"] not in _OPEN and not scope["path"].startswith(PREFIX):
                caller = await caller_by(self._tokens, headers)
                scope.setdefault("state", {})["caller"] = caller
                if self._tokens.are_wanted and not scope["path"].startswith(_OF_WORKERS):
                    self._pace.check(caller)
        except DailError as error:
            return answer(error)
        return None

    def _check_names(self, headers: Headers) -> None:
        if not self._is_ours(f"//{headers.get('host', '')}"):
            raise RequestError(
                403, "foreign_host", "this server is not called so; use its address, or name it in DAIL_HOSTS"
            )
        if "origin" in headers and not self._is_ours(headers["origin"]):
            raise RequestError(
                403, "foreign_origin", "a page of another site may not ask this server; set a token, DAIL_TOKEN"
            )

    def _is_ours(self, url: str) -> bool:
        try:
            name = (urlsplit(url).hostname or "").lower()
        except ValueError:  # no address at all, as "[::"
            return False
        return bool(name) and (name in self._names or is_loopback(name))


class Pace:
    """How many requests a second each caller may send: so many on the average, twice as many at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left: dict[str, tuple[float, float]] = {}  # of a caller, and when that was

    def check(self, caller: Caller) -> None:
        """Raises RequestError if this is one too many."""
        now = time.monotonic()
        before, at = self._left.get(caller.id, (2 * self._per_s, now))
        left = min(2 * self._per_s, before + (now - at) * self._per_s)
        if left < 1:
            raise RequestError(
                429,
                "too_many_requests",
                f"{caller.id} sent more than {self._per_s:g} requests a second; send this again a little later",
                Retry_After=str(math.ceil((1 - left) / self._per_s)),
            )
        self._left[caller.id] = (left - 1, now)


async def caller_by(tokens: Tokens, headers: Headers) -> Caller:
    """Raises RequestError for who has no token that is taken now."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    secret = secret.strip() if kind.lower() == "bearer" else ""
    caller = tokens.known(secret)
    if caller is None and tokens.may_be_new(secret):
        asked_at = time.monotonic()
        await asyncio.sleep(tokens.pause_s())
        await asyncio.to_thread(tokens.look_again, asked_at)
        caller = tokens.known(secret)
    if caller is None:
        raise not_known()
    return caller


def not_known() -> RequestError:
    return RequestError(
        401,
        "unauthorized",
        "this server wants a token that it knows; set DAIL_TOKEN or send Authorization: Bearer …; one of "
        "`dail token new` may be revoked or over, `dail token list` shows it",
        WWW_Authenticate="Bearer",
    )


def _not_sniffed(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(NOT_SNIFFED)
        await send(message)

    return wrapped
