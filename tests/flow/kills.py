"""Who belongs to a verb: everything that it started, and what that started, however it was ended afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

GONE_S = 120.0
_LOOK_S = 0.02


class Family:
    """A verb that is running, and every process under it, seen while their parents lived.

    Nothing that they carry would do: Ray writes its workers' titles over their environment.
    """

    def __init__(self, command: Sequence[object], log: Path, **env: str) -> None:
        self.log = log
        with open(log, "a") as written:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                preexec_fn=_hears,
            )
        self._seen: dict[int, psutil.Process] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        roots = {self.process.pid: psutil.Process(self.process.pid)}
        while not self._over.wait(_LOOK_S):
            for one in list((roots | self._seen).values()):
                with suppress(psutil.Error):
                    self._seen |= {child.pid: child for child in one.children() if child.pid not in self._seen}

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def wait_until(self, reached: Callable[[], object], timeout_s: float = 300) -> None:
        until = time.monotonic() + timeout_s
        while not reached():
            assert self.process.poll() is None, f"ended with {self.process.returncode} before:\n{self.said()[-3000:]}"
            assert time.monotonic() < until, self.said()[-3000:]
            time.sleep(_LOOK_S)

    def kill(self, *signals: int, pause_s: float = 0.3) -> int:
        """Sends them to the verb alone, one after the other; how it ended."""
        for number in signals:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
            time.sleep(pause_s)
        code = self.process.wait(GONE_S)
        time.sleep(10 * _LOOK_S)  # what was being started when it ended
        return code

    def left(self, besides: tuple[str, ...] = ()) -> list[str]:
        """Command lines of those that are still there when they had time to go, but for these titles."""
        until = time.monotonic() + GONE_S
        while alive := [one for one in self._seen.values() if _is_alive(one) and not _title(one).endswith(besides)]:
            if time.monotonic() > until:
                break
            time.sleep(0.1)
        self._over.set()
        self._thread.join()
        found = [_title(one) for one in alive]
        for one in alive:
            with suppress(psutil.Error):
                one.kill()
        return found

    @property
    def num_seen(self) -> int:
        return len(self._seen)


def _hears() -> None:
    """A shell makes what it starts in the background deaf to Ctrl-C, and nohup to a hang-up, and their children too."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())}".strip()
    return str(process.pid)
