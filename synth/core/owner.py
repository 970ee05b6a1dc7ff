"""A process that does not outlive the one that started it, also when that one is killed.

    os.environ["_DAIL_OWNER"] = str(os.getpid()); start `dail serve`      # the owner
    end_with_owner()                                                     # in the child, first thing

By Linux's own means, which need nobody to clean up: when the owner ends, however it ends, the child gets SIGTERM.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading

OWNER = "_DAIL_OWNER"
_PR_SET_PDEATHSIG = 1


def end_with_owner() -> None:
    """If somebody who owns this process named himself in the environment. What this process starts is not his."""
    owner = os.environ.pop(OWNER, None)
    if owner is None or not owner.isdecimal():
        return
    if hasattr(signal, "SIGTERM") and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(owner):  # he ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def end_with_pipe(descriptor: int) -> None:
    """Ends this process and its group once nobody can write to this pipe any more, even while it is busy.

    For children of a thread: to Linux the end of a thread is the end of its children's owner.
    """

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)  # its end alone
        poll.poll()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="owner", daemon=True).start()
