"""A source's rows: what every kind of file and the hub's sets are read into."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa

from dail.synth.core.errors import UsageError
from dail.synth.data.faults import Place

TAKEN = ".jsonl, .json, .csv or .tsv (each also .gz), or .parquet"


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


def numbered_batches(name: str, batches: Iterable[Any]) -> Iterator[Row]:
    """The rows of Arrow's tables or record batches, counted from 1."""
    rows = chain.from_iterable(batch.to_pylist(maps_as_pydicts="strict") for batch in batches)
    for number, value in enumerate(rows, 1):
        yield Row(Place(name, "row", number), value)


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
