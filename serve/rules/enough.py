"""Samples of an item that are handed out, or not needed, once it is known what became of the earlier ones."""

from __future__ import annotations

from dail.serve.store.batches import BatchRecord
from dail.serve.store.transaction import Transaction
from dail.serve.store.units import UnitRecord
from dail.synth.schema.enough import Standing, ended_as, next_step


def advance(tx: Transaction, batch: BatchRecord, item_id: str) -> None:
    """What follows from how an item's samples stand; nothing in a batch that draws all of them."""
    if batch.synthesis.enough == "all" or batch.status != "in_progress":
        return
    units = tx.units.of_items(batch.id, [item_id])
    step = next_step([_standing(unit) for unit in units])
    tx.units.advance([units[place] for place in step.next], "queued")
    tx.units.advance([units[place] for place in step.needless], "skipped")


def is_needless(tx: Transaction, batch: BatchRecord, unit: UnitRecord) -> bool:
    return batch.synthesis.enough != "all" and tx.units.is_needless(unit)


def _standing(unit: UnitRecord) -> Standing:
    match unit.state:
        case "waiting":
            return "waiting"
        case "queued" | "leased":
            return "open"
        case "committed":
            return ended_as(unit.correct)
        case _:
            return "miss"
