"""What a transaction changed, by batch: an event is written of it before the commit."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Changed:
    is_status: bool = False
    items: set[str] = field(default_factory=set)


class Noted:
    def __init__(self) -> None:
        self.batches: dict[str, Changed] = {}

    def status(self, batch_id: str) -> None:
        """The batch itself has another state."""
        self.batches.setdefault(batch_id, Changed()).is_status = True

    def units(self, batch_id: str, *items: str) -> None:
        """Units of it moved; `items` are theirs, none where many moved at once."""
        self.batches.setdefault(batch_id, Changed()).items.update(items)
