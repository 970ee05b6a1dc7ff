"""`ray job submit` on a cluster with token authentication: olympiad problems to shards on real vLLM."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from dail.synth.run import doctor
from dail.synth.schema.manifest import read_rows
from tests.conftest import DEMO_MODEL, OLYMPIAD, ROOT
from tests.flow.conftest import BIN, running, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ITEMS = 6


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray head of its own on loopback; yields the address of its job API and the environment that may use it."""
    home = tmp_path_factory.mktemp("ray")
    command = [BIN / "ray", "get-auth-token", "--generate"]  # as README.md says
    subprocess.run(command, env={**os.environ, "HOME": str(home)}, umask=0o077, check=True, capture_output=True)
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    with head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)) as (url, env):
        yield url, env


@contextmanager
def head(**auth):
    env = {
        **os.environ,
        **auth,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    env.pop("RAY_ADDRESS", None)
    dashboard = free_port()
    command = (BIN / "ray", "start", "--head", "--block", "--port", free_port(), "--num-cpus", 2,
               "--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard, "--ray-client-server-port", free_port(),
               "--dashboard-agent-listen-port", free_port(), "--node-ip-address", "127.0.0.1",
               "--object-store-memory", 256 << 20, "--disable-usage-stats")  # fmt: skip
    url = f"http://127.0.0.1:{dashboard}"
    token = auth.get("RAY_AUTH_TOKEN_PATH")
    bearer = {"Authorization": f"Bearer {Path(token).read_text()}"} if token else {}

    def up() -> bool:
        try:
            return httpx.get(f"{url}/api/version", headers=bearer, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    with running(*command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_for(up, 60)
        yield url, env


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"Authorization": "Bearer wrong"}, 403)])
def test_nobody_without_the_token_may_run_a_job(cluster, tmp_path, headers, status):
    with httpx.Client(base_url=cluster[0], headers=headers, trust_env=False) as http:
        for address in ("/api/jobs/", f"/api/jobs/?token={'a' * 64}"):
            assert http.post(address, json={"entrypoint": f"touch {tmp_path}/ran"}).status_code == status
            assert http.get(address).status_code == status
    assert not (tmp_path / "ran").exists()


def test_doctor_finds_no_danger_in_a_cluster_that_asks_for_its_token(cluster, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", cluster[0])
    assert doctor._dangers() == []


@pytest.mark.soak
def test_doctor_is_red_where_anybody_may_run_a_job(monkeypatch):
    with head(RAY_AUTH_MODE="disabled") as (url, _):
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", url)
        (danger,) = doctor._dangers()
    assert url in danger and "RAY_AUTH_MODE=token" in danger


def submit(cluster, *command, waits=True) -> subprocess.CompletedProcess[str]:
    url, env = cluster
    line = [BIN / "ray", "job", "submit", "--address", url, "--working-dir", ROOT, *(() if waits else ("--no-wait",)),
            "--", "dail", *map(str, command)]  # fmt: skip
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=400)


def test_a_worker_job_turns_olympiad_problems_into_shards_and_a_train_job_those_into_an_adapter(cluster, api, tmp_path):
    items = [json.loads(line) for line in OLYMPIAD.read_text().splitlines()]
    short = sorted(items, key=lambda item: len(str(item["solution"])))[:ITEMS]
    synthesis = {"max_tokens": 48, "thinking": False}
    batch = api.post("/v1/batches", json={"model": "demo", "items": short, "synthesis": synthesis}).json()
    done = submit(cluster, "worker", "--api", api.base_url, "--model", DEMO_MODEL, "--idle-exit", 3)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    now = api.get(f"/v1/batches/{batch['id']}").json()
    assert now["status"] == "completed" and now["request_counts"]["completed"] == ITEMS, now
    manifest = now["manifest"]["path"]
    rows = {row.item_id: row for row in read_rows(Path(manifest))}
    for item in short:
        row = rows[item["id"]]
        assert row.kind == item["kind"] and row.trace_ids
        assert row.solution == (
            item["solution"] if isinstance(item["solution"], str) else "\n\n".join(item["solution"])
        )
    done = submit(cluster, "train", "--ray-workers", 2, "--model", DEMO_MODEL, "--manifest", manifest,
                  "--out", tmp_path / "run", "--set", "epochs=1")  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("training: 2/2") == 1, "progress is shown, once"
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
