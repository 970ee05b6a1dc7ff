"""A whole Ray cluster dies under a batch: nothing of it is lost or doubled, and the batch ends on another cluster."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from dail.synth.schema.manifest import read_rows
from tests.conftest import DEMO_MODEL
from tests.flow.conftest import wait_for
from tests.flow.test_ray_job import head, submit

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

ITEMS, SAMPLES = 20, 8
GONE_S = 180


def test_a_batch_ends_on_another_cluster_when_its_own_dies(api, tmp_path):
    items = [{"id": f"i{n}", "problem": f"What is {n} + {n}?", "solution": f"It is {2 * n}."} for n in range(ITEMS)]
    synthesis = {"samples_per_item": SAMPLES, "max_tokens": 2000, "thinking": False}
    batch = api.post("/v1/batches", json={"model": "demo", "items": items, "synthesis": synthesis}).json()["id"]

    def units():
        return api.get(f"/v1/batches/{batch}").json()["units"]

    command = ("worker", "--api", api.base_url, "--model", DEMO_MODEL, "--set", "engine.kind=fake", "--idle-exit", 3)
    with head(RAY_AUTH_MODE="disabled") as (url, env):
        submit((url, env), *command, waits=False)
        wait_for(lambda: units()["committed"] >= 5)
        (ray,) = [one for one in psutil.Process().children() if "start" in one.cmdline() and "--head" in one.cmdline()]
        family = ray.children(recursive=True)
        for one in family:
            if one.name() in ("gcs_server", "raylet"):
                os.kill(one.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(family, GONE_S)
        assert [one for one in left if is_alive(one)] == []
    half = units()
    assert half["committed"] < ITEMS * SAMPLES, "it must die in the middle"
    with head(RAY_AUTH_MODE="disabled") as cluster:
        done = submit(cluster, *command)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    now = api.get(f"/v1/batches/{batch}").json()
    assert (now["status"], now["request_counts"]["completed"]) == ("completed", ITEMS)
    rows = Counter((row.item_id, row.sample_index) for row in read_rows(Path(now["manifest"]["path"])))
    assert rows == Counter((f"i{n}", sample) for n in range(ITEMS) for sample in range(SAMPLES))


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
