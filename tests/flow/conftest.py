"""Real processes for the flow tests: `dail` verbs as a user starts them, and an API that outlives workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import DEMO_MODEL

BIN = Path(sys.executable).parent
LEASE_S = 6


def dail(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a verb to its end."""
    return subprocess.run(
        [BIN / "dail", *map(str, args)], capture_output=True, text=True, timeout=280, env={**os.environ, **env}
    )


@contextmanager
def running(*command: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own; it and what it started are gone afterwards."""
    child = subprocess.Popen([str(part) for part in command], text=True, start_new_session=True, **options)
    try:
        yield child
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a real API on a free port, with short leases."""
    folder = tmp_path_factory.mktemp("api")
    env = {**os.environ, "DAIL_LEASE_S": str(LEASE_S)}
    command = (BIN / "dail", "serve", "--port", 0, "--data-dir", folder, "--model", f"demo={DEMO_MODEL}", "--json")
    with running(*command, stdout=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        url = json.loads(child.stdout.readline())["url"]
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client


def wait_for(condition: Callable[[], Any], timeout_s: float = 180) -> Any:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout_s} s")
