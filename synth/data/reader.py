"""Files, folders, hub sets or objects → items, with an account of what was mapped, repaired and left out.

    from dail.synth.data.reader import Reading, read_solutions
    read = read_solutions("deploy/demo/olympiad.jsonl")
    read = read_solutions(["a.csv", "hf:OWNER/NAME:train"], Reading(maps=("problem=question",), keep_rest=True))

The way of a row: table (formats.py) → plan of its columns (plan.py) → values → the items' own check. What is wrong is
gathered over all rows of all sources and told at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from dail.synth.core.config import Frozen
from dail.synth.core.errors import InputError, UsageError
from dail.synth.data.account import Account
from dail.synth.data.columns import parse_maps
from dail.synth.data.faults import Place, RowsRefused, write_invalid
from dail.synth.data.gather import Gathered, Mend
from dail.synth.data.plan import OWN
from dail.synth.data.sources import read_objects, read_tables
from dail.synth.schema.items import ExpertSolution, check_items

_log = logging.getLogger(__name__)

T = TypeVar("T", bound=Frozen)
Source = str | Path | Iterable[str | Path] | Iterable[Frozen | Mapping[str, Any]]
Check = Callable[[list[Any]], list[T]]
INVALID_FILE = "invalid.jsonl"

_SAME_SOLUTION = tuple(name for name in OWN if name not in ("id", "source", "license", "metadata"))


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Attributes:
        maps: texts like "problem=question,answer=final_answer"; presets are not looked for then.
        keep_rest: put columns that nobody knows into the metadata, instead of refusing them.
        skip_invalid: go on without rows that cannot be used, and write them with their reasons to `invalid_to`.
        invalid_to: a file of JSON lines; `invalid.jsonl` in the current folder if nobody says.
        choices_seed: of the order of choices that have none of their own, as GPQA's, whose right one stands first.
    """

    maps: tuple[str, ...] = ()
    keep_rest: bool = False
    skip_invalid: bool = False
    invalid_to: Path | None = None
    choices_seed: int = 0

    def writing_to(self, folder: Path) -> Reading:
        """The same, with invalid rows in that folder unless a file was named."""
        return replace(self, invalid_to=self.invalid_to or folder / INVALID_FILE)


@dataclass(frozen=True)
class Read(Generic[T]):
    """`places`: where each item stands, in the order of the items."""

    items: list[T]
    account: Account
    places: list[Place]


def load_items(source: Source) -> list[ExpertSolution]:
    """The expert solutions of a file, a folder, a set, or objects; as `read_solutions`, without the account."""
    return read_solutions(source).items


def read_solutions(source: Source, reading: Reading | None = None) -> Read[ExpertSolution]:
    """Reads expert solutions. What was mapped and left out is logged.

    Args:
        source: a file, a folder, a pattern or `hf:OWNER/NAME`, or several; or the objects themselves.
        reading: how; only what is understood is taken if left out.

    Raises:
        UsageError: a source cannot be read.
        ColumnsRefused: nobody knows what its columns mean.
        RowsRefused: rows cannot be used; every fault is in it.
    """
    return read_items(source, reading or Reading(), check_items, ("problem", "solution"), _SAME_SOLUTION)


def read_items(
    source: Source,
    reading: Reading,
    check: Check[T],
    wanted: tuple[str, ...],
    same: tuple[str, ...],
    *,
    mend: Mend | None = None,
    joins: bool = False,
) -> Read[T]:
    """Reads items of any kind.

    Args:
        source: as for `read_solutions`.
        reading: as for `read_solutions`.
        check: makes items of objects, and raises InputError with a pointer `/items/N/FIELD` for each fault.
        wanted: fields that some column must give; "a|b" is one of two.
        same: fields by which two items are equal; the second is left out.
        mend: changes a row's fields in place, and says what is wrong with them as (field, code, words); it gets the
            row's place.
        joins: the caller makes one item of several rows: equal rows and equal ids are all taken, as they stand.
    """
    maps = parse_maps(reading.maps, OWN)
    names, objects = _apart(source)
    gathered = Gathered(reading.choices_seed, mend)
    for table in read_tables(names) if names else [read_objects(objects)]:
        gathered.add(table, maps, reading.keep_rest, wanted if names else ())
    if not joins:
        gathered.part_ids()
        gathered.leave_out_repeated(same)
        gathered.leave_out_same_ids()
    items = _checked(gathered, check)
    if gathered.faults and not (reading.skip_invalid and items):
        raise RowsRefused(gathered.faults, len(gathered.rows), _advice(reading, bool(items)))
    if not items:
        named = ", ".join(map(str, names or ["the list"]))
        raise InputError(
            f"{named} holds nothing; wanted a row for each item, with {' and '.join(wanted).replace('|', ' or ')}"
        )
    account = gathered.account()
    if reading.skip_invalid:
        account = _write_invalid(gathered, reading.invalid_to or Path(INVALID_FILE), names or [], account)
    for line in account.lines():
        _log.info(line)
    return Read(items, account, [gathered.rows[row].place for row in gathered.good()])


def _apart(source: Source) -> tuple[list[str | Path], list[Any]]:
    """The names, if names were given, else the objects."""
    if isinstance(source, str | Path):
        return [source], []
    if isinstance(source, Mapping):
        raise InputError("one object was given; wanted a list of them, or the name of a file")
    given: list[Any] = list(source)
    if given and all(isinstance(one, str | Path) for one in given):
        return given, []
    return [], [one.model_dump(mode="json", exclude_unset=True) if isinstance(one, Frozen) else one for one in given]


def _checked(gathered: Gathered, check: Check[T]) -> list[T]:
    """The items that can be used; the faults of the others are put to those there are."""
    rows = gathered.to_check()
    try:
        items = check([gathered.given(row) for row in rows]) if rows else []
        if not gathered.faults:
            return items
    except InputError as error:
        told = set(gathered.blamed)
        for pointer, code, detail in error.problems:
            _, _, number, *path = pointer.split("/")
            row, name = rows[int(number)], path[0] if path else ""
            if (row, name) not in told:
                gathered.blame(row, name, code, detail)
    rows = gathered.good()
    return check([gathered.given(row) for row in rows]) if rows else []


def _advice(reading: Reading, has_items: bool) -> str:
    if reading.skip_invalid:
        return "no row is left, so mend them"
    return "--skip-invalid goes on without these rows, --json lists every fault" if has_items else "mend them"


def _write_invalid(gathered: Gathered, path: Path, names: Iterable[str | Path], account: Account) -> Account:
    """Writes the rows that are left out; where there are none, a file of an earlier run is emptied."""
    faults = gathered.faults
    if not faults and not path.exists():
        return account
    if any(Path(name).exists() and path.exists() and path.samefile(name) for name in names):
        raise UsageError(f"{path} is read, so what is left out cannot be written to it; give another --invalid-to")
    write_invalid(path, faults, gathered.as_read())
    return account.model_copy(update={"invalid": len({fault.place for fault in faults}), "invalid_to": path})
