"""The route by which workers without a way to the objects put their shards there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header

from dail.serve.auth import workers_only
from dail.serve.batches import TheService
from dail.serve.errors import RESPONSES
from dail.serve.request_body import raw_body

router = APIRouter(
    prefix="/internal/v1/objects", tags=["workers"], dependencies=[Depends(workers_only)], responses=RESPONSES
)

_DOCUMENTED = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put("/{key:path}", status_code=204, openapi_extra=_DOCUMENTED)
def put_object(
    key: str,
    body: Annotated[bytes, Depends(raw_body)],
    service: TheService,
    digest: Annotated[str, Header(alias="x-dail-sha256", pattern="^[0-9a-f]{64}$")],
) -> None:
    """Creates a shard of a batch that is there. The same bytes again are no error; 409 `object_exists` for others."""
    service.leases.upload(key, body, digest)
