"""The processes of compose.yaml on loopback: its own commands, environment and health checks, read from the file.

Images, volumes and networks are docker's; here a host is 127.0.0.1 with a port of its own, and a volume a folder.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import DEMO_MODEL, ROOT
from tests.deploy.test_containers import DOCKERFILE, SERVICES
from tests.flow.conftest import BIN, running, wait_for
from tests.serve.conftest import clean_environment, postgres  # noqa: F401

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

_PAGE = ROOT / "deploy" / "where-it-runs.md"
# further ports of the same programs, which in a container nobody else has
_MORE = {
    "objects": [f"-{part}.port{kind}" for part in ("volume", "filer") for kind in ("", ".grpc")],
    "ray-head": ["--ray-client-server-port", "--dashboard-agent-listen-port"],
}


_ENTRYPOINTS = {"objects": ["weed"], "bucket": SERVICES["bucket"]["entrypoint"]}


def free_ports(number: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4 * number)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    # SeaweedFS' master listens at its port + 10,000 as well
    return [port for port in ports if port < 55_000][:number]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the page's line makes."""
    (line,) = re.findall(r"^\(umask 077; .+> deploy/\.env\)$", _PAGE.read_text("utf-8"), re.MULTILINE)
    folder = tmp_path_factory.mktemp("clone")
    (folder / "deploy").mkdir()
    subprocess.run(["bash", "-eu", "-c", line], cwd=folder, check=True, timeout=60)
    file = folder / "deploy" / ".env"
    assert file.stat().st_mode & 0o077 == 0
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


class Compose:
    """The services' commands and environments as docker would give them, but for hosts and folders."""

    path = f"{BIN}:{os.environ['PATH']}"

    def __init__(self, secrets: dict[str, str], folder: Path, store: str) -> None:
        self._secrets, self._store = secrets, store
        names = ("objects:8333", "objects:9333", "api:8765", "ray-head:6379")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.api = f"127.0.0.1:{ports['api:8765']}"
        self._places = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        self._places |= {f"127.0.0.1:{name.partition(':')[2]}": new for name, new in self._places.items()}
        self._places |= {f"port={name.partition(':')[2]}": f"port={port}" for name, port in ports.items()}
        self._places |= {"-ip=objects": "-ip=127.0.0.1", "/models/model": str(DEMO_MODEL), "/data": str(folder)}

    def _here(self, text: str) -> str:
        def value(found: re.Match[str]) -> str:
            name, _, default = found[1].partition(":")
            return self._secrets.get(name) or default.removeprefix("-")

        text = re.sub(r"\$\{([^}]+)\}", value, text)
        for name, here in self._places.items():
            text = text.replace(name, here)
        return text

    def environment(self, service: str) -> dict[str, str]:
        env = {name: self._here(str(value)) for name, value in SERVICES[service].get("environment", {}).items()}
        if service == "api":  # of its image too
            (line,) = re.findall(r"^ENV PATH=/opt/dail/bin:\$PATH (.+)$", DOCKERFILE, re.MULTILINE)
            env |= {name: self._here(value) for name, value in (word.split("=", 1) for word in line.split())}
            env |= {
                "DAIL_HOST": "127.0.0.1",
                "DAIL_PORT": self.api.rpartition(":")[2],
                "DAIL_STORE": self._store,
            }
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "PATH": self.path}
        return {**clean_environment(), **env}

    def command(self, service: str) -> list[str]:
        words = SERVICES[service].get("command", ["dail", "serve"])
        words = shlex.split(words) if isinstance(words, str) else words
        more = _MORE.get(service, [])
        flags = [f"{name}={port}" for name, port in zip(more, free_ports(len(more)), strict=True)]
        return [*(self._here(word) for word in words), *flags]

    def is_well(self, service: str) -> bool:
        check = SERVICES[service].get("healthcheck", {}).get("test")
        if check is None:
            (check,) = re.findall(r"^    (CMD .+livez.+)$", DOCKERFILE.split(" AS worker-gpu")[0], re.MULTILINE)
            check = ["CMD", *json.loads(check.removeprefix("CMD "))]
        kind, *words = [self._here(word) for word in check]
        assert kind == "CMD"
        if words[0] == "wget":
            with suppress(httpx.HTTPError):
                return httpx.get(words[-1], trust_env=False).is_success
            return False
        program = sys.executable if words[0] == "python" else str(BIN / words[0])
        done = subprocess.run([program, *words[1:]], env=self.environment(service), capture_output=True, timeout=120)
        return done.returncode == 0


@pytest.fixture(scope="module")
def api(
    secrets: dict[str, str],
    postgres: Any,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    """Everything runs, begun in the order of `depends_on`."""
    folder = tmp_path_factory.mktemp("data")
    compose = Compose(secrets, folder, postgres())
    begun: list[str] = ["postgres"]
    try:
        with ExitStack() as stack:
            for service in ("objects", "bucket", "api", "ray-head", "worker-fake"):
                assert set(SERVICES[service].get("depends_on", {})) <= set(begun), f"{service} would not be begun now"
                log = stack.enter_context((folder / f"{service}.log").open("w"))
                command = [*_ENTRYPOINTS.get(service, []), *compose.command(service)]
                options = {"env": compose.environment(service), "stdout": log, "stderr": log, "cwd": folder}
                begun.append(service)
                if service == "bucket":
                    for _ in range(2):  # again, where there is one
                        subprocess.run(command, check=True, timeout=120, **options)
                    continue
                child = stack.enter_context(
                    running(shutil.which(command[0], path=compose.path), *command[1:], **options)
                )
                if service != "worker-fake":  # whose check is for a container's own port
                    wait_for(lambda: _is_well_or_ended(compose, service, child), 400)  # noqa: B023
                    assert child.poll() is None, service
            headers = {"Authorization": f"Bearer {secrets['DAIL_TOKEN']}"}
            with httpx.Client(base_url=f"http://{compose.api}", headers=headers, timeout=30) as client:
                yield client
    finally:
        _end_all_of(secrets["RAY_AUTH_TOKEN"])
        for log in folder.glob("*.log"):
            print(f"--- {log.stem}\n{log.read_text()[-2000:]}")


def _is_well_or_ended(compose: Compose, service: str, child: subprocess.Popen[str]) -> bool:
    return child.poll() is not None or compose.is_well(service)


def _end_all_of(token: str) -> None:
    """`ray start` leaves daemons, which docker would end with their container."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("RAY_AUTH_TOKEN") == token:
                process.kill()


def test_a_batch_goes_through_all_of_it(api: httpx.Client):
    items = [{"id": f"i{n}", "problem": f"What is {n} + {n}?", "solution": f"It is {2 * n}."} for n in range(6)]
    synthesis = {"samples_per_item": 2, "max_tokens": 64, "thinking": False}
    batch = api.post("/v1/batches", json={"items": items, "synthesis": synthesis}).json()["id"]
    ended = wait_for(lambda: (now := api.get(f"/v1/batches/{batch}").json())["status"] == "completed" and now, 400)
    assert ended["request_counts"]["completed"] == 6
    assert ended["manifest"]["path"].startswith("s3://dail/objects/"), "in the bucket"
    assert api.get(f"/v1/batches/{batch}/results").text.count("\n") == 12


def test_nobody_is_let_in_without_a_token(api: httpx.Client):
    for path in ("/v1/batches", "/metrics"):
        assert httpx.get(api.base_url.join(path), trust_env=False).status_code == 401
