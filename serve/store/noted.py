"""What a transaction changed, by batch: an event is written of it before the commit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dail.serve.store.counts import Counts


@dataclass
class Changed:
    is_status: bool = False
    items: set[str] = field(default_factory=set)


class Noted:
    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.batches: dict[str, Changed] = {}

    def status(self, batch_id: str) -> None:
        """The batch itself has another state."""
        self.batches.setdefault(batch_id, Changed()).is_status = True

    def units(self, batch_id: str, items: Iterable[str]) -> None:
        """Units of these items are about to move."""
        self.batches.setdefault(batch_id, Changed()).items.update(items)
        self._counts.look(batch_id, items)

    def many(self, batch_id: str) -> None:
        """Many of its units moved at once."""
        self.batches.setdefault(batch_id, Changed())
        self._counts.recount(batch_id)
