"""The problems of an evaluation: `{"id", "problem", "answer", "metadata"}`, of files and objects in many shapes.

    read = read_problems(named_sources(["hard=more.jsonl"], ["aime-2024", "gpqa-diamond=gpqa/gpqa_diamond.csv"]))

A source may have a name, the group that all its problems are reported under; a benchmark has one of its own.
"""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue, ValidationError, field_validator

from dail.synth.core.config import Frozen, fingerprint, storable
from dail.synth.core.errors import InputError, InputFault, UsageError, plainly, pointer
from dail.synth.data.account import SourceAccount
from dail.synth.data.choices import CHOICES, LETTERS
from dail.synth.data.faults import Place
from dail.synth.data.hub import HubError
from dail.synth.data.reader import Read, Reading, Source, read_items
from dail.synth.data.sources import names_of_tables, source_sha256
from dail.synth.data.values import text_of
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.items import ItemId, Problem, Solution
from dail.synth.schema.kinds import stated_answer
from dail.train.evals.benchmarks import BENCHMARKS, Benchmark, benchmark_named, edition_note

_log = logging.getLogger(__name__)

_SAME = ("problem", "answer", "solution", "metadata")
_MATH_CHARS = 512  # of an answer that is a number or an expression; a longer one is meant for another grader

ALL = "all problems"  # a group of this name would be taken for all of them

Answer = Solution  # any text that an expert solution may be: an own grader's may be a file of tests


class EvalProblem(Frozen):
    """A problem with a checkable answer. `metadata.group` names the part of the set it is reported under."""

    id: ItemId
    problem: Problem
    answer: Answer
    metadata: Annotated[dict[str, JsonValue], AfterValidator(storable)] = Field(default_factory=dict)

    @field_validator("problem", mode="before")
    @classmethod
    def _is_asked_alone(cls, value: Any) -> Any:
        """A conversation of one message, the user's, is its text; an evaluation's prompts have no place for more."""
        if not isinstance(value, list | tuple):
            return value
        if len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "user":
            return value[0].get("content")
        raise ValueError(f"it is a list of {len(value)} messages; wanted a text, or one message of the user")

    @field_validator("answer", mode="before")
    @classmethod
    def _number_is_text(cls, value: Any) -> Any:
        return text_of(value)

    @property
    def group(self) -> str | None:
        group = self.metadata.get("group")
        return None if group is None else str(group)

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts of its choices, if its answer is the letter of one of them."""
        texts = self.metadata.get(CHOICES)
        letters = LETTERS[: len(texts)] if isinstance(texts, list) else ""
        return tuple(map(str, texts)) if isinstance(texts, list) and self.answer in tuple(letters) else ()


@dataclass(frozen=True)
class NamedSource:
    """A file, folder, pattern or set, with the group of all its problems, or the benchmark that it is."""

    name: str
    group: str | None = None
    benchmark: Benchmark | None = None


ProblemSource = Source | Iterable[str | Path | NamedSource]


class SourceRef(Frozen):
    """Where problems of an evaluation come from. `sha256`: of the file; none of a set of the hub.

    `digest`: of its problems and answers as they were taken. `num_published`: how many the benchmark has. `notes`: what
    is remarkable about it.
    """

    file: str
    sha256: str | None
    digest: str
    num_problems: int
    group: str | None = None
    benchmark: str | None = None
    num_published: int | None = None
    terms: str | None = None
    columns: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadProblems(Read[EvalProblem]):
    sources: tuple[SourceRef, ...] = ()


def named_sources(problems: Iterable[str], benchmarks: Iterable[str] = ()) -> list[NamedSource]:
    """What `--problems [GROUP=]FILE` and `--benchmark NAME[=FILE]` mean.

    `a=b.jsonl` is a group and a file, unless there is a file of the whole name, or a slash before the equals sign.

    Raises:
        UsageError: nothing is named, or there is no such benchmark, or a text can be read in two ways.
    """
    found = [_grouped(text) for text in problems]
    for text in benchmarks:
        benchmark, name = benchmark_named(text)
        found.append(NamedSource(name, benchmark.group, benchmark))
    if not found:
        raise UsageError(f"no problems are named; give --problems FILE, or --benchmark with {', '.join(BENCHMARKS)}")
    return found


def _grouped(text: str) -> NamedSource:
    group, sep, name = text.partition("=")
    if not sep or text.startswith("hf:") or "/" in group or "\\" in group:
        return NamedSource(text)
    if _is_there(text):
        if _is_there(name):
            raise UsageError(
                f"--problems {text}: there are {text} and {name}; write ./{text} for the first, or {group}=./{name} "
                f"for the second under the name {group}"
            )
        return NamedSource(text)
    group = group.strip()
    if not group or group == ALL:
        raise UsageError(f"--problems {text}: {group or 'nothing'!r} cannot be a group's name; give another")
    if not name:
        raise UsageError(f"--problems {text}: no file stands behind the equals sign")
    return NamedSource(name, group)


def _is_there(name: str) -> bool:
    return Path(name).expanduser().exists() or bool(glob.glob(name))


def read_problems(source: ProblemSource, reading: Reading | None = None) -> ReadProblems:
    """Reads problems as expert solutions are read: files, folders, hub sets, or the objects themselves.

    A name for a source is the group of all its problems, whatever their own metadata say; these stay where there is no
    name. Problems of a benchmark have its name before their id, so that they are the same ones beside any others.

    Args:
        source: as for `dail.synth.data.reader.read_solutions`, or of `named_sources`. What belongs to solutions alone
            plays no part.
        reading: as there.

    Raises:
        UsageError: a source cannot be read.
        ColumnsRefused: nobody knows what its columns mean.
        RowsRefused: rows cannot be used; every fault is in it.
    """
    named, plain = _named(source)
    mend = _Mend(named)
    try:
        read = read_items(
            list(named) if named else plain, reading or Reading(), _checked, ("problem", "answer|solution"), _SAME,
            mend=mend if named else None,
        )  # fmt: skip
    except HubError as error:
        benchmark = named[error.set_name].benchmark if error.set_name in named else None
        if benchmark is None:
            raise
        raise UsageError(f"{error}; {benchmark.advice}") from None
    sources = _references(read, named)
    for line in (*mend.lines(), *(f"{one.file}: {note}" for one in sources for note in one.notes)):
        _log.info(f"note: {line}")
    for name, terms in dict.fromkeys((one.benchmark, one.terms) for one in sources if one.terms):
        _log.info(f"terms of {name}: {terms}")
    return ReadProblems(read.items, read.account, read.places, sources)


def _named(source: Any) -> tuple[dict[str, NamedSource], Any]:
    """By the name of each table what it was given as, if all were given by name; else the objects."""
    given = [source] if isinstance(source, str | Path | NamedSource) else source
    if isinstance(given, Mapping):
        return {}, given
    given = list(given)
    if not given or not all(isinstance(one, str | Path | NamedSource) for one in given):
        return {}, given
    found: dict[str, NamedSource] = {}
    by_path: dict[str | Path, NamedSource] = {}
    for one in given:
        whole = one if isinstance(one, NamedSource) else NamedSource(str(one))
        for name in names_of_tables(whole.name):
            found.setdefault(name, whole)
            other = by_path.setdefault(name if name.startswith("hf:") else Path(name).resolve(), whole)
            if (other.group, other.benchmark) != (whole.group, whole.benchmark):
                raise UsageError(f"{name} is given as {_said(other)} and as {_said(whole)}; give it once")
    return found, ()


def _said(source: NamedSource) -> str:
    if source.benchmark:
        return f"the benchmark {source.benchmark.name}"
    return f"the group {source.group}" if source.group else "a file without a name"


class _Mend:
    """Gives rows of a named source their group, those of a benchmark their ids, and looks at its answers."""

    def __init__(self, named: Mapping[str, NamedSource]) -> None:
        self._named = named
        self._rows = Counter[str]()
        self._regrouped = Counter[str]()

    def __call__(self, place: Place, values: dict[str, Any]) -> list[InputFault]:
        source = self._named[place.file]
        if source.group is not None:
            self._group(place.file, source.group, values)
        if source.benchmark is None:
            return []
        self._rows[source.benchmark.name] += 1  # of all its files
        given = values.get("id", str(self._rows[source.benchmark.name]))
        if isinstance(given, str):
            values["id"] = f"{source.benchmark.name}:{given}"
        answer = known_answer(values)
        why = source.benchmark.fault(answer) if answer is not None else None
        return [InputFault("answer", "wrong_answer", why)] if why else []

    def _group(self, file: str, group: str, values: dict[str, Any]) -> None:
        metadata = values.get("metadata", {})
        if not isinstance(metadata, dict):
            return  # which the problem's own check will tell
        own = metadata.get("group")
        self._regrouped[file] += own is not None and str(own) != group
        values["metadata"] = {**metadata, "group": group}

    def lines(self) -> list[str]:
        return [
            f"{file}: {count} of them have another metadata.group, and are reported as {self._named[file].group}"
            for file, count in self._regrouped.items()
            if count
        ]


def known_answer(values: Mapping[str, Any]) -> str | None:
    """The answer of a row's fields: what is given as such, else the last box of a solution."""
    answer = values.get("answer")
    if _says_none(answer):
        return _box(values.get("solution"))
    return answer if isinstance(answer, str) else None


def _references(read: Read[EvalProblem], named: Mapping[str, NamedSource]) -> tuple[SourceRef, ...]:
    found: list[SourceRef] = []
    first = 0
    for account in read.account.sources:
        items = read.items[first : first + account.items]
        first += account.items
        if account.file:
            found.append(_reference(account, items, named.get(account.file, NamedSource(account.file))))
    taken = Counter[str]()
    for one in found:
        taken[one.benchmark or ""] += one.num_problems
    same: dict[str, SourceRef] = {}
    return tuple(_with_notes(one, same.setdefault(one.digest, one), taken[one.benchmark or ""]) for one in found)


def _with_notes(one: SourceRef, same: SourceRef, num_taken: int) -> SourceRef:
    """With what its number says, and that its problems are those of another source."""
    notes = list(one.notes)
    if one.num_published not in (None, num_taken):
        notes.insert(0, f"{one.benchmark} has {one.num_published} problems, and {num_taken} are taken")
    if same is not one and one.num_problems:
        notes.append(f"its problems are those of {same.file}")
    return one.model_copy(update={"notes": tuple(notes)})


def _reference(account: SourceAccount, items: Sequence[EvalProblem], source: NamedSource) -> SourceRef:
    benchmark = source.benchmark
    note = edition_note(benchmark, account.file) if benchmark else None
    return SourceRef(
        file=account.file,
        sha256=source_sha256(account.file),
        digest=fingerprint(sorted([one.problem, one.answer] for one in items)),
        num_problems=len(items),
        group=source.group,
        benchmark=benchmark and benchmark.name,
        num_published=benchmark and benchmark.num_problems,
        terms=benchmark and benchmark.terms,
        columns=account.preset,
        notes=(note,) if note else (),
    )


def check_for_math(problems: Iterable[EvalProblem]) -> None:
    """Raises InputError if an answer is none, or too long for the grader `math`: nobody writes a text into a box."""
    for problem in problems:
        if stated_answer(problem.answer) is None:
            raise InputError(
                f"problem {problem.id}: its answer is {problem.answer!r}, which says that there is none, so that every "
                "completion would be wrong; leave the problem out, or name the grader that is meant, --set "
                "eval.grader=FILE.py:NAME"
            )
        if len(problem.answer) > _MATH_CHARS:
            raise InputError(
                f"problem {problem.id}: its answer has {len(problem.answer)} characters; math and official take at "
                f"most {_MATH_CHARS}; name the grader that is meant, --set eval.grader=FILE.py:NAME, or shorten the "
                "answer"
            )


def _checked(values: list[dict[str, Any]]) -> list[EvalProblem]:
    problems: list[EvalProblem] = []
    faults: list[InputFault] = []
    num_boxes = 0
    given = {value["id"] for value in values if isinstance(value.get("id"), str)}
    for number, value in enumerate(values):
        name = f"problem-{number + 1:05d}"
        while name in given:
            name += "_"
        of_problems = {key: part for key, part in value.items() if key in EvalProblem.model_fields}
        if _says_none(value.get("answer")) and (box := _box(value.get("solution"))):
            of_problems["answer"] = box
            num_boxes += 1
        try:
            problems.append(EvalProblem.model_validate({"id": name, **of_problems}))
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_input=False):
                faults.append(InputFault(pointer(["items", number, *fault["loc"]]), fault["type"], plainly(fault)))
    if faults:
        raise InputError(f"{len(faults)} faults in the problems", faults)
    if num_boxes:
        _log.info(f"{num_boxes} of {len(problems)} problems have no answer but a solution, whose last box is taken")
    return problems


def _says_none(answer: Any) -> bool:
    """Whether there is no answer, or a word that means so."""
    return answer is None or (isinstance(answer, str) and stated_answer(answer) is None)


def _box(solution: Any) -> str | None:
    """The last box of the first solution that has one."""
    parts = solution if isinstance(solution, list) else [solution]
    return next((box for part in parts if isinstance(part, str) and (box := final_answer(part))), None)
