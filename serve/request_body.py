"""How a request's body is read: as bounded JSON (`bounded_json.py`), in a thread, while the event loop answers others.

FastAPI's own reading answers 500 to a body with NaN, and takes duplicate keys, UTF-16 and lone surrogates.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from dail.serve.batch_in import MAX_ITEMS, BatchIn, faults, lax_types
from dail.serve.bounded_json import read_batch, read_json
from dail.serve.errors import RequestError
from dail.synth.core.errors import InputError

BODY_BYTES = 64 << 20
SILENCE_S = 30.0  # between two pieces of a body, and before a slow one is looked at
SLOWEST_BYTES_S = 16 << 10  # of a body that takes longer
MOST_AT_ONCE = 256  # bodies that are on their way or being read
MOST_BYTES = 1 << 30  # of these together
_BUSY = "this server is receiving as many bodies as it takes at once; try again"

Model = TypeVar("Model", bound=BaseModel)


def body_of(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency that gives the validated body. Name the model with `documents` too, for the API's page."""

    def parse(body: bytearray) -> Model:
        value = read_json(body)
        try:
            read = model.model_validate(value)
        except ValidationError as error:
            raise InputError("the body was refused", faults(error), error.error_count()) from None
        if lax := list(lax_types(model, value, ())):
            raise InputError("the body was refused", lax)
        return read

    async def read(request: Request) -> Model:
        async with _receiving(request) as body:
            return await asyncio.to_thread(parse, body)

    return read


async def raw_body(request: Request) -> bytes:
    """The body as it came, counted like the others."""
    async with _receiving(request, "application/octet-stream") as body:
        return bytes(body)


async def batch_body(request: Request) -> BatchIn:
    async with _receiving(request) as body:
        return await asyncio.to_thread(lambda: BatchIn.parse(read_batch(body, MAX_ITEMS)))


def documents(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is read here. The app adds the model to the components."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@dataclass
class Receiving:
    """What a server has in hand of bodies: one a process, on its event loop."""

    number: int = 0
    num_bytes: int = 0


@asynccontextmanager
async def _receiving(request: Request, media_type: str = "application/json") -> AsyncIterator[bytearray]:
    """The whole body. It counts as in hand until it is left, so that bodies together take bounded memory."""
    _check_head(request, media_type)
    receiving: Receiving = request.app.state.receiving
    if receiving.number >= MOST_AT_ONCE:
        raise RequestError(503, "busy", _BUSY, Retry_After="5", Connection="close")
    body = bytearray()
    receiving.number += 1
    try:
        async for chunk in _in_time(request):
            body += chunk
            receiving.num_bytes += len(chunk)
            if len(body) > BODY_BYTES:
                raise _too_large()
            if receiving.num_bytes > MOST_BYTES:
                raise RequestError(503, "busy", _BUSY, Retry_After="5", Connection="close")
        yield body
    finally:
        receiving.number -= 1
        receiving.num_bytes -= len(body)


def _check_head(request: Request, wanted: str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # An exact type also means that no foreign web page can post here without asking first.
    if media_type != wanted:
        raise RequestError(415, "content_type", f"the body must be sent as Content-Type: {wanted}")
    if "content-encoding" in request.headers:
        raise RequestError(415, "content_encoding", "the body must be sent without Content-Encoding")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > BODY_BYTES:
        raise _too_large()


def _too_large() -> RequestError:
    return RequestError(413, "body_too_large", f"at most {BODY_BYTES} bytes are taken; post several batches")


async def _in_time(request: Request) -> AsyncIterator[bytes]:
    """The pieces of the body. Raises RequestError 408 for one that stops coming, or comes too slowly to wait for."""
    chunks = request.stream()
    started, num_bytes = time.monotonic(), 0
    while True:
        latest = started + SILENCE_S + num_bytes / SLOWEST_BYTES_S
        try:
            async with asyncio.timeout(min(SILENCE_S, latest - time.monotonic())):
                chunk = await anext(chunks, None)
        except TimeoutError:
            detail = (
                f"the body came too slowly: {num_bytes} bytes in {time.monotonic() - started:.0f} s; wanted something "
                f"every {SILENCE_S:.0f} s, and {SLOWEST_BYTES_S} bytes a second in the long run"
            )
            raise RequestError(408, "body_too_slow", detail, Connection="close") from None
        if chunk is None:
            return
        num_bytes += len(chunk)
        yield chunk
