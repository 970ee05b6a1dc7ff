"""Routes for people: batches of expert solutions, how far they are, and what came of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from dail.serve.auth import caller_of, people_only
from dail.serve.batch_in import BatchIn
from dail.serve.bodies import (
    BatchOut,
    BatchPage,
    BatchStatus,
    ItemOut,
    ItemPage,
    ItemStatus,
    Result,
    RetryIn,
    ShardPage,
    TracePage,
)
from dail.serve.errors import RESPONSES
from dail.serve.events import Watching, encoded
from dail.serve.guard import caller_by
from dail.serve.ranges import IfRange, Range, whole_or_part
from dail.serve.request_body import LINES, PARQUET, batch_body, body_of, documents
from dail.serve.rules.service import Service
from dail.serve.tracing import known_traceparent
from dail.synth.core.logs import tell
from dail.synth.schema.manifest import Manifest
from dail.synth.view.traces import Filter, TraceView


def service_of(request: Request) -> Service:
    """The service as the caller sees it, who posts for one tenant and sees that one's batches, or all."""
    service: Service = request.app.state.service
    caller = caller_of(request)
    return service.for_caller(caller.tenant, caller.sees_all)


TheService = Annotated[Service, Depends(service_of)]
Limit = Annotated[int, Query(ge=1, le=100)]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="without it, the same body gives the same batch"),
]

Traceparent = Annotated[
    str | None, Header(description="W3C trace context, which the batch's spans belong to; what is none is ignored")
]
IfNoneMatch = Annotated[str | None, Header(description="the ETag of an earlier answer; 304 if nothing changed")]
LastEventId = Annotated[int, Header(ge=0, le=2**53, description="the number of the last event that you have")]

Form = Literal["jsonl", "parquet"]

_PLACE = re.compile(r"[0-9]{1,9}")

router = APIRouter(prefix="/v1/batches", tags=["batches"], dependencies=[Depends(people_only)], responses=RESPONSES)


@router.post(
    "",
    status_code=201,
    openapi_extra=documents(
        BatchIn, **{LINES: {"schema": {"type": "string"}}, PARQUET: {"schema": {"type": "string", "format": "binary"}}}
    ),
    responses={200: {"model": BatchOut, "description": "The same body again: the batch that there is"}},
)
def create_batch(
    body: Annotated[BatchIn, Depends(batch_body)],
    service: TheService,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> BatchOut:
    """Stores a batch, durably before the reply: 201 for a new one, 200 with the same batch for the same body again."""
    batch, is_new = service.batches.create(body, idempotency_key, known_traceparent(traceparent))
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/batches/{batch.id}"
    if is_new:
        tell("batch_created", batch_id=batch.id, count=batch.request_counts.total)
    return batch


@router.get("")
def list_batches(
    service: TheService, status: BatchStatus | None = None, after: str | None = None, limit: Limit = 20
) -> BatchPage:
    return service.batches.page(status, after, limit)


@router.get("/{batch_id}", response_model=BatchOut, responses={304: {"description": "as in If-None-Match"}})
def get_batch(batch_id: str, service: TheService, if_none_match: IfNoneMatch = None) -> Response:
    body = service.batches.get(batch_id).model_dump_json().encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    known = {one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")}
    if known & {tag, "*"}:
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, media_type="application/json", headers={"ETag": tag})


@router.get(
    "/{batch_id}/events",
    response_class=StreamingResponse,
    responses={200: {"description": "An event for every change, then `done`", "content": {"text/event-stream": {}}}},
)
async def watch_batch(
    batch_id: str, request: Request, service: TheService, last_event_id: LastEventId = 0
) -> StreamingResponse:
    """Every change of a batch as server-sent events, from the first one or the one after Last-Event-ID."""
    watching: Watching = request.app.state.watching
    await run_in_threadpool(service.batches.get, batch_id)  # 404 before anything is sent

    async def is_let_in() -> None:
        await caller_by(request.app.state.tokens, request.headers)

    async def lines() -> AsyncIterator[str]:
        async for event in watching.events(batch_id, last_event_id, is_let_in):
            yield encoded(event)

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


@router.post("/{batch_id}/retry", status_code=202, openapi_extra=documents(RetryIn))
def retry_batch(batch_id: str, body: Annotated[RetryIn, Depends(body_of(RetryIn))], service: TheService) -> BatchOut:
    """New attempts for what ended without a trace, in the same batch; committed traces are kept."""
    return service.batches.retry(batch_id, body.items)


@router.delete("/{batch_id}", status_code=204)
def delete_batch(batch_id: str, service: TheService) -> None:
    """Only an ended batch; 404 from then on, and its bytes go after 30 days."""
    service.batches.delete(batch_id)


@router.post("/{batch_id}/cancel", status_code=202)
def cancel_batch(batch_id: str, service: TheService) -> BatchOut:
    """Queued units end at once, running ones at their worker's next heartbeat; finished traces are kept."""
    return service.batches.cancel(batch_id)


@router.get(
    "/{batch_id}/shards/{number}",
    response_class=Response,
    responses={
        200: {"description": "the file's bytes", "content": {PARQUET: {}}},
        206: {"description": "those of the Range", "content": {PARQUET: {}}},
    },
)
def get_shard(
    batch_id: str, number: str, service: TheService, wanted: Range = None, if_range: IfRange = None
) -> Response:
    """One file of the manifest, by its place in it, or a part; checked by size and sha256, which is its ETag."""
    shard, data = service.outputs.file(batch_id, int(number) if _PLACE.fullmatch(number) else -1)
    headers = {"Content-Disposition": f'attachment; filename="{shard.sha256[:16]}.parquet"'}
    return whole_or_part(data, f'"{shard.sha256}"', PARQUET, headers, wanted, if_range)


@router.get("/{batch_id}/items")
def list_items(
    batch_id: str,
    service: TheService,
    status: ItemStatus | None = None,
    after: str | None = None,
    limit: Limit = 20,
) -> ItemPage:
    return service.items.page(batch_id, status, after, limit)


@router.get("/{batch_id}/items/{item_id}")
def get_item(batch_id: str, item_id: str, service: TheService) -> ItemOut:
    return service.items.get(batch_id, item_id)


@router.get("/{batch_id}/traces")
def list_traces(
    batch_id: str,
    service: TheService,
    only: Annotated[
        Filter | None,
        Query(alias="filter", description="one kind; 200 units are looked at for one page, which may be short of it"),
    ] = None,
    after: str | None = None,
    limit: Limit = 20,
) -> TracePage:
    """What each unit that has ended came to, as people read traces: who wrote how much, whether it is cut or cites."""
    return service.traces.page(batch_id, only, after, limit)


@router.get("/{batch_id}/traces/{unit_id}")
def get_trace(batch_id: str, unit_id: str, service: TheService) -> TraceView:
    """One trace, token by token, with problem and expert solution."""
    return service.traces.get(batch_id, unit_id)


@router.get("/{batch_id}/shards")
def list_shards(batch_id: str, service: TheService) -> ShardPage:
    return service.outputs.shards(batch_id)


@router.get("/{batch_id}/manifest")
def get_manifest(batch_id: str, service: TheService) -> Manifest:
    """What a training run reads; 409 `not_finalized` before the batch ends, 404 if it ended without a shard."""
    return service.outputs.manifest(batch_id)


@router.get(
    "/{batch_id}/results",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One result a line, of the units that have ended; as Parquet, those with a trace",
            "content": {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/Result"}}, PARQUET: {}},
        }
    },
)
def stream_results(
    batch_id: str, service: TheService, form: Annotated[Form, Query(alias="format")] = "jsonl"
) -> StreamingResponse:
    """Traces and failures as JSON lines, or the traces alone as one Parquet file, which has a shard's columns.

    A file that ends early is not readable Parquet: a shard was found damaged. Asking again then says which.
    """
    pieces: Iterator[str] | Iterator[bytes]
    if form == "parquet":
        pieces, media_type = service.outputs.parquet(batch_id), PARQUET
    else:
        pieces, media_type = _lines(service.outputs.results(batch_id)), "application/x-ndjson"
    headers = {"Content-Disposition": f'attachment; filename="{batch_id}.{form}"'}
    return StreamingResponse(pieces, media_type=media_type, headers=headers)


def _lines(results: Iterator[Result]) -> Iterator[str]:
    for result in results:
        yield result.model_dump_json(exclude_none=True) + "\n"
