"""`dail worker` as a cluster runs it: seen by its port and its log alone, while its engine is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import DEMO_MODEL
from tests.serve.conftest import DAIL, LiveApi, clean_environment, start_api

TOKEN = "canary-token-that-nobody-logs"
ENGINE = ("--set", "engine.kind=fake", "--set", "engine.rows=4")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LiveApi]:
    live = start_api(tmp_path / "api", DEMO_MODEL, DAIL_TOKEN=TOKEN)
    yield live
    live.process.terminate()
    live.process.wait(30)


def until(done: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    """What `done` gives, once it gives something."""
    for _ in range(2400):
        if found := done():
            return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def engines(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    def is_engine(one: psutil.Process) -> bool:
        try:
            return "EngineActor" in " ".join(one.cmdline())
        except psutil.NoSuchProcess:
            return False

    return [one for one in psutil.Process(process.pid).children(recursive=True) if is_engine(one)]


def test_a_worker_is_seen_by_its_port_and_its_log_in_which_no_text_is(api: LiveApi, tmp_path: Path) -> None:
    http = httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60, trust_env=False)
    texts = [f"Canary {n} shows 7. " * (3000 if n == 3 else 1) for n in range(8)]
    items = [{"id": f"i{n}", "problem": f"Canary {n}: turn A.", "solution": text} for n, text in enumerate(texts)]
    batch = http.post("/v1/batches", json={"items": items, "synthesis": {"max_tokens": 600}}).json()["id"]
    log = tmp_path / "log"
    with open(log, "wb") as stderr:
        process = subprocess.Popen(
            (*DAIL, "worker", "--api", api.url, "--model", str(DEMO_MODEL), *ENGINE, "--metrics-port", "0"),
            env=clean_environment() | {"DAIL_TOKEN": TOKEN, "DAIL_LOG_FORMAT": "json"}, stderr=stderr,
        )  # fmt: skip

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def events() -> list[str]:
        return [line["event"] for line in lines()]

    try:
        until(lines, process, log)
        port = lines()[0]["detail"].removeprefix("metrics at ").removesuffix("/metrics")
        assert httpx.get(f"{port}/readyz", trust_env=False).status_code == 503, "no engine is ready yet"
        assert httpx.get(f"{port}/livez", trust_env=False).status_code == 200
        until(lambda: "leased" in events() and engines(process), process, log)
        os.kill(engines(process)[0].pid, signal.SIGKILL)
        until(lambda: http.get(f"/v1/batches/{batch}").json()["status"] == "completed", process, log)
        until(lambda: events().count("committed") == 7, process, log)
        shown = httpx.get(f"{port}/metrics", trust_env=False).text
        assert httpx.get(f"{port}/readyz", trust_env=False).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert 'dail_engine_restarts_total{reason="killed"} 1.0' in shown and "dail_units_held 0.0" in shown
    told = lines()
    assert {"started", "engine_started", "asked", "leased", "engine_died", "committed", "failed", "stopped"} <= set(
        events()
    )
    assert {line["worker"] for line in told} == {told[0]["worker"]}
    assert next(line for line in told if line["event"] == "failed")["code"] == "context_length_exceeded"
    assert {line["batch_id"] for line in told if line["event"] == "committed"} == {batch}
    assert "anary" not in log.read_text() + shown
