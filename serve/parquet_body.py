"""A batch that comes as Parquet, as the JSON lines that it stands for: its settings first, then an item a row.

A file of 519 bytes can ask for gigabytes, and its footer need not say so. So it is unpacked in a process of its own
(`parquet_rows.py`), with bounds of memory and time. Its lines are read as any lines are: the same batch is the same
however it is sent.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from dail.serve.errors import RequestError
from dail.serve.parquet_rows import TOLD, TOO_MUCH, Bounds
from dail.synth.core.errors import InputFault

MEMORY_BYTES = 512 << 20
TIME_S = 10  # of a processor; on the clock it may be four times that
_MAGIC = b"PAR1"
_BOUND_MET = (TOO_MUCH, -signal.SIGKILL, -signal.SIGXCPU)  # by itself, by our clock or the system, by a processor's
_COMMAND = "import sys; from dail.serve.parquet_rows import Bounds, unpack; unpack(Bounds(*map(int, sys.argv[1:])))"


def lines_of(body: bytes | bytearray, most_bytes: int, most_rows: int, most_values: int) -> bytes:
    """The lines, at most one row more than is taken.

    Raises:
        RequestError: 400 for what is no Parquet or no rows of JSON's kinds, 413 for what is too much, 503 where no
            process can be started.
    """
    if not (body[:4] == _MAGIC and body[-4:] == _MAGIC and len(body) > 12):
        raise RequestError(400, "bad_parquet", "the body is no Parquet, or damaged on its way")
    code, said = _unpacked(body, Bounds(most_bytes, most_rows, most_values, MEMORY_BYTES, TIME_S))
    if code == 0 and len(said) <= most_bytes:
        return said
    if code in _BOUND_MET or code == 0:
        detail = (
            f"the Parquet unpacks to more than is taken: at most {most_bytes} bytes of JSON lines, {MEMORY_BYTES} of "
            f"memory and {TIME_S} s; post several batches"
        )
        raise RequestError(413, "body_too_large", detail)
    if code > 0 and code != TOLD:  # Python's own, before the file was looked at
        raise _not_now()
    where, detail = json.loads(said) if code == TOLD else ("", "it cannot be read as Parquet")
    raise RequestError(
        400, "bad_parquet", "the body is not Parquet that is taken", [InputFault(where, "bad_parquet", detail)]
    )


def _unpacked(body: bytes | bytearray, bounds: Bounds) -> tuple[int, bytes]:
    """The child's exit code, and what it said, cut where it says too much."""
    with _child(bounds) as child:
        assert child.stdin is not None and child.stdout is not None, "both are pipes"
        too_slow = threading.Timer(4 * TIME_S, child.kill)
        too_slow.start()
        try:
            with suppress(BrokenPipeError):  # it ended before it had read the body: its code says why
                child.stdin.write(body)
            with suppress(BrokenPipeError):
                child.stdin.close()
            said = child.stdout.read(bounds.bytes + 1)
            if len(said) > bounds.bytes:
                child.kill()
            return child.wait(), said
        finally:
            too_slow.cancel()
            child.kill()


def _child(bounds: Bounds) -> subprocess.Popen[bytes]:
    """Isolated: without this process's settings, its secrets, or its folder on Python's path."""
    # one allocator and one arena, whose addresses count; threads would have more
    env = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    given = (bounds.bytes, bounds.rows, bounds.values, bounds.memory_bytes, bounds.time_s)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _COMMAND, *map(str, given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )
    except OSError:
        raise _not_now() from None


def _not_now() -> RequestError:
    detail = "no process could be started to unpack the Parquet; try again, or send JSON lines"
    return RequestError(503, "busy", detail, Retry_After="5")
