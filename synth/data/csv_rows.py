"""Rows of CSV: the first line names the columns, a blank cell is none."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dail.synth.data.faults import Place
from dail.synth.data.table import Row, Table, Unreadable, refusing
from dail.synth.data.text import numbered_lines, opened

_CELL_BYTES = 2**31 - 1


def csv_table(path: Path, delimiter: str) -> Table:
    with opened(path) as file:
        header = next((cells for _, cells in _records(path, file, delimiter)), None)
    if header is None:
        raise ValueError("it is empty; wanted a line of column names, then a line for each row")
    if len(header) == 1 and (found := next((mark for mark in ";\t|" if mark in header[0]), None)):
        cure = "let its name end in .tsv" if found == "\t" else "write it with commas"
        raise ValueError(f"its columns are parted by {found!r}; wanted {delimiter!r}; {cure}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"column {twice[0]!r} appears twice")
    return Table(str(path), tuple(header), lambda _: _csv_rows(path, delimiter, header))


def _csv_rows(path: Path, delimiter: str, header: list[str]) -> Iterator[Row]:
    name = str(path)
    with refusing(name), opened(path) as file:
        records = _records(path, file, delimiter)
        next(records)
        for number, cells in records:
            value: Any = {column: cell for column, cell in zip(header, cells, strict=False) if cell.strip()}
            if len(cells) != len(header):
                what = (
                    f"it has {len(cells)} cells, the first line has {len(header)}; quote cells that hold {delimiter!r}"
                )
                value = Unreadable(delimiter.join(cells), what)
            yield Row(Place(name, "line", number), value)


def _records(path: Path, file: IO[bytes], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line it begins on; lines with nothing on them are none."""
    csv.field_size_limit(_CELL_BYTES)
    reader = csv.reader((line for _, line in numbered_lines(path, file)), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f'line {begins}: {error}; quote cells with " and write a " inside as ""') from None
