"""How much time a child process has had, whatever else the machine does: processor time, and time in which it waited
for nothing but itself.

A comparison that is given 5 seconds must not be given up because others use the processor. So time in which a process
of the child's session could run, but was not let, does not count. What sleeps, or waits for a network, is charged by
the clock on the wall.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_MOST_WAITED = 20  # times its limit; behind that the clock on the wall decides: something holds it up for good


class SessionTime:
    """Of a child that leads a session of its own, with all that it started.

    Where there is no /proc (macOS), the clock on the wall counts.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.begin()

    def begin(self) -> None:
        self._started = self._looked = time.monotonic()
        # the child alone, since most comparisons end before a second look
        self._cpu_before = self._cpu = self._look([self._pid])[0]
        self._idle = 0.0

    def spent_s(self) -> float:
        """Seconds since `begin`; to be asked often, since what happens between two questions is taken as one."""
        cpu, is_running = self._look()
        now = time.monotonic()
        # what it did not compute of a time in which nothing of it wanted to run, it waited by itself
        if not is_running:
            self._idle += max(0.0, now - self._looked - (cpu - self._cpu))
        self._looked, self._cpu = now, cpu
        return min(cpu - self._cpu_before + self._idle, now - self._started) if cpu else now - self._started

    def is_over(self, limit_s: float) -> bool:
        return self.spent_s() >= limit_s or time.monotonic() - self._started >= _MOST_WAITED * limit_s

    def _look(self, among: Iterable[object] | None = None) -> tuple[float, bool]:
        """Processor seconds of the session until now, and whether one of its processes runs or is kept from it by
        others: waits for a processor or a disk, or was stopped."""
        ticks, is_running = 0, False
        for path in _PROC.glob("[0-9]*") if among is None else [_PROC / str(pid) for pid in among]:
            try:
                fields = (path / "stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if len(fields) > 14 and int(fields[3]) == self._pid:
                ticks += sum(map(int, fields[11:13]))
                if path.name == str(self._pid):
                    ticks += sum(map(int, fields[13:15]))  # of those that it has waited for
                is_running |= fields[0] in ("R", "D", "T")
        return ticks / os.sysconf("SC_CLK_TCK"), is_running
