"""What was read and what became of it: said to people, and a field of what `--json` prints."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from dail.synth.core.config import Frozen
from dail.synth.core.errors import few

_SHOWN = 8


class SourceAccount(Frozen):
    """One file or set. `mapped`: by field, the columns it was made of. `items`: of its rows, those that were taken."""

    file: str
    preset: str
    rows: int
    items: int
    mapped: dict[str, str]
    metadata: tuple[str, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]


class Repeated(Frozen):
    """A row that says what another one says, and is drawn once with it."""

    row: str
    same_as: str


class Account(Frozen):
    """A whole reading: `rows` are those of all sources, `invalid` those that `skip_invalid` left out."""

    sources: tuple[SourceAccount, ...]
    rows: int
    items: int
    repeated: tuple[Repeated, ...] = ()
    invalid: int = 0
    invalid_to: Path | None = None

    def lines(self) -> Iterator[str]:
        """For people, a line a source and a line for each thing that happened."""
        named = [source for source in self.sources if source.file]
        for _, alike in groupby(named, key=lambda one: (one.preset, one.mapped, one.metadata, one.left_out)):
            same = list(alike)
            yield from [_line(same)] if len(same) > _SHOWN else [_line([one]) for one in same]
        if self.repeated:
            pairs = ", ".join(f"{one.row} as {one.same_as}" for one in self.repeated[:3])
            more = f" and {len(self.repeated) - 3} more" if len(self.repeated) > 3 else ""
            yield f"equal items are drawn once, {len(self.repeated)} left out: {pairs}{more}"
        if self.invalid:
            yield f"{self.invalid} of {self.rows} rows cannot be used and are left out; the reasons: {self.invalid_to}"


def _line(alike: list[SourceAccount]) -> str:
    """One source, or several with the same columns."""
    source = alike[0]
    renamed = [f"{columns} → {field}" for field, columns in source.mapped.items() if columns != field]
    parts = [", ".join(renamed) or "columns as they are"]
    if source.metadata:
        columns = "1 column" if len(source.metadata) == 1 else f"{len(source.metadata)} columns"
        parts.append(f"{columns} kept as metadata ({few(source.metadata, _SHOWN)})")
    by_reason: dict[str, list[str]] = {}
    for column, why in source.left_out.items():
        by_reason.setdefault(why, []).append(column or "''")
    parts += [f"left out: {few(columns_out, _SHOWN)} ({why})" for why, columns_out in by_reason.items()]
    num_items = sum(one.items for one in alike)
    items = "1 item" if num_items == 1 else f"{num_items:,} items"
    files = source.file if len(alike) == 1 else f"{len(alike)} files, {source.file} to {alike[-1].file}"
    notes = list(dict.fromkeys(note for one in alike for note in one.notes))
    if len(notes) > _SHOWN:
        notes = [*notes[:_SHOWN], f"and {len(notes) - _SHOWN} more notes, which --json has"]
    return f"{source.preset}: {items} from {files}: {'; '.join([*parts, *notes])}"
