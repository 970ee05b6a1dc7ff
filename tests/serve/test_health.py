from __future__ import annotations

import re
import subprocess
import sys

from tests.serve.conftest import items


def test_livez_and_readyz_of_a_working_server(api):
    assert api.get("/livez").json() == {"status": "ok"}
    ready = api.get("/readyz")
    assert (ready.status_code, ready.json()["ok"]) == (200, True)
    assert set(ready.json()["checks"]) == {"store", "disk", "sqlite"}


def test_no_batch_is_taken_when_the_disk_is_nearly_full(api, monkeypatch):
    monkeypatch.setattr("dail.serve.rules.health.free_bytes", lambda _: 1000)
    response = api.post("/v1/batches", json={"items": items(1)})
    assert (response.status_code, response.json()["code"]) == (507, "storage")
    assert "Retry-After" in response.headers
    assert api.get("/readyz").status_code == 503


def test_limits_can_be_asked_for(api):
    limits = api.get("/v1/limits").json()
    assert (limits["models"], limits["items"], limits["units"]) == (["tiny"], 10_000, 40_000)


def test_the_openapi_page_needs_nothing_from_elsewhere(api):
    page = api.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(sources) >= 2
    assert all(source.startswith("/") and api.get(source).status_code == 200 for source in sources)


def test_the_api_starts_without_the_heavy_packages():
    heavy = "{'torch', 'ray', 'vllm', 'transformers', 'peft'}"
    code = f"import sys, dail.serve.app, dail.serve.commands; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
