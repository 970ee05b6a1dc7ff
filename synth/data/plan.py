"""How the columns of one table become fields of items: by `--map`, under their own names, or by a preset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dail.synth.core.errors import InputError, few
from dail.synth.data.choices import Adjust
from dail.synth.data.columns import Column, value_of
from dail.synth.data.presets import Preset, recognised
from dail.synth.data.values import plain
from dail.synth.schema.items import ExpertSolution

OWN = tuple(ExpertSolution.model_fields)
_INDEX = {"": "it has no name", "Unnamed: 0": "pandas' index", "__index_level_0__": "pandas' index"}
_SYNONYMS = {
    "problem": ("question", "prompt", "query", "instruction", "statement", "input", "problem_text"),
    "solution": (
        "solutions",
        "explanation",
        "rationale",
        "proof",
        "response",
        "completion",
        "output",
        "cot",
    ),
    "answer": ("final_answer", "short_answer", "ground_truth", "expected_answer", "correct_answer", "target", "gold"),
    "id": ("problem_id", "uuid", "unique_id", "question_id", "record_id", "idx", "index", "problem_idx"),
}


class ColumnsRefused(InputError):
    """A table whose columns are not understood. `known`: its columns; `advice`: what to write."""

    def __init__(self, name: str, known: Sequence[str], why: str, advice: str) -> None:
        super().__init__(f"{name or 'the list'}: {why}; its columns are {few(known, 20) or 'none'}; {advice}")
        self.name, self.known, self.advice = name, tuple(known), advice

    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        facts.pop("problems")
        return {**facts, "file": self.name, "columns": list(self.known), "advice": self.advice}


@dataclass(frozen=True)
class Columns:
    """The columns of a table. `rare`: at most half of its rows have them. `empty`: none has anything in them."""

    names: tuple[str, ...]
    rare: frozenset[str] = frozenset()
    empty: frozenset[str] = frozenset()

    @classmethod
    def of_rows(cls, rows: Iterable[Any]) -> Columns:
        """Of rows each of which may have others."""
        there, filled, num_rows = Counter[str](), set[str](), 0
        for row in rows:
            num_rows += 1
            if isinstance(row, Mapping):
                there.update(row.keys())
                filled.update(name for name, value in row.items() if value is not None)
        rare = frozenset(name for name, count in there.items() if count * 2 <= num_rows)
        return cls(tuple(there), rare, frozenset(there) - filled)


@dataclass(frozen=True)
class Plan:
    """By field, the columns it is made of. `unknown`: columns that a few rows have and none of us knows."""

    title: str
    fields: Mapping[str, tuple[Column, ...]]
    kept: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    adjust: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    adjusted: str = ""
    ordered: frozenset[str] = frozenset()

    def reads(self, column: str) -> bool:
        return column not in self.left_out

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row's fields, with nulls dropped at any depth. Raises ValueError if the row cannot be used."""
        for name in self.ordered & row.keys():
            _refuse_gaps(name, row[name])
        given = _plain({name: row[name] for name in row if self.reads(name) or self.adjust})
        if self.adjust:
            given = self.adjust(given)
        found: dict[str, Any] = {}
        extra = {name: given[name] for name in self.kept if name in given}
        for name, columns in self.fields.items():
            value = value_of(name, columns, given)
            if value is None:
                continue
            if name.startswith("metadata."):
                extra[name.removeprefix("metadata.")] = value
            else:
                found[name] = value
        return _with_metadata(found, extra)

    def column_of(self, name: str) -> str:
        """The user's name for a field, and the field's where they differ."""
        columns = self.fields.get(name, ())
        named = "+".join(column.path for column in columns)
        return name if named in ("", name) else f"{named} (as {name})"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in row.items():
        try:
            if (part := plain(value)) is not None:
                found[name] = part
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from None
    return found


def _refuse_gaps(name: str, value: Any) -> None:
    """A null that were dropped would move what stands behind it. Raises ValueError."""
    parts = value.values() if isinstance(value, Mapping) else [value]
    for part in parts:
        # numpy's arrays are no lists
        if not isinstance(part, str | bytes) and isinstance(part, Iterable) and any(one is None for one in part):
            raise ValueError(f"{name} has nothing in place {[one is None for one in part].index(True)}, counted from 0")


def _with_metadata(found: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    if not extra:
        return found
    own = found.get("metadata", {})
    if not isinstance(own, dict):
        return found  # which the check of the item will tell
    if both := sorted(own.keys() & extra.keys()):
        raise ValueError(f"column {both[0]!r} is to be kept in the metadata, which has a {both[0]!r} already")
    return {**found, "metadata": {**own, **extra}}


def plan(
    name: str, columns: Columns, maps: Mapping[str, tuple[Column, ...]], keep_rest: bool, choices_seed: int = 0
) -> Plan:
    """The plan of a table.

    Args:
        name: of the table, for what is said.
        columns: of the table.
        maps: by field, what `--map` says.
        keep_rest: put columns that nobody knows into the metadata.
        choices_seed: of the order of choices that have none of their own.

    Raises:
        ColumnsRefused: the columns do not say which is the problem, or there are unknown ones.
    """
    names = [column for column in columns.names if column not in _INDEX]
    index = {column: why for column, why in _INDEX.items() if column in columns.names}
    common = set(names) - columns.rare
    presets = [] if maps or common <= set(OWN) else recognised(common)
    if maps:
        _check_maps(name, names, maps)
    if len(presets) > 1:
        both = " and as ".join(preset.name for preset in presets)
        raise ColumnsRefused(name, names, f"they can be read as {both}", "say which are meant with --map")
    chosen = _of_preset(presets[0], names, index, choices_seed) if presets else _of_names(names, maps, index)
    rest = [column for column in names if column not in columns.empty and not _is_used(chosen, column)]
    if keep_rest:
        return replace(chosen, kept=(*chosen.kept, *rest))
    unknown = [column for column in rest if column in common]
    if "problem" not in chosen.fields or unknown:
        why = f"nobody knows {', '.join(unknown)}" if "problem" in chosen.fields else "no column is the problem"
        raise ColumnsRefused(name, names, why, _advice(names, chosen, unknown))
    return replace(chosen, unknown=frozenset(rest))


def _check_maps(name: str, columns: list[str], maps: Mapping[str, tuple[Column, ...]]) -> None:
    for field_name, mapped in maps.items():
        for one in mapped:
            if not any(one.touches(column) for column in columns):
                why = f"--map {field_name}={one.path}: there is no column {one.path!r}"
                raise ColumnsRefused(name, columns, why, "name one of them")


def _of_names(columns: list[str], maps: Mapping[str, tuple[Column, ...]], index: Mapping[str, str]) -> Plan:
    """What `--map` names, and what is named as our fields are unless it is mapped to another."""
    used = {column for mapped in maps.values() for one in mapped for column in columns if one.touches(column)}
    own = {name: (Column(name),) for name in columns if name in OWN and name not in maps and name not in used}
    return Plan("mapped" if maps else "own columns", {**own, **maps}, left_out=index)


def _of_preset(preset: Preset, columns: list[str], index: Mapping[str, str], choices_seed: int) -> Plan:
    there = {name: paths for name, paths in preset.columns.items() if any(p.touches(c) for p in paths for c in columns)}
    own = {name: (Column(name),) for name in columns if name in OWN and name not in preset.fields}
    left_out = {**index, **{column: why for column, why in preset.left_out.items() if column in columns}}
    chosen = Plan(
        preset.name,
        {**own, **there},
        kept=(*(column for column in columns if column in preset.kept), *preset.adds),
        left_out=left_out,
        adjust=_seeded(preset.adjust, choices_seed) if preset.adjust else None,
        adjusted=preset.adjusted.replace("{seed}", str(choices_seed)),
        ordered=preset.ordered,
    )
    if preset.ignores:
        others = {column: preset.ignores for column in columns if not _is_used(chosen, column)}
        chosen = replace(chosen, left_out={**left_out, **others})
    return chosen


def _seeded(adjust: Adjust, seed: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: adjust(row, seed)


def _is_used(chosen: Plan, column: str) -> bool:
    is_read = any(one.touches(column) for columns in chosen.fields.values() for one in columns)
    return is_read or column in chosen.kept or column in chosen.left_out


def _advice(columns: Collection[str], chosen: Plan, common: list[str]) -> str:
    """What to write: `--map` for columns whose names are like ours, `--keep-rest` for the others."""
    free = {column.lower().replace(" ", "_"): column for column in columns if not _is_used(chosen, column)}
    tried = []
    for name, words in _SYNONYMS.items():
        if name in chosen.fields:
            continue
        match = next((free[word] for word in (name, *words) if word in free), None)
        if match is None and name == "solution" and any(word.startswith("solution_") for word in free):
            match = "solution_*"
        if match is not None:
            tried.append(f"{name}={match}")
    if "problem" not in chosen.fields and not any(part.startswith("problem=") for part in tried):
        tried.insert(0, "problem=COLUMN")
    mapped = f"try --map '{','.join(tried)}'" if tried else ""
    kept = "--keep-rest puts what nobody knows into the metadata"
    others = ", ".join(name for name in OWN if name not in ("problem", "solution", "answer"))
    wanted = f"wanted are problem, solution or answer, and if you have them {others}"
    return "; ".join(part for part in (wanted, mapped, kept if common else "") if part)
