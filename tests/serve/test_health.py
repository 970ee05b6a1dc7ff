from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading

from dail.serve.rules.health import Check
from dail.serve.store.tables import STORE_VERSION
from tests.serve.conftest import items


def test_livez_and_readyz_of_a_working_server(api):
    assert api.get("/livez").json() == {"status": "ok"}
    ready = api.get("/readyz")
    assert (ready.status_code, ready.json()["ok"]) == (200, True)
    assert set(ready.json()["checks"]) == {"store", "schema", "disk", "objects", "clock", "work", "sqlite"}


def test_no_batch_is_taken_when_the_disk_is_nearly_full(api, monkeypatch):
    monkeypatch.setattr("dail.serve.rules.health.free_bytes", lambda _: 1000)
    response = api.post("/v1/batches", json={"items": items(1)})
    assert (response.status_code, response.json()["code"]) == (507, "storage")
    assert "Retry-After" in response.headers
    assert api.get("/readyz").status_code == 503


def test_readyz_says_which_check_fails(api, settings):
    shutil.rmtree(settings.output_root / "_staging", ignore_errors=True)
    (settings.output_root / "_staging").write_text("a file where a folder must be")
    ready = api.get("/readyz")
    assert (ready.status_code, ready.json()["ok"]) == (503, False)
    assert [name for name, check in ready.json()["checks"].items() if not check["ok"]] == ["objects"]


def test_another_place_under_the_same_name_is_not_ready(api, settings, monkeypatch):
    monkeypatch.setattr("dail.serve.rules.health.KEPT_S", 0.0)
    assert api.get("/readyz").status_code == 200
    shutil.rmtree(settings.output_root)  # a disk that is no longer mounted
    checks = api.get("/readyz").json()["checks"]
    assert "is not the place that the API means by it" in checks["objects"]["detail"]


def test_a_newer_servers_tables_make_this_one_unready(api):
    store = api.app.state.service.store
    with store.database.writing() as connection:
        store.database.stamp(connection, STORE_VERSION + 1)
    api.app.state.readiness._questions = {"schema": api.app.state.readiness._schema}
    assert api.get("/readyz").json()["checks"]["schema"] == {
        "ok": False,
        "detail": f"version {STORE_VERSION + 1}; wanted {STORE_VERSION}",
    }


def test_a_check_that_hangs_fails_by_its_deadline_and_is_asked_once(api, monkeypatch):
    monkeypatch.setattr("dail.serve.rules.health.DEADLINE_S", 0.2)
    monkeypatch.setattr("dail.serve.rules.health.KEPT_S", 0.0)
    released, calls = threading.Event(), []

    def hang():
        calls.append(1)
        released.wait(60)
        return Check(ok=True, detail="back again")

    readiness = api.app.state.readiness
    readiness._questions["objects"] = hang
    for _ in range(3):
        checks = api.get("/readyz").json()["checks"]
        assert [name for name, check in checks.items() if not check["ok"]] == ["objects"]
    assert len(calls) == 1
    released.set()
    readiness._open["objects"].result(60)
    assert api.get("/readyz").json()["checks"]["objects"]["detail"] == "back again"


def test_a_hundred_probes_cost_one_write(api, monkeypatch):
    monkeypatch.setattr("dail.serve.rules.health.KEPT_S", 600.0)
    calls = []
    api.app.state.readiness._questions["store"] = lambda: calls.append(1) or Check(ok=True, detail="")
    assert all(api.get("/readyz").status_code == 200 for _ in range(100))
    assert len(calls) == 1


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
