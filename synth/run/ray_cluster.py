"""The Ray that engines run on: the one this process has started, the cluster of RAY_ADDRESS, or one on this machine.

What keeps Ray from it is told in a line. By itself Ray knocks for minutes at a door where nobody is, deaf to Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from dail.synth.core.errors import UsageError
from dail.synth.core.progress import waiting

_CONNECT_S = 10.0
_ASK_S = 90.0  # Ray itself gives up after 45 s
_OBJECT_STORE_BYTES = 256 << 20  # traces are small; Ray would take 30 % of the memory
_WANTED = "wanted HOST:PORT of its head (6379 as a rule), or auto on a node of it"
_WAY_OUT = "start one with `RAY_AUTH_MODE=token ray start --head`, or unset RAY_ADDRESS to use this machine"


@contextmanager
def ray_cluster(log_to_driver: bool = False) -> Iterator[None]:
    """Joins the Ray that this process has started, else the cluster of RAY_ADDRESS, else starts Ray on this machine.

    Raises:
        UsageError: no cluster is there, or it does not take this process.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_address(address)
    else:
        _make_token()
    try:
        with waiting(f"joining the Ray cluster of {address}" if address else "starting Ray on this machine"):
            _join(address, log_to_driver)
        yield
    finally:
        ray.shutdown()


def _make_token() -> None:
    """The token of a cluster that Ray starts here, in a file that is ours alone: Ray's own others may read."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    with suppress(OSError, RuntimeError):  # no home, or not ours: Ray says what keeps it from its file
        file = Path.home() / ".ray" / "auth_token"
        file.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent) as whole:  # 0600
            whole.write(secrets.token_hex(32))
            whole.flush()
            with suppress(FileExistsError):
                os.link(whole.name, file)  # whole or not at all: another process may read it now
        file.chmod(0o600)


def _join(address: str | None, log_to_driver: bool) -> None:
    quiet: dict[str, Any] = {"log_to_driver": log_to_driver, "logging_level": logging.ERROR}
    with _own_sigterm():
        try:
            if address:
                ray.init(**quiet)
            else:
                ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        except Exception as error:  # each of its layers has its own
            where = f"the cluster of RAY_ADDRESS={address} was not joined" if address else "Ray does not start here"
            raise UsageError(f"{where}: {_first_line(str(error)) or type(error).__name__}") from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself where it can, which is in the main thread, and logs that it cannot elsewhere."""
    if threading.current_thread() is not threading.main_thread():
        log = logging.getLogger("ray._private.worker")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # Ray's handler leaves with the signal's number, which says nothing to a shell
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_address(address: str) -> None:
    """Somebody listens there, and is the head of a cluster."""
    if address == "local":
        return
    if re.match(r"https?:", address):
        raise UsageError(
            f"RAY_ADDRESS is {address}, which is a job API; {_WANTED}; a job goes to a job API by `ray job submit "
            f"--address {address} -- dail …`, and finds its cluster by itself"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != "auto":
        if not (host and port.isdecimal() and "/" not in host and int(port) < 1 << 16):
            raise UsageError(f"RAY_ADDRESS is {address}, which is no address; {_WANTED}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        except OSError as error:
            raise UsageError(f"RAY_ADDRESS is {address}, but no cluster answers there: {error}; {_WAY_OUT}") from None
    if not address.startswith("ray://"):  # those of a client answer in their own words within half a minute
        _ask(address)


def _ask(address: str) -> None:
    """In a process of its own, which can be ended: to whom another server answers, Ray says so after minutes."""
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        why = f"nothing in {_ASK_S:.0f} s"
    else:
        if asked.returncode == 0:
            return
        why = next((line for line in reversed(asked.stderr.splitlines()) if line.strip()), "no reason given")
    raise UsageError(f"RAY_ADDRESS is {address}, but no Ray cluster answers there: {_first_line(why)}; {_WAY_OUT}")


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
