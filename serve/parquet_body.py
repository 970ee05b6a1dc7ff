"""A batch that comes as Parquet, as the JSON lines that it stands for: its settings first, then an item a row.

A file of 519 bytes can ask for gigabytes, and its footer need not say so. So it is unpacked in a process of its own,
with bounds of memory and time, that writes no more lines than a body may have. They are read as any lines are: the same
batch is the same however it is sent.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from dail.serve.errors import RequestError

SETTINGS = "dail.batch"  # key of the file's own metadata, under which the batch's settings are, as JSON
MEMORY_BYTES = 512 << 20  # beside what the process takes before it opens the file
TIME_S = 30  # of a processor; on the clock it may be four times that
_MAGIC = b"PAR1"
_ROWS = 16  # that are unpacked at once
_MAX_COLUMNS = 256
_TOLD, _TOO_MUCH = 3, 4  # exit codes: a refusal in a sentence, and a bound that was met
_COMMAND = "from dail.serve.parquet_body import unpack; unpack()"


def lines_of(body: bytes | bytearray, most_bytes: int) -> bytes:
    """The lines. Raises RequestError: 400 what is no Parquet or no rows of JSON's kinds, 413 what is too much."""
    if not (body[:4] == _MAGIC and body[-4:] == _MAGIC and len(body) > 12):
        raise RequestError(400, "bad_parquet", "the body is no Parquet, or damaged on its way")
    with _child(most_bytes) as child:
        assert child.stdin is not None and child.stdout is not None, "both are pipes"
        too_slow = threading.Timer(4 * TIME_S, child.kill)
        too_slow.start()
        try:
            child.stdin.write(body)
            child.stdin.close()
            lines = child.stdout.read(most_bytes + 1)
        except BrokenPipeError:  # it met a bound before it had read the body
            lines = b""
        finally:
            too_slow.cancel()
            child.kill()
        code = child.wait()
    if code == _TOLD:
        where, detail = json.loads(lines)
        raise RequestError(
            400, "bad_parquet", "the body is not Parquet that is taken", [(where, "bad_parquet", detail)]
        )
    if code != 0 or len(lines) > most_bytes:
        detail = (
            f"the Parquet unpacks to more than is taken: at most {most_bytes} bytes of JSON lines, {MEMORY_BYTES} of "
            f"memory and {TIME_S} s; post several batches"
        )
        raise RequestError(413, "body_too_large", detail)
    return lines


def _child(most_bytes: int) -> subprocess.Popen[bytes]:
    """Isolated: without this process's settings, its secrets, or its folder on Python's path."""
    env = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _COMMAND, str(most_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env,
    )


class _Unfit(Exception):
    """What is told of a file: a JSON pointer and a sentence, without what it holds."""


def unpack() -> None:
    """The child's whole life: the file on standard input, lines or a refusal on standard output."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    most_bytes = int(sys.argv[1])
    data = sys.stdin.buffer.read()
    resource.setrlimit(resource.RLIMIT_CPU, (TIME_S, TIME_S))
    bound = _taken_bytes() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        _end(0, b"\n".join(_within(most_bytes, _lines(file))))
    except (MemoryError, pa.ArrowMemoryError):
        _end(_TOO_MUCH)
    except _Unfit as fault:
        _end(_TOLD, json.dumps(fault.args).encode())
    except (pa.ArrowException, OSError, ValueError, RecursionError):
        _end(_TOLD, json.dumps(["", "it cannot be read as Parquet"]).encode())


def _lines(file: Any) -> Iterator[bytes]:
    schema = file.schema_arrow
    names = list(schema.names)
    if len(names) > _MAX_COLUMNS or len(set(names)) < len(names):
        raise _Unfit("", f"it has {len(names)} columns, at most {_MAX_COLUMNS} of different names are taken")
    yield (schema.metadata or {}).get(SETTINGS.encode(), b"{}").replace(b"\n", b" ")
    number = 0
    for batch in file.iter_batches(_ROWS, use_threads=False):
        for row in batch.to_pylist():
            try:
                yield json.dumps(_json_of(row), ensure_ascii=False, allow_nan=False).encode()
            except (TypeError, ValueError) as error:
                why = str(error) if isinstance(error, TypeError) else "NaN, an infinity, or text that is no UTF-8"
                raise _Unfit(f"/items/{number}", f"the row holds {why}; JSON has no such value") from None
            number += 1


def _json_of(value: Any) -> Any:
    """A null is a name that is left out, since a table has every name in every row. Raises TypeError."""
    if isinstance(value, dict):
        return {name: _json_of(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        if value and all(isinstance(one, tuple) for one in value):  # a map
            return _json_of(dict(value))
        return [_json_of(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a value of type {type(value).__name__}")


def _within(most_bytes: int, lines: Iterator[bytes]) -> Iterator[bytes]:
    total = 0
    for line in lines:
        total += len(line) + 1
        if total > most_bytes:
            _end(_TOO_MUCH)
        yield line


def _taken_bytes() -> int:
    """Of addresses, libraries among them."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _end(code: int, said: bytes = b"") -> None:
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
    os._exit(code)  # without the clean-up, which may want memory that there is not
