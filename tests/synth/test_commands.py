"""How the verbs of synthesis reach the API."""

from __future__ import annotations

import httpx
import pytest

from dail.synth import commands
from dail.synth.core.config import UsageError


@pytest.mark.parametrize("api", ["127.0.0.1:8765", "localhost:8765", "http://", "http://host:port", "ftp://host"])
def test_a_worker_is_told_at_once_what_is_no_url(api: str):
    with pytest.raises(UsageError, match="is no URL; wanted one like"):
        commands._client(api, None)


@pytest.mark.parametrize(("api", "asks_proxy"), [("http://127.0.0.1:8765", False), ("http://api.example:80", True)])
def test_a_worker_asks_no_proxy_for_this_machine(api: str, asks_proxy: bool, monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: seen.append(options["trust_env"]))
    commands._client(api, None)
    assert seen == [asks_proxy]
