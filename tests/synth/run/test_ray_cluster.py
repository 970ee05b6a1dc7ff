"""What keeps a process from a cluster is one line, before anything waits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.run import ray_cluster as room
from dail.synth.run.ray_cluster import ray_cluster


@pytest.fixture(autouse=True)
def _no_ray_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # it would be joined
    monkeypatch.setattr("ray.shutdown", lambda: None)  # and ended


def refusal(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError) as refused, ray_cluster():
        pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "ray://127.0.0.1:1", "nowhere.invalid:6379"])
def test_a_cluster_that_is_not_there_is_said_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"RAY_ADDRESS is {address}, but no cluster answers there" in refusal(address, monkeypatch)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head:8265", "http://head"])
def test_a_job_api_is_no_cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(address, monkeypatch)
    assert "which is a job API" in said and "6379" in said and f"ray job submit --address {address}" in said


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port", "head:70000", "file:///tmp:1", "a/b:1"])
def test_what_is_no_address_is_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"RAY_ADDRESS is {address}, which is no address" in refusal(address, monkeypatch)


@pytest.fixture
def another_server() -> Iterator[str]:
    """Takes connections and says nothing, as any server that waits for a request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for connection in taken:
            connection.close()


def test_another_server_is_told_from_a_cluster_within_a_bound(
    another_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_ASK_S", 4.0)
    said = refusal(another_server, monkeypatch)
    assert f"RAY_ADDRESS is {another_server}, but no Ray cluster answers there: nothing in 4 s" in said


def test_what_ray_says_of_it_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another version, or of a token that is missing."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        return subprocess.CompletedProcess(command, 1, "", "Traceback\n  in x\nRuntimeError: Version mismatch: 2.1\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert "no Ray cluster answers there: RuntimeError: Version mismatch: 2.1; start" in refusal("auto", monkeypatch)


def test_a_ray_that_does_not_start_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def init(*_: object, **__: object) -> None:
        raise RuntimeError("\nThe current node timed out during startup.\n  more\n")

    monkeypatch.setattr("ray.init", init)
    wanted = r"^Ray does not start here: The current node timed out during startup\.$"
    with pytest.raises(UsageError, match=wanted), ray_cluster():
        pass


@pytest.mark.parametrize("before", [None, "made by Ray, for all to read"])
def test_the_token_of_a_cluster_here_is_nobody_elses(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    if before:
        file.parent.mkdir()
        file.write_text(before)
        file.chmod(0o644)
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr("ray.init", lambda *_, **__: seen.append((file.read_text(), file.stat().st_mode & 0o777)))
    with ray_cluster():
        pass
    ((token, mode),) = seen
    assert mode == 0o600
    assert token == before if before else len(token) == 64
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]


def test_sigterm_while_ray_starts_ends_as_sigterm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own handler, which it sets while it starts, leaves with the signal's number as the exit code."""

    def start(*_: object, **__: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", start)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, ray_cluster():
        pass
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
