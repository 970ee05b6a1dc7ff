"""Rows of Parquet, a batch at a time, and only the columns that are used."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dail.synth.data.table import Row, Table, numbered_batches, refusing

_BATCH_ROWS = 1024


def parquet_table(path: Path) -> Table:
    schema = _parquet_file(path).schema_arrow
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise ValueError(f"column {twice[0]!r} appears twice")
    return Table(str(path), tuple(schema.names), lambda columns: _parquet_rows(path, columns))


def _parquet_file(path: Path) -> pq.ParquetFile:
    """Page checksums must be right. Mapped into memory and read through a buffer: Arrow reads that without a thread.

    Arrow's threads (26.0) abort a process that ends soon after they began, on a busy machine one in five.
    """
    if path.is_dir():
        raise IsADirectoryError(21, "Is a directory")
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    with pa.memory_map(str(path)) as mapped:
        return pq.ParquetFile(pa.BufferReader(mapped.read_buffer()), page_checksum_verification=True)


def _parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    name = str(path)
    with refusing(name):
        file = _parquet_file(path)
        names = None if columns is None else [column for column in file.schema_arrow.names if column in columns]
        batches = file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False)
        yield from numbered_batches(name, batches)
