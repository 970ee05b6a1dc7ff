"""One file, by its name, as a table of rows: JSON lines, JSON, CSV and Parquet.

What is read is never repaired: a line that is no JSON is a faulty row, and a file that is no text is refused.
"""

from __future__ import annotations

from pathlib import Path

from dail.synth.core.errors import UsageError
from dail.synth.data.csv_rows import csv_table
from dail.synth.data.json_rows import LINES, json_table
from dail.synth.data.parquet_rows import parquet_table
from dail.synth.data.table import TAKEN, Table, refusing
from dail.synth.data.text import suffix_of

DOCUMENTS, TABLES, PARQUET = (".json",), (".csv", ".tsv"), (".parquet", ".pq")
SUFFIXES = (*LINES, *DOCUMENTS, *TABLES, *PARQUET)


def read_table(path: Path) -> Table:
    """The rows of a file, read when they are asked for.

    Raises:
        UsageError: it cannot be read. Reading its rows raises this too.
    """
    name, suffix = str(path), suffix_of(path)
    with refusing(name):
        if suffix in PARQUET:
            return parquet_table(path)
        if suffix in TABLES:
            return csv_table(path, "\t" if suffix == ".tsv" else ",")
        if suffix in LINES or suffix in DOCUMENTS:
            return json_table(path)
    shown = path.suffix or "nothing"
    raise UsageError(f"{name} cannot be read: its name ends in {shown!r}; wanted {TAKEN}")
