"""The rows of all sources as fields of items, with what is wrong with them and which are equal."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dail.synth.core.errors import InputFault
from dail.synth.data.account import Account, Repeated, SourceAccount
from dail.synth.data.columns import Column
from dail.synth.data.faults import Fault, Place
from dail.synth.data.fields import Notes, mended
from dail.synth.data.plan import Columns, ColumnsRefused, Plan, plan
from dail.synth.data.table import Row, Table, Unreadable
from dail.synth.data.values import valid_id

Mend = Callable[[Place, dict[str, Any]], list[InputFault]]


@dataclass(slots=True)
class Taken:
    """A row: where it stands, whose it is, and its fields. `raw`: of a row that has none, what stands there.

    `same_as`: the number of an earlier row that says the same.
    """

    place: Place
    source: int
    values: dict[str, Any] = field(default_factory=dict)
    raw: Any = None
    is_bad: bool = False
    same_as: int | None = None


@dataclass
class _Source:
    name: str
    plan: Plan
    notes: tuple[str, ...]
    found: set[str] = field(default_factory=set)
    noted: Notes = field(default_factory=Notes)


class Gathered:
    """Filled by `add`, a table at a time; then ids are parted, and equal rows found.

    `blamed`: row and field of each fault, so that a check that comes later tells none of them again.
    """

    def __init__(self, choices_seed: int = 0, mend: Mend | None = None) -> None:
        self.rows: list[Taken] = []
        self.faults: list[Fault] = []
        self._choices_seed, self._mend = choices_seed, mend
        self._sources: list[_Source] = []
        self._equal: dict[int, list[int]] = defaultdict(list)
        self.blamed: set[tuple[int, str]] = set()

    def add(
        self, table: Table, maps: Mapping[str, tuple[Column, ...]], keep_rest: bool, wanted: tuple[str, ...]
    ) -> None:
        """Takes the rows of a table.

        Raises:
            UsageError: it cannot be read.
            ColumnsRefused: its columns are not understood, or none gives a field that is wanted.
        """
        rows: Iterable[Row]
        if table.columns is None:  # the columns of JSON are known when all of it was read
            rows = list(table.rows(None))
            columns = Columns.of_rows(row.value for row in rows)
            chosen = self._plan(table.name, columns, maps, keep_rest) if columns.names else Plan("nothing", {})
        else:
            columns = Columns(table.columns)
            chosen = self._plan(table.name, columns, maps, keep_rest)
            rows = table.rows(None if chosen.adjust else [name for name in columns.names if chosen.reads(name)])
        self._sources.append(_Source(table.name, chosen, table.notes))
        self._take(rows)
        found = self._sources[-1].found
        for name in wanted:
            if found and not found & set(name.split("|")):
                missing = name.replace("|", " or the ")
                raise ColumnsRefused(table.name, columns.names, f"no column gives the {missing}", _named(name))

    def _plan(self, name: str, columns: Columns, maps: Mapping[str, tuple[Column, ...]], keep_rest: bool) -> Plan:
        return plan(name, columns, maps, keep_rest, self._choices_seed)

    def _take(self, rows: Iterable[Row]) -> None:
        """Puts the rows to those there are."""
        number = len(self._sources) - 1
        source = self._sources[number]
        for place, value in rows:
            self.rows.append(Taken(place, number))
            row = len(self.rows) - 1
            if isinstance(value, Unreadable):
                self._refuse(row, value.text, "unreadable", value.why)
            elif not isinstance(value, Mapping):
                self._refuse(row, value, "no_object", "it is no object; wanted one with names and values")
            else:
                self._fill(row, source, value)
                source.found |= self.rows[row].values.keys()

    def _fill(self, row: int, source: _Source, value: Mapping[str, Any]) -> None:
        try:
            values = source.plan.values(value)
        except ValueError as error:
            self._refuse(row, dict(value), "unusable", str(error))
            return
        self.rows[row].values = values
        faults = mended(values, source.noted)
        if self._mend:
            faults += self._mend(self.rows[row].place, values)
        for name, code, detail in faults:
            self.blame(row, name, code, detail)
        for column in sorted(name for name in source.plan.unknown & value.keys() if value[name] is not None):
            detail = "nobody knows this column; --keep-rest puts it into the metadata, --map FIELD=COLUMN uses it"
            self.faults.append(Fault(self.rows[row].place, column, "unknown_column", detail))
            self.rows[row].is_bad = True

    def _refuse(self, row: int, raw: Any, code: str, detail: str) -> None:
        self.rows[row].raw = raw
        self.blame(row, "", code, detail)

    def blame(self, row: int, name: str, code: str, detail: str) -> None:
        """Something is wrong with a field of a row, and of all that are equal to it."""
        plan = self._sources[self.rows[row].source].plan
        column = plan.column_of(name) if name else ""
        for number in (row, *self._equal.pop(row, ())):
            taken = self.rows[number]
            taken.is_bad, taken.same_as = True, None
            self.blamed.add((number, name))
            self.faults.append(Fault(taken.place, column, code, detail))

    def part_ids(self) -> None:
        """Puts a source's name before its ids where another source has one of them too, as sets that count from 0."""
        if len(self._sources) < 2:
            return
        owners: dict[str, int] = {}
        shared: set[int] = set()
        for row in self.rows:
            if isinstance(name := row.values.get("id"), str):
                owner = owners.setdefault(name, row.source)
                shared |= {owner, row.source} if owner != row.source else set()
        stems = {number: valid_id(stem(self._sources[number].name)) for number in shared}
        if len(set(stems.values())) < len(stems):
            return  # which only `leave_out_same_ids` can tell
        for row in self.rows:
            if row.source in shared and isinstance(name := row.values.get("id"), str):
                row.values["id"] = valid_id(f"{stems[row.source]}:{name}")
        for number, short in stems.items():
            self._sources[number].noted.add(f"id: {short}: put before, as another source has the same ids")

    def leave_out_repeated(self, same: tuple[str, ...]) -> None:
        """Finds rows that say what an earlier one says, blanks at the ends of their texts aside."""
        first: dict[bytes, int] = {}
        for number, row in enumerate(self.rows):
            if row.values and not row.is_bad:
                digest = _digest({name: row.values[name] for name in same if name in row.values})
                earlier = first.setdefault(digest, number)
                if earlier != number:
                    row.same_as = earlier
                    self._equal[earlier].append(number)

    def leave_out_same_ids(self) -> None:
        """Refuses a row whose id an earlier one of other content has. What else is wrong with it is found too."""
        first: dict[str, Place] = {}
        for number, row in enumerate(self.rows):
            name = row.values.get("id")
            if row.same_as is not None or not isinstance(name, str):
                continue
            if name in first:
                self.blame(number, "id", "duplicate_id", f"id {name!r} is also that of {first[name]}; ids must differ")
            first.setdefault(name, row.place)

    def to_check(self) -> list[int]:
        """Rows that have fields and are equal to no other; also faulty ones, of which more may be wrong."""
        return [n for n, row in enumerate(self.rows) if row.same_as is None and (row.values or not row.is_bad)]

    def given(self, row: int) -> dict[str, Any]:
        """A row's fields for the check of its item, without an id that another one has."""
        values = self.rows[row].values
        if (row, "id") not in self.blamed:
            return values
        return {name: value for name, value in values.items() if name != "id"}

    def good(self) -> list[int]:
        return [number for number, row in enumerate(self.rows) if not row.is_bad and row.same_as is None]

    def as_read(self) -> dict[Place, Any]:
        """By place, what stands in each faulty row."""
        return {row.place: row.values or row.raw for row in self.rows if row.is_bad}

    def account(self) -> Account:
        taken = Counter(self.rows[number].source for number in self.good())
        return Account(
            sources=tuple(self._account_of(number, taken[number]) for number in range(len(self._sources))),
            rows=len(self.rows),
            items=taken.total(),
            repeated=tuple(
                Repeated(row=str(row.place), same_as=str(self.rows[row.same_as].place))
                for row in self.rows
                if row.same_as is not None
            ),
        )

    def _account_of(self, number: int, items: int) -> SourceAccount:
        source = self._sources[number]
        return SourceAccount(
            file=source.name,
            preset=source.plan.title,
            rows=sum(row.source == number for row in self.rows),
            items=items,
            mapped={
                name: "+".join(one.path for one in columns)
                for name, columns in source.plan.fields.items()
                if name.partition(".")[0] in source.found
            },
            metadata=source.plan.kept,
            left_out=dict(source.plan.left_out),
            notes=(*source.notes, *filter(None, [source.plan.adjusted]), *source.noted.lines()),
        )


def _named(name: str) -> str:
    """What to do where no column gives a field."""
    if name == "solution":
        return "name it with --map solution=COLUMN; problems with answers alone are for `dail eval --problems`"
    return f"name it with --map {name.partition('|')[0]}=COLUMN"


def stem(name: str) -> str:
    """A source's name in short: a file's without folder and ending, a set's without `hf:`."""
    return Path(name).name.partition(".")[0] if not name.startswith("hf:") else name.removeprefix("hf:")


def _digest(values: dict[str, Any]) -> bytes:
    """The same for values that differ at the ends of texts only."""
    text = json.dumps(_stripped(values), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _stripped(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict):
        return {key: _stripped(part) for key, part in value.items()}
    return list(map(_stripped, value)) if isinstance(value, list) else value
