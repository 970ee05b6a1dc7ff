"""What is wrong with rows, all of it: grouped by column for people, complete for programs."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dail.synth.core.errors import InputError, InputFault, UsageError

_SHOWN_GROUPS, _SHOWN_PLACES = 8, 5
_VARIES = re.compile(r"'[^']*'|\d[\d,.]*")  # what differs between two faults of one sort


class Place(NamedTuple):
    """Where a row stands. Lines and rows are counted from 1, items of a list from 0 as Python does."""

    file: str
    unit: Literal["line", "row", "item"]
    number: int

    def __str__(self) -> str:
        return f"{self.file} {self.unit} {self.number}".lstrip()


class Fault(NamedTuple):
    """One thing that is wrong with one row. `column` is the user's own name; blank if the whole row is meant."""

    place: Place
    column: str
    code: str
    detail: str

    def facts(self) -> dict[str, Any]:
        place = {"file": self.place.file, self.place.unit: self.place.number}
        return {**place, "column": self.column or None, "code": self.code, "detail": self.detail}


class RowsRefused(InputError):
    """Rows that cannot be used. `faults`: every one, in the order of the rows."""

    def __init__(self, faults: Sequence[Fault], num_rows: int, advice: str) -> None:
        num_bad = len({fault.place for fault in faults})
        title = f"nothing was taken: {_count(len(faults), 'fault')} in {num_bad} of {_count(num_rows, 'row')}; {advice}"
        super().__init__(
            f"{title}\n{grouped(faults)}",
            [InputFault(f"{fault.place}: {fault.column}".rstrip(": "), fault.code, fault.detail) for fault in faults],
        )
        self.faults, self.num_rows, self.num_bad = tuple(faults), num_rows, num_bad

    def facts(self) -> dict[str, Any]:
        facts = {**super().facts(), "rows": self.num_rows, "bad_rows": self.num_bad}
        facts.pop("problems")
        return {**facts, "faults": [fault.facts() for fault in self.faults]}


def grouped(faults: Iterable[Fault]) -> str:
    """A line for each sort of fault: its column, the first fault's words, and where it stands, shortened."""
    sorts: dict[tuple[str, str, str], list[Fault]] = defaultdict(list)
    for fault in faults:
        sorts[fault.column, fault.code, _VARIES.sub("#", fault.detail)].append(fault)
    lines = [
        f"  {column + ': ' if column else ''}{same[0].detail}{' (the first)' if _differ(same) else ''}: {places(same)}"
        for (column, _, _), same in sorted(sorts.items(), key=lambda sort: sort[0][0])
    ]
    if len(lines) > _SHOWN_GROUPS:
        hidden = len(lines) - _SHOWN_GROUPS
        lines = [*lines[:_SHOWN_GROUPS], f"  and {hidden} more sorts of fault; --json lists every one"]
    return "\n".join(lines)


def _differ(faults: list[Fault]) -> bool:
    return len({fault.detail for fault in faults}) > 1


def places(faults: Sequence[Fault]) -> str:
    """`a.jsonl lines 4 to 12 and 17`, shortened after a few."""
    by_file: dict[tuple[str, str], list[int]] = defaultdict(list)
    for fault in faults:
        by_file[fault.place.file, fault.place.unit].append(fault.place.number)
    return "; ".join(f"{file} {_numbers(unit, numbers)}".lstrip() for (file, unit), numbers in by_file.items())


def _numbers(unit: str, numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs[:_SHOWN_PLACES]]
    hidden = sum(map(len, runs[_SHOWN_PLACES:]))
    more = f" and {hidden} more; --json lists every one" if hidden else ""
    return f"{unit}{'s' if len(numbers) > 1 else ''} {', '.join(shown)}{more}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def write_invalid(path: Path, faults: Sequence[Fault], rows: dict[Place, Any]) -> None:
    """Writes the rows that were not taken as JSON lines: place, reasons, and the item as it was read.

    The file is there whole or not at all; one of an earlier run is replaced.

    Raises:
        UsageError: it cannot be written.
    """
    reasons: dict[Place, list[Fault]] = defaultdict(list)
    for fault in faults:
        reasons[fault.place].append(fault)
    staged = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(staged, "w", encoding="utf-8", errors="backslashreplace") as file:
            for place, its in reasons.items():
                where = {"file": place.file, place.unit: place.number}
                why = [{"column": one.column or None, "code": one.code, "detail": one.detail} for one in its]
                line = {**where, "faults": why, "item": rows.get(place)}
                file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        os.replace(staged, path)
    except OSError as error:
        raise UsageError(
            f"the rows that are left out cannot be written to {path}: {error.strerror}; give another --invalid-to"
        ) from None
