"""How a request's body is read: as bounded JSON (`bounded_json.py`), in a thread, while the event loop answers others.

FastAPI's own reading answers 500 to a body with NaN, and takes duplicate keys, UTF-16 and lone surrogates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from dail.serve.batch_in import MAX_ITEMS, BatchIn, faults, lax_types
from dail.serve.bounded_json import read_batch, read_json
from dail.serve.errors import RequestError
from dail.synth.core.errors import InputError

BODY_BYTES = 64 << 20

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
        return await asyncio.to_thread(parse, await _read_bytes(request))

    return read


async def batch_body(request: Request) -> BatchIn:
    body = await _read_bytes(request)
    return await asyncio.to_thread(lambda: BatchIn.parse(read_batch(body, MAX_ITEMS)))


def documents(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is read here. The app adds the model to the components."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _read_bytes(request: Request) -> bytearray:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # An exact type also means that no foreign web page can post here without asking first.
    if media_type != "application/json":
        raise RequestError(415, "content_type", "the body must be sent as Content-Type: application/json")
    if "content-encoding" in request.headers:
        raise RequestError(415, "content_encoding", "the body must be sent without Content-Encoding")
    too_large = RequestError(413, "body_too_large", f"at most {BODY_BYTES} bytes are taken; post several batches")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > BODY_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise too_large
    return body
