"""Rows of JSON: lines or one document, by what stands in the file, since both names are used for both."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from dail.synth.data.faults import Place
from dail.synth.data.table import Row, Table, Unreadable, refusing
from dail.synth.data.text import numbered_lines, opened, suffix_of

LINES = (".jsonl", ".ndjson", ".jsonlines")


def json_table(path: Path) -> Table:
    """Lines or a document, by what stands in it: both names are used for both."""
    name = str(path)
    with opened(path) as file:
        lines = numbered_lines(path, file)
        first = next(((n, line) for n, line in lines if line.strip()), None)
        if first is None:
            return Table(name, None, lambda _: iter(()))
        is_alone = next((False for _, line in lines if line.strip()), True)
    if _is_row(first[1]) and not is_alone:
        return Table(name, None, lambda _: _json_lines(path))
    with opened(path) as file:
        text = "".join(line for _, line in numbered_lines(path, file))
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
    with refusing(name), opened(path) as file:
        for number, line in numbered_lines(path, file):
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
