"""How workers reach the API."""

from __future__ import annotations

import httpx
import pytest

from dail.synth.core.errors import UsageError
from dail.synth.core.http import worker_http


@pytest.mark.parametrize("api", ["127.0.0.1:8765", "localhost:8765", "http://", "http://host:port", "ftp://host"])
def test_a_worker_is_told_at_once_what_is_no_url(api: str):
    with pytest.raises(UsageError, match="is no URL; wanted one like"):
        worker_http(api, None)


@pytest.mark.parametrize(("api", "asks_proxy"), [("http://127.0.0.1:8765", False), ("http://api.example:80", True)])
def test_a_worker_asks_no_proxy_for_this_machine(api: str, asks_proxy: bool, monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: seen.append(options["trust_env"]))
    worker_http(api, None)
    assert seen == [asks_proxy]
