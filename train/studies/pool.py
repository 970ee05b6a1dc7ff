"""Rows of several files → problems, each with all of its solutions, and where each of them came from.

    read = read_pool(["aime.csv", "harp.jsonl"])
    joined = join(read.rows, near=True)

Rows are one problem if they have one id and one wording, or one wording alone; `near`: also if most of their wording is
the same and so is their answer. An id that two files give to different problems is the files' own count.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from dail.synth.core.config import Frozen, fingerprint, storable
from dail.synth.core.errors import InputError, InputFault, few, plainly, pointer
from dail.synth.data.account import Account
from dail.synth.data.faults import Place
from dail.synth.data.gather import stem
from dail.synth.data.overlap import Problems, normal
from dail.synth.data.reader import Reading, Source, read_items
from dail.synth.data.values import valid_id
from dail.synth.method.answers import compare
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.items import Asked, ExpertSolution, ItemId, Kind, Short, Solution, Solutions, user_path
from dail.synth.schema.kinds import says_proof, stated_answer
from dail.train.studies.years import Found, year_of

_ALIKE = 0.8  # of the letters of two wordings under one id: figures and headings come and go
_NO_YEAR: tuple[int | None, Found] = (None, "nowhere")
_NUMBER = re.compile(r"\d+")


class PoolRow(Frozen):
    """A row of a pool: an `ExpertSolution` that may lack its solution, which another row of the problem has."""

    problem: Asked
    solution: Solutions | None = None
    answer: Short | None = None
    id: ItemId | None = None
    kind: Kind | None = None
    waypoints: Annotated[tuple[Short, ...], Field(max_length=4096)] | None = None
    privileged: Solution | None = None
    wrong_answer: Short | None = None
    dealt: ExpertSolution | None = None
    source: Short | None = None
    license: Short | None = None
    metadata: Annotated[dict[str, JsonValue], AfterValidator(storable)] = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """All that the student is shown: of a conversation, all its messages."""
        return self.problem if isinstance(self.problem, str) else "\n".join(one.content for one in self.problem)

    @property
    def solutions(self) -> tuple[str, ...]:
        return (self.solution,) if isinstance(self.solution, str) else self.solution or ()


class Origin(Frozen):
    """Where a part of a problem came from. `solutions`: which of the problem's, from 0; `digest`: of what it says."""

    file: str
    row: str
    digest: str
    id: str | None
    set: str | None
    license: str | None
    solutions: tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """A row and where it stands."""

    row: PoolRow
    place: Place

    def origin(self, solutions: Mapping[str, int]) -> Origin:
        row = self.row
        own = dict.fromkeys(solutions[one.strip()] for one in row.solutions)
        return Origin(
            file=short_name(self.place.file),
            row=f"{self.place.unit} {self.place.number}",
            digest=fingerprint(row.model_dump(mode="json", exclude_unset=True)),
            id=row.id,
            set=row.source,
            license=row.license,
            solutions=tuple(own),
        )


@dataclass(frozen=True)
class PoolProblem:
    """A problem with what all of its rows give. `answers`: as the rows state them, each once, the first one first."""

    id: str
    row: PoolRow
    solutions: tuple[str, ...]
    answers: tuple[str, ...]
    year: int | None
    year_found: Found
    origins: tuple[Origin, ...]
    metadata: Mapping[str, JsonValue]
    says_proof: bool

    @property
    def text(self) -> str:
        return self.row.text

    @property
    def answer(self) -> str | None:
        """What an attempt is held against: what a row states, else the last box of the first solution that has one."""
        return self.answers[0] if self.answers else next(iter(self.boxes), None)

    @property
    def is_proof(self) -> bool:
        """Whether a row says so; the first one's kind stands, and an answer that another one states."""
        return self.row.kind == "proof" or (self.row.kind is None and not self.answers and self.says_proof)

    @property
    def boxes(self) -> list[str]:
        return [box for one in self.solutions if (box := stated_answer(final_answer(one)))]


@dataclass(frozen=True)
class Pool:
    rows: list[Placed]
    account: Account


class NearRows(NamedTuple):
    """Two rows of different files that were joined by most of their wording and their answer."""

    name: str
    other: str
    share: float
    text: str
    other_text: str


@dataclass
class Joined:
    """`near`: rows that wording and answer alone joined. `apart`: ids that several problems have.

    `num_unused`: of the other rows, those that belong to no problem of the pool.
    """

    problems: list[PoolProblem]
    near: list[NearRows] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    num_unused: int = 0


def read_pool(source: Source, reading: Reading | None = None) -> Pool:
    """Reads rows as `dail.synth.data.reader.read_solutions` does, but takes equal ids, and rows without a solution.

    Raises:
        UsageError: a source cannot be read.
        ColumnsRefused: nobody knows what its columns mean.
        RowsRefused: rows cannot be used; every fault is in it.
    """
    read = read_items(source, reading or Reading(), _checked, ("problem",), (), joins=True)
    return Pool([Placed(row, place) for row, place in zip(read.items, read.places, strict=True)], read.account)


def _checked(values: list[dict[str, Any]]) -> list[PoolRow]:
    rows: list[PoolRow] = []
    faults: list[InputFault] = []
    for number, value in enumerate(values):
        try:
            rows.append(PoolRow.model_validate(value))
        except ValidationError as error:
            for one in error.errors(include_url=False, include_input=False):
                faults.append(InputFault(pointer(["items", number, *user_path(one["loc"])]), one["type"], plainly(one)))
    if faults:
        raise InputError(f"{len(faults)} faults in the rows of the pool", faults)
    return rows


def join(rows: Sequence[Placed], near: bool = False, others: Sequence[Placed] = ()) -> Joined:
    """The problems of a pool, in the order of their first rows.

    Args:
        rows: of the pool.
        near: join by most of the wording too, where the answers agree.
        others: rows that add solutions and answers to problems of the pool, and no problems.

    Raises:
        InputError: one file gives one id to different problems.
    """
    num_own, rows = len(rows), [*rows, *others]
    groups = _Groups(rows)
    groups.by_wording()
    apart = groups.by_id()
    joined = Joined([], apart=apart)
    if near:
        joined.near = groups.by_near_wording()
    taken: set[str] = set()
    for members in groups.members():
        if members[0] >= num_own:
            joined.num_unused += len(members)
            continue
        problem = _problem([rows[number] for number in members], taken)
        taken.add(problem.id)
        joined.problems.append(problem)
    return joined


class _Groups:
    """Which rows are one problem, each group under the number of its first row."""

    def __init__(self, rows: Sequence[Placed]) -> None:
        self._rows = rows
        self._first = list(range(len(rows)))
        self._members = {number: [number] for number in self._first}

    def _unite(self, one: int, other: int) -> None:
        first, later = sorted((self._first[one], self._first[other]))
        if first != later:
            moved = self._members.pop(later)
            self._members[first] += moved
            for number in moved:
                self._first[number] = first

    def members(self) -> list[list[int]]:
        return [sorted(found) for _, found in sorted(self._members.items())]

    def by_wording(self) -> None:
        known: dict[str, int] = {}
        for number, placed in enumerate(self._rows):
            self._unite(known.setdefault(normal(placed.row.text), number), number)

    def by_id(self) -> list[str]:
        """Ids under which different files have different problems."""
        known: dict[str, list[int]] = defaultdict(list)
        apart: dict[str, None] = {}
        for number, placed in enumerate(self._rows):
            if (name := placed.row.id) is None:
                continue
            alike = next((one for one in known[name] if self._are_alike(one, number)), None)
            if alike is not None:
                self._unite(alike, number)
            elif known[name]:
                self._check_other_file(name, known[name], number)
                apart[name] = None
            known[name].append(number)
        return list(apart)

    def _are_alike(self, one: int, other: int) -> bool:
        """Whether two rows of one id are one problem: worded alike, with the same numbers in it."""
        if self._first[one] == self._first[other]:
            return True
        first, second = (normal(self._rows[number].row.text) for number in (one, other))
        if _NUMBER.findall(first) != _NUMBER.findall(second):
            return False
        return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio() >= _ALIKE

    def _check_other_file(self, name: str, known: Sequence[int], number: int) -> None:
        """Files may each count their problems; within one, an id is a promise."""
        place = self._rows[number].place
        for first in (self._rows[one].place for one in known):
            if first.file == place.file:
                raise InputError(
                    f"{first} and {place} have the id {name!r} and are different problems; wanted one id a problem, or "
                    "none: mend them, or name another column with --map id=COLUMN"
                )

    def by_near_wording(self) -> list[NearRows]:
        """Joins problems of different files, most of whose wording and whose answers are the same."""
        files = list(dict.fromkeys(placed.place.file for placed in self._rows))
        found: list[NearRows] = []
        for place, file in enumerate(files[1:], 1):
            before, fresh = self._texts(set(files[:place])), self._texts({file})
            fresh = {number: text for number, text in fresh.items() if number not in before}
            found += self._join_near(before, fresh) + self._join_near(fresh, before)
        return found

    def _texts(self, files: set[str]) -> dict[str, str]:
        """By the number of a problem's first row, its wording in these files."""
        texts: dict[str, str] = {}
        for number, placed in enumerate(self._rows):
            if placed.place.file in files:
                texts.setdefault(str(self._first[number]), placed.row.text)
        return texts

    def _join_near(self, known: Mapping[str, str], others: Mapping[str, str]) -> list[NearRows]:
        index, found = Problems(known), list[NearRows]()
        for number, text in others.items():
            near = index.near(text)
            if near is None or self._first[int(near[0])] == self._first[int(number)]:
                continue
            one, other = int(near[0]), int(number)
            if self._same_answer(one, other):
                found.append(NearRows(self._called(other), self._called(one), near[1], text, known[near[0]]))
                self._unite(one, other)
        return found

    def _same_answer(self, one: int, other: int) -> bool:
        first, second = (self._answer(number) for number in (one, other))
        return first is not None and second is not None and compare(second, first) is True

    def _answer(self, number: int) -> str | None:
        members = [self._rows[one].row for one in sorted(self._members[self._first[number]])]
        given = (stated_answer(row.answer) for row in members)
        boxed = (stated_answer(final_answer(text)) for row in members for text in row.solutions)
        return next((one for one in (*given, *boxed) if one is not None), None)

    def _called(self, number: int) -> str:
        return self._rows[number].row.id or str(self._rows[number].place)


def _problem(placed: Sequence[Placed], taken: set[str]) -> PoolProblem:
    rows = [one.row for one in placed]
    solutions = list(dict.fromkeys(text.strip() for row in rows for text in row.solutions))
    numbers = {text: number for number, text in enumerate(solutions)}
    years = [(year, found) for row in rows for year, found in [year_of(row.metadata, row.id)] if year is not None]
    # a column knows better than an id; of two years the earlier one is when it was set first
    year, found = min(years, key=lambda one: (one[1] != "column", one[0]), default=_NO_YEAR)
    metadata: dict[str, JsonValue] = {}
    for row in rows:
        metadata |= {name: value for name, value in row.metadata.items() if name not in metadata}
    return PoolProblem(
        id=_id(placed, taken),
        row=rows[0],
        solutions=tuple(solutions),
        answers=tuple(dict.fromkeys(answer for row in rows if (answer := stated_answer(row.answer)))),
        year=year,
        year_found=found,
        origins=tuple(one.origin(numbers) for one in placed),
        metadata=metadata,
        says_proof=any(says_proof(row.answer) for row in rows),
    )


def _id(placed: Sequence[Placed], taken: set[str]) -> str:
    """The first id that a row has, else one of the wording, so that it stays whatever else is in the pool."""
    named = next(((one.row.id, one.place.file) for one in placed if one.row.id), None)
    if named is None:
        digest = hashlib.sha256(normal(placed[0].row.text).encode("utf-8", "surrogatepass")).hexdigest()
        return f"problem-{digest[:12]}"
    name, file = named
    if name in taken:
        name = valid_id(f"{stem(file) or 'pool'}:{name}")
    while name in taken:
        name += "_"
    return name


def short_name(file: str) -> str:
    """Without this machine's folders; of a list of objects, `objects`."""
    return file if file.startswith("hf:") else file.rsplit("/", 1)[-1] or "objects"


def named(problems: Iterable[PoolProblem], most: int = 5) -> str:
    return few([problem.id for problem in problems], most)
