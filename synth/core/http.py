"""The API as the verbs see it: JSON in and out, every refusal an ApiError that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from dail.synth.core.config import ApiError, is_loopback

_TIMEOUT = httpx.Timeout(60, connect=5)
_SHOWN_FAULTS = 10


class Client:
    """One API. `token` goes with every request."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            # A proxy from the environment would take requests to this very machine elsewhere.
            trust_env = not is_loopback(httpx.URL(self.url).host)
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT, trust_env=trust_env)
        except httpx.InvalidURL as error:
            raise ApiError(f"{url!r} is no URL ({error}); wanted one like http://127.0.0.1:8765") from None

    def get(self, path: str, **query: Any) -> Any:
        return self._json("GET", path, params=query)

    def post(self, path: str, body: Any = None) -> Any:
        return self._json("POST", path, json=body)

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

    def _json(self, method: str, path: str, **options: Any) -> Any:
        with self._refusals():
            response = self._http.request(method, path, **options)
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
