"""What was read and what became of it: said to people, and a field of what `--json` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dail.synth.core.config import Frozen

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
        for source in self.sources:
            if source.file:
                yield _line(source)
        if self.repeated:
            pairs = ", ".join(f"{one.row} as {one.same_as}" for one in self.repeated[:3])
            more = f" and {len(self.repeated) - 3} more" if len(self.repeated) > 3 else ""
            yield f"equal items are drawn once, {len(self.repeated)} left out: {pairs}{more}"
        if self.invalid:
            yield f"{self.invalid} of {self.rows} rows cannot be used and are left out; the reasons: {self.invalid_to}"


def _line(source: SourceAccount) -> str:
    renamed = [f"{columns} → {field}" for field, columns in source.mapped.items() if columns != field]
    parts = [", ".join(renamed) or "columns as they are"]
    if source.metadata:
        shown = ", ".join(source.metadata[:_SHOWN]) + (" …" if len(source.metadata) > _SHOWN else "")
        columns = "1 column" if len(source.metadata) == 1 else f"{len(source.metadata)} columns"
        parts.append(f"{columns} kept as metadata ({shown})")
    by_reason: dict[str, list[str]] = {}
    for column, why in source.left_out.items():
        by_reason.setdefault(why, []).append(column or "''")
    for why, columns_out in by_reason.items():
        shown = ", ".join(columns_out[:_SHOWN])
        more = f" and {len(columns_out) - _SHOWN} more" if len(columns_out) > _SHOWN else ""
        parts.append(f"left out: {shown}{more} ({why})")
    items = "1 item" if source.items == 1 else f"{source.items:,} items"
    return f"{source.preset}: {items} from {source.file}: {'; '.join([*parts, *source.notes])}"
