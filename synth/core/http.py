"""The API as verbs and workers see it: every refusal is an ApiError that says what to do.

A verb asks once, with `Client`, since somebody sits before it. A worker, with `PatientClient`, asks again while the API
is away: its rollouts go on meanwhile.
"""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import json
import logging
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from dail.synth.core.errors import ApiError, UsageError

_log = logging.getLogger(__name__)

_TIMEOUT = httpx.Timeout(60, connect=5)
_PACKED_FROM = 1 << 20  # bytes of a body
_TOKEN = re.compile(r"[!-~]+")
_SHOWN_FAULTS = 10
_PACED, _SHORT_S = 5, 5  # how often a verb waits for a server that says so, and how long at most
_IDLE, _AGAIN_S = 3, 0.5  # how often a file is asked for again when nothing more of it came, and after what pause
_WORKER_TIMEOUT_S = 30.0
AWAY_S = 30 * 60.0  # how long an API that cannot be reached is waited for
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this very machine, which a proxy of the environment would not find."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_token(text: str) -> bool:
    """Whether a header can carry it: what is not is said here, since the error of a header shows it whole."""
    return bool(_TOKEN.fullmatch(text))


def _way_to(url: httpx.URL, token: str | None) -> dict[str, Any]:
    if url.userinfo:  # would be sent in the token's place, and told in every message
        raise UsageError("--api has a name or a password in it; leave them out, and set DAIL_TOKEN")
    if token and not is_token(token):
        raise UsageError("DAIL_TOKEN holds a space, a line break or a letter that is not ASCII; set it again, without")
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {token}"} if token else {},
        # a proxy from the environment would take requests to this very machine elsewhere
        "trust_env": not is_loopback(url.host),
    }


@dataclass
class _Part:
    """What has come of a file, and which file that is."""

    data: bytearray = field(default_factory=bytearray)
    etag: str = ""


class Client:
    """One API. `token` goes with every request."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        try:
            self._http = httpx.Client(**_way_to(httpx.URL(self.url), token), timeout=_TIMEOUT)
        except httpx.InvalidURL as error:
            raise ApiError(f"{url!r} is no URL ({error}); wanted one like http://127.0.0.1:8765") from None

    def get(self, path: str, **query: Any) -> Any:
        return self._json("GET", path, params=query)

    def post(self, path: str, body: Any = None) -> Any:
        """A large body goes packed."""
        if body is None:
            return self._json("POST", path)
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"}
        if len(data) > _PACKED_FROM:
            data, headers = gzip.compress(data, 6), {**headers, "Content-Encoding": "gzip"}
        return self._json("POST", path, content=data, headers=headers)

    def delete(self, path: str) -> None:
        with self._refusals():
            response = self._http.delete(path)
        if not response.is_success:
            raise _refusal(response)

    def events(self, path: str, last: int) -> Iterator[tuple[int, str]]:
        """(number, kind) of server-sent events after `last`; for a ping the last number and "ping"."""
        with self._refusals(), self._http.stream("GET", path, headers={"Last-Event-ID": str(last)}) as response:
            if not response.is_success:
                response.read()
                raise _refusal(response)
            for line in response.iter_lines():
                name, _, value = line.partition(":")
                if name == "id":
                    last = int(value)
                elif name in ("event", ""):
                    yield last, value.strip()

    def pages(self, path: str, **query: Any) -> Iterator[Any]:
        """All entries of a list, page by page."""
        page = self.get(path, limit=100, **query)
        yield from page["data"]
        while page["has_more"]:
            page = self.get(path, limit=100, after=page["last_id"], **query)
            yield from page["data"]

    def download(self, path: str) -> Iterator[bytes]:
        with self._refusals(), self._http.stream("GET", path) as response:
            if not response.is_success:
                response.read()
                raise _refusal(response)
            yield from response.iter_bytes()

    def file(self, path: str, size: int) -> bytes:
        """So many bytes; what breaks off goes on where it was, if it is the same file by its ETag."""
        part, idle = _Part(), 0
        while len(part.data) < size:
            known = len(part.data)
            try:
                self._more(path, part)
            except ApiError as error:
                if error.status or idle >= _IDLE:
                    raise
            idle = idle + 1 if len(part.data) <= known else 0
            if idle > _IDLE:  # an answer that is shorter, again and again: whoever checks it says what is wrong
                break
            if len(part.data) < size:
                time.sleep(_AGAIN_S)
        return bytes(part.data)

    def _more(self, path: str, part: _Part) -> None:
        """Appends to what there is, or begins anew."""
        headers = {"Accept-Encoding": "identity"}
        if part.data and part.etag:
            headers |= {"Range": f"bytes={len(part.data)}-", "If-Range": part.etag}
        for _ in range(_PACED):
            with self._refusals(), self._http.stream("GET", path, headers=headers) as response:
                if response.is_success:
                    if response.status_code != 206:
                        part.data.clear()
                    part.etag = response.headers.get("etag", "")
                    for block in response.iter_bytes():
                        part.data += block
                    return
                response.read()
            if not _waits(response):
                break
        raise _refusal(response)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        for _ in range(_PACED):
            with self._refusals():
                response = self._http.request(method, path, **options)
            if not _waits(response):
                break
        if not response.is_success:
            raise _refusal(response)
        try:
            return response.json()
        except ValueError:
            raise _stranger(response) from None

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except httpx.UnsupportedProtocol:
            raise ApiError(f"{self.url!r} is no URL; wanted one like http://127.0.0.1:8765") from None
        except httpx.ConnectError:
            raise ApiError(f"no API at {self.url}; start one with `dail serve`, or name another with --api") from None
        except httpx.HTTPError as error:
            raise ApiError(f"the API at {self.url} broke off: {error or type(error).__name__}; run it again") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()


def _waits(response: httpx.Response) -> bool:
    """Whether the server said to ask again soon; waits so long."""
    pause = response.headers.get("retry-after", "") if response.status_code == 429 else ""
    if not pause.isdecimal() or int(pause) > _SHORT_S:
        return False
    time.sleep(int(pause))
    return True


def _refusal(response: httpx.Response) -> ApiError:
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return _stranger(response)
    problem = response.json()
    faults = "".join(f"\n  {fault['pointer']}: {fault['detail']}" for fault in problem["errors"][:_SHOWN_FAULTS])
    said = f"the API refused ({response.status_code} {problem['code']}): {problem['detail']}{faults}"
    return ApiError(said, response.status_code)


def _stranger(response: httpx.Response) -> ApiError:
    said = f"{response.request.url} answered {response.status_code}, but not like a dail API; check --api"
    return ApiError(said, response.status_code)


def worker_http(api: str, token: str | None) -> httpx.AsyncClient:
    """The connection of a worker to an API. Raises UsageError if `api` is no URL."""
    try:
        url = httpx.URL(api.rstrip("/") + "/internal/v1/")
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"--api {api!r} is no URL; wanted one like http://127.0.0.1:8765")
    return httpx.AsyncClient(**_way_to(url, token), timeout=_WORKER_TIMEOUT_S)


class PatientClient:
    """Posts and puts, again and again while the API is away or busy; so every call must be safe to repeat."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._away = False

    async def post(self, path: str, body: Any) -> bytes:
        return await self._sent("POST", path, json=body)

    async def put(self, path: str, data: bytes, headers: dict[str, str]) -> bytes:
        named = {"Content-Type": "application/octet-stream", **headers}
        return await self._sent("PUT", path, content=data, headers=named)

    async def _sent(self, method: str, path: str, **body: Any) -> bytes:
        """The reply's bytes. Waits for an API that is away or busy, up to AWAY_S; then raises ApiError."""
        deadline, pause_s = time.monotonic() + AWAY_S, _PAUSE_S
        while True:
            try:
                response = await self._http.request(method, path, **body)
                if response.status_code < 500 and response.status_code != 429:
                    self._say_away("")
                    return _checked(response)
                why, status = f"it answered {response.status_code}", response.status_code
            except httpx.TransportError as error:
                why, status = f"{type(error).__name__}: {error}", 0
            if time.monotonic() + pause_s > deadline:
                raise ApiError(f"the API at {self._http.base_url} was away for {AWAY_S / 60:.0f} min: {why}", status)
            self._say_away(why)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _say_away(self, why: str) -> None:
        if why and not self._away:
            _log.error(f"the API at {self._http.base_url} is away ({why}); rollouts go on, calls are repeated")
        elif self._away and not why:
            _log.info("the API is back")
        self._away = bool(why)


def _checked(response: httpx.Response) -> bytes:
    if response.is_success:
        return response.content
    hint = "; set DAIL_TOKEN to a worker token" if response.status_code in (401, 403) else ""
    raise ApiError(
        f"{response.request.method} {response.url} was refused with {response.status_code}: {_detail(response)}{hint}",
        response.status_code,
    )


def _detail(response: httpx.Response) -> str:
    """What a problem+json body says, else the beginning of whatever was sent."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
