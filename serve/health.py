"""Is the process alive, can it do its work, and what does it take."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from dail.serve.auth import people_only
from dail.serve.batch_in import MAX_ITEMS, MAX_UNITS
from dail.serve.batches import TheService
from dail.serve.errors import RESPONSES
from dail.serve.request_body import BODY_BYTES
from dail.serve.rules.health import Ready, readiness
from dail.synth.core.config import Frozen
from dail.synth.schema.items import PROBLEM_BYTES, SOLUTION_BYTES

router = APIRouter(tags=["health"], responses=RESPONSES)


class Limits(Frozen):
    body_bytes: int
    items: int
    units: int
    open_batches: int
    problem_bytes: int
    solution_bytes: int
    lease_s: float
    models: tuple[str, ...]


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The event loop turns; nothing else is looked at."""
    return {"status": "ok"}


@router.get("/readyz", dependencies=[Depends(people_only)], responses={503: {"model": Ready}})
def readyz(service: TheService, response: Response) -> Ready:
    ready = readiness(service.store, service.objects)
    response.status_code = 200 if ready.ok else 503
    return ready


@router.get("/v1/limits", dependencies=[Depends(people_only)])
def limits(service: TheService) -> Limits:
    return Limits(
        body_bytes=BODY_BYTES,
        items=MAX_ITEMS,
        units=MAX_UNITS,
        open_batches=service.open_batches,
        problem_bytes=PROBLEM_BYTES,
        solution_bytes=SOLUTION_BYTES,
        lease_s=service.lease_s,
        models=tuple(sorted(service.models)),
    )
