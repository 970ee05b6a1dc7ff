"""Rows of a hostile Parquet file as JSON lines: the whole life of a child process that `parquet_body.py` starts.

It loads nothing but pyarrow, and has bounds of memory and time. Of rows and values it unpacks just so many more than
are taken that the reader of its lines sees it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

SETTINGS = "dail.batch"  # key of the file's own metadata, under which the batch's settings are, as JSON
TOLD, TOO_MUCH = 3, 4  # exit codes: a refusal in a sentence, and a bound that was met
_ROWS = 16  # that are unpacked at once
_MAX_COLUMNS = 256
_WANTED = "text, numbers, true and false, and lists, structs and maps of text to these"


@dataclass(frozen=True)
class Bounds:
    """What may come of one file."""

    bytes: int  # of lines
    rows: int
    values: int  # with names, as `bounded_json.py` counts them
    memory_bytes: int  # beside what the process takes before it opens the file
    time_s: int  # of a processor


class _Unfit(Exception):
    """What is told of a file: a JSON pointer and a sentence, without what it holds."""


def unpack(bounds: Bounds) -> None:
    """The file on standard input, lines or a refusal on standard output. Does not return."""
    data = sys.stdin.buffer.read()
    code, said = TOO_MUCH, b""
    with suppress(MemoryError):  # also of what is told of another error
        code, said = _unpacked(data, bounds)
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
    os._exit(code)  # without the clean-up, which may want memory that there is not


def _unpacked(data: bytes, bounds: Bounds) -> tuple[int, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    resource.setrlimit(resource.RLIMIT_CPU, (bounds.time_s, bounds.time_s))
    bound = _taken_bytes() + bounds.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False)
        lines, num_bytes = [], 0
        for line in _lines(file, bounds):
            lines.append(line)
            num_bytes += len(line) + 1
            if num_bytes > bounds.bytes:
                return TOO_MUCH, b""
        return 0, b"\n".join(lines)
    except MemoryError:
        return TOO_MUCH, b""
    except _Unfit as fault:
        return TOLD, json.dumps(fault.args).encode()
    except Exception:  # whatever a damaged or made-up file brings about
        return TOLD, json.dumps(["", "it cannot be read as Parquet"]).encode()


def _lines(file: Any, bounds: Bounds) -> Iterator[bytes]:
    """The settings, then a line a row, to the first that is one too many or holds one value too many."""
    schema = file.schema_arrow
    if len(schema.names) > _MAX_COLUMNS or len(set(schema.names)) < len(schema.names):
        raise _Unfit("", f"it has {len(schema.names)} columns, at most {_MAX_COLUMNS} of different names are taken")
    for column in schema:
        if (odd := _odd(column.type)) is not None:
            where = "/items/0/" + column.name.replace("~", "~0").replace("/", "~1")
            raise _Unfit(where, f"the column holds {_name(odd)}; wanted {_WANTED}")
    yield (schema.metadata or {}).get(SETTINGS.encode(), b"{}").replace(b"\n", b" ")
    number = values = 0
    for batch in file.iter_batches(_ROWS, use_threads=False):
        for row in _rows(batch, number):
            kept = _without_nulls(row)
            try:
                yield json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()
            except ValueError:
                raise _Unfit(f"/items/{number}", "the row holds NaN or an infinity; JSON has no such number") from None
            number, values = number + 1, values + _count(kept)
            if number > bounds.rows or values > bounds.values:
                return


def _rows(batch: Any, number: int) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist(maps_as_pydicts="strict")
    except UnicodeDecodeError:
        raise _Unfit(f"/items/{number}", f"in this row or one of the next {_ROWS} is text that is no UTF-8") from None
    except (KeyError, ValueError):
        raise _Unfit(
            f"/items/{number}", f"in this row or one of the next {_ROWS} a name is given twice, or a map has none"
        ) from None
    return rows


def _odd(kind: Any) -> Any:
    """The type within, if JSON has no such value."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _odd(kind.value_type)
    if types.is_map(kind):
        return _odd(kind.item_type) if _is_text(kind.key_type) else kind.key_type
    if types.is_nested(kind):  # a union too, whose fields are alternatives
        within = (_odd(kind.field(place).type) for place in range(kind.num_fields))
        return next((one for one in within if one is not None), None)
    is_plain = types.is_null(kind) or types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)
    return None if is_plain or _is_text(kind) else kind


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _name(kind: Any) -> str:
    """Ours: a type's own may hold text of the file."""
    return str(kind).partition("[")[0].partition("<")[0]


def _without_nulls(value: Any) -> Any:
    """A null is a name that is left out, since a table has every name in every row."""
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


def _count(value: Any) -> int:
    """Values and names."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(_count, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(_count, value))
    return 1


def _taken_bytes() -> int:
    """Of addresses, libraries among them."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
