"""Who works: each worker heard of in the last day, and what it holds. For admins, since it shows every tenant."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter, Depends

from dail.serve.auth import admin_only
from dail.serve.batches import TheService
from dail.serve.errors import RESPONSES
from dail.synth.core.config import Frozen

router = APIRouter(prefix="/v1/workers", tags=["workers"], dependencies=[Depends(admin_only)], responses=RESPONSES)

DAY_S = 86_400.0
MOST_UNITS = 5_000


class HeldOut(Frozen):
    """A unit that a worker leased. `lapsed`: nobody renews it, and another may take it."""

    batch_id: str
    unit_id: str
    item_id: str
    epoch: int
    tokens: int
    leased_at: float | None
    lapsed: bool


class WorkerOut(Frozen):
    """`silent`: nothing was heard of it for longer than a lease."""

    id: str
    model: str
    revision: str
    host: str
    versions: dict[str, str]
    first_seen: float
    heard_at: float
    silent: bool
    units: tuple[HeldOut, ...]


class WorkerList(Frozen):
    object: Literal["list"] = "list"
    data: tuple[WorkerOut, ...]


@router.get("")
def list_workers(service: TheService) -> WorkerList:
    """By name. Of all of them together, the first 5,000 units are shown."""
    store = service.store
    held: dict[str, list[HeldOut]] = {}
    for unit in store.held(MOST_UNITS):
        held.setdefault(unit.worker, []).append(HeldOut(**{name: getattr(unit, name) for name in HeldOut.model_fields}))
    with store.read() as tx:
        recent = tx.workers.recent(DAY_S)
    now = time.time()
    return WorkerList(
        data=tuple(
            WorkerOut(
                id=one.id,
                model=one.model.name,
                revision=one.model.revision,
                host=one.host,
                versions=dict(one.versions or {}),
                first_seen=one.first_seen,
                heard_at=one.heard_at,
                silent=now - one.heard_at > service.lease_s,
                units=tuple(held.get(one.id, ())),
            )
            for one in recent
        )
    )
