"""Routes for workers: lease units, say they are alive, commit shards. The bodies are in `dail.synth.schema.units`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from dail.serve.auth import workers_only
from dail.serve.batches import TheService
from dail.serve.errors import RESPONSES
from dail.serve.request_body import body_of, documents
from dail.serve.rules.workers import check_wire
from dail.synth.schema.units import (
    Commit,
    Fail,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    LeaseReply,
    LeaseRequest,
)

router = APIRouter(prefix="/internal/v1", tags=["workers"], dependencies=[Depends(workers_only)], responses=RESPONSES)

HelloBody = Annotated[Hello, Depends(body_of(Hello))]
LeaseBody = Annotated[LeaseRequest, Depends(body_of(LeaseRequest))]
HeartbeatBody = Annotated[Heartbeat, Depends(body_of(Heartbeat))]
CommitBody = Annotated[Commit, Depends(body_of(Commit))]
FailBody = Annotated[Fail, Depends(body_of(Fail))]


@router.post("/hello", openapi_extra=documents(Hello))
def hello(body: HelloBody, service: TheService) -> HelloReply:
    """Whether this worker could work here, before it starts an engine: 409 or 422 says what differs."""
    return service.workers.hello(body)


@router.post("/leases", openapi_extra=documents(LeaseRequest))
def lease_units(body: LeaseBody, service: TheService) -> LeaseReply:
    """409 `wire_version` for a worker of another release."""
    check_wire(body.wire if "wire" in body.model_fields_set else 1, "before 0.2")
    return service.leases.lease(body)


@router.post("/leases/heartbeat", openapi_extra=documents(Heartbeat))
def heartbeat(body: HeartbeatBody, service: TheService) -> HeartbeatReply:
    """Renews all that a worker holds; `fenced` where a lease is over: drop the unit."""
    return service.leases.heartbeat(body)


@router.post("/leases/{unit}/commit", status_code=204, openapi_extra=documents(Commit))
def commit(unit: str, body: CommitBody, service: TheService) -> None:
    """The same commit again is no error; 409 `fenced` when the lease is over."""
    service.leases.commit(unit, body)


@router.post("/leases/{unit}/fail", status_code=204, openapi_extra=documents(Fail))
def fail(unit: str, body: FailBody, service: TheService) -> None:
    """409 `fenced` when the lease is over."""
    service.leases.fail(unit, body)
