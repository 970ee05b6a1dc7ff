"""How a request's body is read: UTF-8 JSON of bounded size and depth, holding only what the store can hold.

FastAPI's own reading answers 500 to a body with NaN, and takes duplicate keys, UTF-16 and lone surrogates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from dail.serve.batch_in import BatchIn, faults
from dail.serve.errors import RequestError
from dail.synth.core.errors import InputError, pointer
from dail.synth.schema.items import strict_json

BODY_BYTES = 64 << 20
_MAX_DEPTH = 32
_SURROGATE = re.compile(r"[\ud800-\udfff]")

Model = TypeVar("Model", bound=BaseModel)


def body_of(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency that gives the validated body. Name the model with `documents` too, for the API's page."""

    async def read(request: Request) -> Model:
        value = await _read_json(request)
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise InputError("the body was refused", faults(error)) from None

    return read


async def batch_body(request: Request) -> BatchIn:
    return BatchIn.parse(await _read_json(request))


def documents(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is read here. The app adds the model to the components."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _read_json(request: Request) -> Any:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # An exact type also means that no foreign web page can post here without asking first.
    if media_type != "application/json":
        raise RequestError(415, "content_type", "the body must be sent as Content-Type: application/json")
    if "content-encoding" in request.headers:
        raise RequestError(415, "content_encoding", "the body must be sent without Content-Encoding")
    try:
        value = strict_json(await _read_bytes(request))
    except ValueError as error:
        raise RequestError(400, "invalid_json", "the body is not JSON", [("", "invalid_json", str(error))]) from None
    if problems := list(_unfit(value)):
        raise RequestError(400, "invalid_json", "the body holds values that cannot be stored", problems)
    return value


async def _read_bytes(request: Request) -> bytes:
    too_large = RequestError(413, "body_too_large", f"at most {BODY_BYTES} bytes are taken; post several batches")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > BODY_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise too_large
    return bytes(body)


def _unfit(value: Any) -> Iterator[tuple[str, str, str]]:
    """(pointer, code, detail) of what is JSON but breaks SQLite, Parquet or the stack."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, str) and (bad := _SURROGATE.search(value)):
            yield pointer(where), "surrogate", f"character {bad.start()} is half of a surrogate pair"
        elif isinstance(value, float) and not math.isfinite(value):
            yield pointer(where), "number_too_large", "the number is beyond a 64-bit float"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield pointer(where), "number_too_large", "the number is beyond a 64-bit integer"
        elif isinstance(value, dict | list) and len(where) >= _MAX_DEPTH:
            yield pointer(where), "too_deep", f"it is nested more than {_MAX_DEPTH} levels"
        elif isinstance(value, dict):
            if any(_SURROGATE.search(key) for key in value):
                yield pointer(where), "surrogate", "a key holds half of a surrogate pair"
            else:
                waiting += (((*where, key), part) for key, part in value.items())
        elif isinstance(value, list):
            waiting += (((*where, index), part) for index, part in enumerate(value))
