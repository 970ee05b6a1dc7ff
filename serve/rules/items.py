"""A batch's items, each with its samples."""

from __future__ import annotations

from dail.serve.bodies import ItemOut, ItemPage, ItemStatus, SampleOut
from dail.serve.rules.errors import NotFound, existing
from dail.serve.store.transaction import Store, Transaction
from dail.serve.store.units import UnitRecord
from dail.synth.schema.units import Failure


class Items:
    def __init__(self, store: Store) -> None:
        self._store = store

    def page(self, batch_id: str, status: ItemStatus | None, after: str | None, limit: int) -> ItemPage:
        with self._store.read() as tx:
            existing(tx, batch_id)
            if after is not None:
                _item_status(tx, batch_id, after)
            found = tx.batches.items(batch_id, status, after, limit + 1)
            page = found[:limit]
            item_ids = [item_id for item_id, _ in page]
            units, refused = tx.units.of_items(batch_id, item_ids), tx.batches.refused(batch_id, item_ids)
        data = tuple(_item_out(item_id, state, units, refused) for item_id, state in page)
        return ItemPage(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(found) > limit,
        )

    def get(self, batch_id: str, item_id: str) -> ItemOut:
        with self._store.read() as tx:
            existing(tx, batch_id)
            status = _item_status(tx, batch_id, item_id)
            units, refused = tx.units.of_items(batch_id, [item_id]), tx.batches.refused(batch_id, [item_id])
            return _item_out(item_id, status, units, refused)


def _item_status(tx: Transaction, batch_id: str, item_id: str) -> str:
    status = tx.batches.item_status(batch_id, item_id)
    if status is None:
        raise NotFound(f"{batch_id} has no such item; GET /v1/batches/{batch_id}/items lists them")
    return status


def _item_out(item_id: str, status: str, units: list[UnitRecord], refused: dict[str, Failure]) -> ItemOut:
    samples = tuple(
        SampleOut(
            sample=unit.sample,
            unit_id=unit.unit_id,
            status=unit.state,
            leases=unit.leases,
            tokens=unit.tokens,
            attributed_tokens=unit.attributed_tokens,
            student_tokens=unit.student_tokens,
            correct=unit.correct,
            error=unit.error,
        )
        for unit in sorted(units, key=lambda unit: unit.sample)
        if unit.item_id == item_id
    )
    return ItemOut(id=item_id, status=status, samples=samples, error=refused.get(item_id))
