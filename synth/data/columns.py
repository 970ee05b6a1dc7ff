"""Which column becomes which field of an item: `--map`, dotted paths, wildcards.

problem=question,solution=solution_*,answer=reward_model.ground_truth,metadata.group=subject
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from dail.synth.core.errors import UsageError

SOLUTION_JOINED, PROBLEM_JOIN, ID_JOIN = "solution", "\n\n", "-"
_METADATA = "metadata."


@dataclass(frozen=True)
class Column:
    """A column by its name, a part of a nested one by a dotted path, or several by a wildcard."""

    path: str

    @cached_property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("."))

    @property
    def is_several(self) -> bool:
        return "*" in self.path

    def touches(self, name: str) -> bool:
        """Whether the column of that name is read by it."""
        return name == self.path or fnmatchcase(name, self.parts[0])

    def find(self, row: dict[str, Any]) -> list[Any]:
        """What stands there, without nulls: one value at most, unless it has a wildcard."""
        if self.path in row:  # also a name with a dot or a star in it
            return [] if row[self.path] is None else [row[self.path]]
        return [value for value in _walk(row, self.parts) if value is not None]


def _walk(value: Any, parts: Sequence[str]) -> Iterator[Any]:
    if not parts:
        yield value
        return
    first, rest = parts[0], parts[1:]
    if isinstance(value, dict):
        names = sorted((n for n in value if fnmatchcase(n, first)), key=natural) if "*" in first else [first]
        for name in names:
            yield from _walk(value.get(name), rest)
    elif isinstance(value, list) and first == "*":
        for part in value:
            yield from _walk(part, rest)
    elif isinstance(value, list) and re.fullmatch(r"-?\d+", first) and -len(value) <= int(first) < len(value):
        yield from _walk(value[int(first)], rest)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts solution_2 before solution_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def parse_maps(texts: Iterable[str], fields: Sequence[str]) -> dict[str, tuple[Column, ...]]:
    """What `--map` says: by field, the columns it is made of.

    Raises:
        UsageError: a part is not FIELD=COLUMN, or there is no such field.
    """
    found: dict[str, tuple[Column, ...]] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        field, sep, path = (piece.strip() for piece in part.partition("="))
        if not sep or not field or not path:
            raise UsageError(f"--map {part!r} is not FIELD=COLUMN; write for example --map problem=question")
        if field not in fields and not (field.startswith(_METADATA) and field != _METADATA):
            near = difflib.get_close_matches(field, fields, 1)
            meant = f"; {near[0]} was probably meant" if near else ""
            raise UsageError(
                f"--map {part!r}: there is no field {field!r}{meant}; fields are {', '.join(fields)} and metadata.NAME"
            )
        if field in found and field not in ("problem", "solution", "id"):
            raise UsageError(f"--map gives {field} twice, by {found[field][0].path!r} and {path!r}; give it once")
        found[field] = (*found.get(field, ()), Column(path))
    return found


def value_of(field: str, columns: Sequence[Column], row: dict[str, Any]) -> Any:
    """The field's value in a row: of one column as it is; of several, solutions as a list, the rest joined.

    Raises:
        ValueError: several columns give something, of which the field takes one.
    """
    if len(columns) == 1 and not columns[0].is_several:
        found = columns[0].find(row)
        return found[0] if found else None
    values = [value for column in columns for value in column.find(row)]
    if field == SOLUTION_JOINED:
        flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
        return [part for part in flat if not (isinstance(part, str) and not part.strip())] or None
    if len(values) <= 1:
        return values[0] if values else None
    if field in ("problem", "id") and all(isinstance(value, str | int) for value in values):
        return (PROBLEM_JOIN if field == "problem" else ID_JOIN).join(map(str, values))
    raise ValueError(f"{len(values)} columns give something; {field} takes one")
