"""One file's rows: JSON lines, JSON, CSV and Parquet, each with the line or row where it stands.

Text is UTF-8, with or without a byte order mark and compression by gzip; anything else is refused with the byte where
it shows and the command that converts it. What is read is never repaired: a line that is no JSON is a faulty row.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dail.synth.core.errors import UsageError
from dail.synth.data.faults import Place

LINES, DOCUMENTS = (".jsonl", ".ndjson", ".jsonlines"), (".json",)
TABLES, PARQUET = (".csv", ".tsv"), (".parquet", ".pq")
SUFFIXES = (*LINES, *DOCUMENTS, *TABLES, *PARQUET)
TAKEN = ".jsonl, .json, .csv or .tsv (each also .gz), or .parquet"

_BATCH_ROWS = 1024
_CELL_BYTES = 2**31 - 1
_UTF8_BOM = b"\xef\xbb\xbf"
# UTF-32's begin as UTF-16's do; JSON in UTF-16 without a mark has a NUL beside its first character.
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_NOT_TEXT = (
    (b"\x1f\x8b", "it is compressed by gzip; let its name end in .gz"),
    (b"PAR1", "it is Parquet; let its name end in .parquet"),
    (b"PK\x03\x04", "it is a zip archive; unpack it first: unzip {name}"),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstd; unpack it first: unzstd {name}"),
    (b"version https://git-lfs", "it is a pointer of git-lfs, not the data; get the data: git lfs pull"),
    (b"<!DOCTYPE", "it is a page of HTML, not the data; download the raw file"),
    (b"<html", "it is a page of HTML, not the data; download the raw file"),
)


class Row(NamedTuple):
    """`value` is a row as it stands, with names and values if it is well-formed, or `Unreadable`."""

    place: Place
    value: Any


class Unreadable(NamedTuple):
    """A row that could not be read: its text, and why."""

    text: str
    why: str


@dataclass(frozen=True)
class Table:
    """The rows of one source. `columns`: known beforehand, none of JSON. `rows` may be told to read only some."""

    name: str
    columns: tuple[str, ...] | None
    rows: Callable[[Collection[str] | None], Iterator[Row]]
    notes: tuple[str, ...] = ()


def suffix_of(path: Path) -> str:
    """Its kind by its name, without `.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def read_table(path: Path) -> Table:
    """The rows of a file, read when they are asked for.

    Raises:
        UsageError: it cannot be read. Reading its rows raises this too.
    """
    name, suffix = str(path), suffix_of(path)
    with refusing(name):
        if suffix in PARQUET:
            return _parquet(path)
        if suffix in TABLES:
            return _csv(path, "\t" if suffix == ".tsv" else ",")
        if suffix in LINES or suffix in DOCUMENTS:
            return _json(path)
    shown = path.suffix or "nothing"
    raise UsageError(f"{name} cannot be read: its name ends in {shown!r}; wanted {TAKEN}")


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Makes a failure to read the user's error."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError(
            f"{name} does not exist; give a file {TAKEN}, a folder of them, or hf:OWNER/NAME for a set of the hub"
        ) from None
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zlib.error, pa.ArrowException, csv.Error) as error:
        raise UsageError(f"{name} cannot be read: {error}") from None


def parse(text: str) -> Any:
    """JSON without duplicate keys; NaN, which Python and pandas write for nothing, is none. Raises ValueError."""

    def constant(name: str) -> float | None:
        return None if name == "NaN" else float(name.replace("Infinity", "inf"))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
        return found

    try:
        return json.loads(text, parse_constant=constant, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


# --- text


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked, behind its byte order mark."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
        head = file.read(32)
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                raise ValueError(_converted(path, f"it begins with the bytes {mark.hex(' ').upper()}: ", encoding))
        if b"\x00" in head[:2]:
            order = "BE" if head[0] == 0 else "LE"
            raise ValueError(_converted(path, f"byte {head.index(0)} is NUL: ", f"UTF-16{order}"))
        for magic, what in _NOT_TEXT:
            if head.startswith(magic):
                raise ValueError(what.format(name=path))
        file.seek(len(_UTF8_BOM) if head.startswith(_UTF8_BOM) else 0)
        yield file  # type: ignore[misc]  # gzip's is one too


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1; a line ends with LF alone or CR LF."""
    before = file.tell()
    for number, line in enumerate(file, 1):
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(_not_utf8(path, line, error.start, f"line {number}: ", before + error.start)) from None
        before += len(line)


def _not_utf8(path: Path, data: bytes, at: int, where: str, offset: int) -> str:
    guess = "WINDOWS-1252" if any(0x80 <= byte <= 0x9F for byte in data[at : at + 1]) else "LATIN1"
    what = f"{where}byte {offset}, 0x{data[at]:02X}, is not UTF-8; if it is {guess}, "
    return _converted(path, what, guess, is_certain=False)


def _converted(path: Path, what: str, encoding: str, is_certain: bool = True) -> str:
    packed = path.name.lower().endswith(".gz")
    plain = path.with_name(path.name[: -len(".gz")]) if packed else path
    target = plain.with_name(f"{plain.stem}.utf8{plain.suffix}")
    source = f"gunzip -c {path} | iconv -f {encoding} -t UTF-8" if packed else f"iconv -f {encoding} -t UTF-8 {path}"
    said = f"{what}this is {encoding}, wanted is UTF-8; " if is_certain else what
    return f"{said}convert it: {source} > {target}"


# --- JSON


def _json(path: Path) -> Table:
    """Lines or a document, by what stands in it: both names are used for both."""
    name = str(path)
    with _opened(path) as file:
        lines = _lines(path, file)
        first = next(((n, line) for n, line in lines if line.strip()), None)
        if first is None:
            return Table(name, None, lambda _: iter(()))
        is_alone = next((False for _, line in lines if line.strip()), True)
    if _is_row(first[1]) and not is_alone:
        return Table(name, None, lambda _: _json_lines(path))
    with _opened(path) as file:
        text = "".join(line for _, line in _lines(path, file))
    try:
        document = parse(text)
    except ValueError as error:
        if suffix_of(path) in LINES or _has_rows(text):
            return Table(name, None, lambda _: _json_lines(path))
        raise ValueError(f"it is no JSON: {error}") from None
    is_line = suffix_of(path) in LINES and _is_row(first[1])
    if is_alone and isinstance(document, dict) and (is_line or _wrapped(document) is None):
        return Table(name, None, lambda _: _json_lines(path))
    return _document(name, document)


def _is_row(line: str) -> bool:
    try:
        return isinstance(parse(line), dict)
    except ValueError:
        return False


def _has_rows(text: str) -> bool:
    """Whether lines of a damaged file are JSON objects each, and not the parts of one document."""
    return any(_is_row(line) for line in text.splitlines()[:50] if line.strip() not in ("", "{}"))


def _json_lines(path: Path) -> Iterator[Row]:
    name = str(path)
    with refusing(name), _opened(path) as file:
        for number, line in _lines(path, file):
            if not line.strip():
                continue
            try:
                value = parse(line)
            except ValueError as error:
                value = Unreadable(line.rstrip("\r\n"), f"it is no JSON: {error}")
            yield Row(Place(name, "line", number), value)


def _document(name: str, document: Any) -> Table:
    notes: tuple[str, ...] = ()
    if isinstance(document, dict):
        key = _wrapped(document)
        if key is None:
            document = [document]
        else:
            others = ", ".join(other for other in document if other != key)
            notes = (f"its rows stand under {key!r}" + (f"; left out: {others}" if others else ""),)
            document = document[key]
    if not isinstance(document, list):
        raise ValueError(f"it holds {_kind(document)}; wanted a list of rows")
    rows = document

    def numbered(_: Collection[str] | None) -> Iterator[Row]:
        for number, value in enumerate(rows, 1):
            yield Row(Place(name, "row", number), value)

    return Table(name, None, numbered, notes)


def _wrapped(document: dict[str, Any]) -> str | None:
    """The key of the one list of rows in an object; none if the object is a row itself.

    Raises:
        ValueError: it has several lists, or columns instead of rows.
    """
    if not document:
        raise ValueError("it holds an object with nothing in it; wanted a list of rows")
    if any(key.lower() in ("problem", "question", "prompt") for key in document):
        _refuse_columns(document)
        return None
    lists = [key for key, value in document.items() if isinstance(value, list) and _are_rows(value)]
    if len(lists) > 1:
        raise ValueError(f"it holds {len(lists)} lists of rows ({', '.join(lists)}); write the one that is meant alone")
    if not lists and all(isinstance(value, dict | list) for value in document.values()):
        raise ValueError(f"it holds an object of {', '.join(list(document)[:8])}; wanted a list of rows")
    return lists[0] if lists else None


def _are_rows(value: list[Any]) -> bool:
    return all(isinstance(part, dict) and "role" not in part for part in value)


def _refuse_columns(document: dict[str, Any]) -> None:
    """pandas writes a table as an object of columns unless it is told otherwise."""
    values = list(document.values())
    is_indexed = all(isinstance(value, dict) and all(key.isdigit() for key in value) for value in values)
    texts = [value for value in values if isinstance(value, list) and all(isinstance(part, str) for part in value)]
    if is_indexed or (len(values) > 1 and len(texts) == len(values) and len(set(map(len, texts))) == 1):
        raise ValueError(
            "it holds an object of columns; wanted a list of rows, as pandas writes it by "
            'to_json(FILE, orient="records", lines=True)'
        )


def _kind(value: Any) -> str:
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")


# --- CSV


def _csv(path: Path, delimiter: str) -> Table:
    with _opened(path) as file:
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
    with refusing(name), _opened(path) as file:
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
    reader = csv.reader((line for _, line in _lines(path, file)), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f'line {begins}: {error}; quote cells with " and write a " inside as ""') from None


# --- Parquet


def _parquet(path: Path) -> Table:
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


def numbered_batches(name: str, batches: Iterable[Any]) -> Iterator[Row]:
    """The rows of Arrow's tables or record batches, counted from 1."""
    rows = chain.from_iterable(batch.to_pylist(maps_as_pydicts="strict") for batch in batches)
    for number, value in enumerate(rows, 1):
        yield Row(Place(name, "row", number), value)
