"""Is the process alive, can it do its work, and what does it take."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from dail.serve.auth import may_read, people_only
from dail.serve.batch_in import ITEM_BYTES, MAX_ITEMS, MAX_METADATA, MAX_UNITS, METADATA_BYTES
from dail.serve.batches import TheService
from dail.serve.bounded_json import MAX_DEPTH, MAX_ITEM_VALUES, MAX_NAME_BYTES, MAX_VALUES
from dail.serve.errors import MAX_FAULTS, RESPONSES
from dail.serve.request_body import BODY_BYTES, MOST_AT_ONCE, SILENCE_S, SLOWEST_BYTES_S
from dail.serve.rules.health import Ready
from dail.serve.store.units import REPLY_BYTES
from dail.synth.core.config import Frozen
from dail.synth.schema.items import PROBLEM_BYTES, SOLUTION_BYTES

router = APIRouter(tags=["health"], responses=RESPONSES)


class Limits(Frozen):
    """What is taken at most. A reply to a worker's lease ends at `reply_bytes`, with one unit at least."""

    body_bytes: int
    body_silence_s: float
    body_bytes_per_s: int
    bodies_at_once: int
    items: int
    units: int
    open_batches: int
    requests_per_s: float
    problem_bytes: int
    solution_bytes: int
    item_bytes: int
    item_metadata_bytes: int
    item_values: int
    metadata_entries: int
    values: int
    depth: int
    name_bytes: int
    reply_bytes: int
    faults_told: int
    lease_s: float
    models: tuple[str, ...]


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The event loop turns; nothing else is looked at."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Ready}})
def readyz(request: Request, response: Response, sees_all: Annotated[bool, Depends(may_read)]) -> Ready:
    """503 if something that is tried fails or does not answer in time; `checks`, for who may read, says which."""
    ready: Ready = request.app.state.readiness.ask()
    response.status_code = 200 if ready.ok else 503
    return ready if sees_all else Ready(ok=ready.ok, checks={})


@router.get(
    "/metrics",
    dependencies=[Depends(people_only)],
    response_class=Response,
    responses={200: {"description": "Prometheus' text format", "content": {"text/plain": {}}}},
)
def metrics(request: Request) -> Response:
    """For Prometheus. Labels come from closed sets: no ids, no tenants."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/limits", dependencies=[Depends(people_only)])
def limits(service: TheService, request: Request) -> Limits:
    return Limits(
        body_bytes=BODY_BYTES,
        body_silence_s=SILENCE_S,
        body_bytes_per_s=SLOWEST_BYTES_S,
        bodies_at_once=MOST_AT_ONCE,
        items=MAX_ITEMS,
        units=MAX_UNITS,
        open_batches=service.open_batches,
        requests_per_s=request.app.state.settings.requests_per_s,
        problem_bytes=PROBLEM_BYTES,
        solution_bytes=SOLUTION_BYTES,
        item_bytes=ITEM_BYTES,
        item_metadata_bytes=METADATA_BYTES,
        item_values=MAX_ITEM_VALUES,
        metadata_entries=MAX_METADATA,
        values=MAX_VALUES,
        depth=MAX_DEPTH,
        name_bytes=MAX_NAME_BYTES,
        reply_bytes=REPLY_BYTES,
        faults_told=MAX_FAULTS,
        lease_s=service.lease_s,
        models=tuple(sorted(service.models)),
    )
