"""`dail` verbs as processes that never outlive this one: what `dail demo` and `dail loop` are made of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from dail.synth.core.errors import EXIT_GATE, EXIT_OK, DailError, GateStopped
from dail.synth.core.owner import OWNER

_STOP_S = 30.0  # a worker hands its units back and stops Ray in this time


class Children:
    """Each is the leader of its own session, so that a Ctrl-C reaches this process alone and the order of stopping is
    ours: the worker hands its units back while the API still answers. A second Ctrl-C ends them at once, and if this
    process is killed the system tells them to stop.
    """

    def __init__(self, logs: Path, **env: str) -> None:
        self._logs = logs
        self._env = env  # beside our own, which wins
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Children:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def serve(self, *args: object) -> str:
        """Starts the API and returns its URL."""
        child = self.start("serve", "serve", "--json", *args, stdout=subprocess.PIPE)
        assert child.stdout is not None, "the API's output is a pipe"
        line = child.stdout.readline()
        if not line:
            child.wait()
            self.check()
        return str(json.loads(line)["url"])

    def start(self, name: str, *args: object, stdout: int | None = None) -> subprocess.Popen[str]:
        """Starts `dail ARGS` in the background; what it says goes to the log of that name."""
        with open(self._logs / f"{name}.log", "a") as log:
            child = self._spawn(args, stdout or log, log)
        self._running[name] = child
        return child

    def run(self, name: str, *args: object) -> None:
        """Runs `dail ARGS` to its end, its progress on our terminal."""
        child = self._spawn(args, 2, None)
        self._running[name] = child
        self._ended(name, child.wait())

    def result(self, name: str, *args: object, allowed: Container[int] = (EXIT_OK,)) -> str:
        """As `run`, and what it wrote on standard output. `allowed` are exit codes that are no failure."""
        child = self._spawn(args, subprocess.PIPE, None)
        self._running[name] = child
        said, _ = child.communicate()
        self._ended(name, child.returncode, allowed)
        return said

    def _ended(self, name: str, code: int, allowed: Container[int] = (EXIT_OK,)) -> None:
        self._running.pop(name, None)
        if code not in allowed:
            kind = GateStopped if code == EXIT_GATE else DailError
            raise kind(f"`dail {name}` ended with exit code {code}; the lines above say why")

    def check(self) -> None:
        """Raises DailError if a child in the background has ended, with the last lines of its log."""
        for name, child in self._running.items():
            if child.poll() is not None:
                tail = "\n  ".join((self._logs / f"{name}.log").read_text("utf-8", "replace").splitlines()[-10:])
                raise DailError(f"`dail {name}` ended with exit code {child.returncode}:\n  {tail}")

    def stop(self) -> None:
        """Ends what was started last first, kindly, and then for good; at once for good when interrupted meanwhile."""
        try:
            for child in reversed(self._running.values()):
                child.terminate()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_STOP_S)
        finally:
            for child in self._running.values():
                _end(child)
            for child in self._running.values():
                child.wait()
        self._running.clear()

    def _spawn(self, args: Sequence[object], stdout: int | IO[str], stderr: IO[str] | None) -> subprocess.Popen[str]:
        # the installed script: `python -m` would look into the user's folder first
        command = [sys.executable, str(Path(sys.executable).with_name("dail")), *map(str, args)]
        # idle threads that spin slow the others down
        env = {"OMP_WAIT_POLICY": "PASSIVE", **self._env, **os.environ, OWNER: str(os.getpid())}
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=env, text=True, start_new_session=True
        )


def _end(child: subprocess.Popen[str]) -> None:
    """With its group, of which it is the leader."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
