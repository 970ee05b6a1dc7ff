"""How a request's body is read: as bounded JSON (`bounded_json.py`), in a thread, while the event loop answers others.

FastAPI's own reading answers 500 to a body with NaN, and takes duplicate keys, UTF-16 and lone surrogates.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from dail.serve.batch_in import MAX_ITEMS, BatchIn, faults, lax_types
from dail.serve.bounded_json import MAX_VALUES, read_batch, read_json
from dail.serve.errors import RequestError
from dail.serve.parquet_body import lines_of
from dail.synth.core.errors import InputError

JSON, LINES, PARQUET = "application/json", "application/x-ndjson", "application/vnd.apache.parquet"
BODY_BYTES = 64 << 20  # unpacked
_PIECE = 1 << 20
SILENCE_S = 30.0  # between two pieces of a body, and before a slow one is looked at
SLOWEST_BYTES_S = 16 << 10  # of a body that takes longer
MOST_AT_ONCE = 256  # bodies that are on their way or being read
MOST_BYTES = 1 << 30  # of these together
UNPACKED_AT_ONCE = 2  # processes, each with bounds of its own (`parquet_body.py`)
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
    """A batch as JSON, or as JSON lines: its settings first, then an item in each; or as Parquet. May be gzipped."""
    kind = _media_type(request)
    unpacking = request.app.state.receiving.unpacking if kind == PARQUET else nullcontext()
    async with _receiving(request, *_READERS, may_be_gzip=True) as body, unpacking:
        return await asyncio.to_thread(_READERS[kind], body)


def _read_batch(body: bytearray) -> BatchIn:
    return BatchIn.parse(read_batch(body, MAX_ITEMS))


def _read_lines(body: bytes | bytearray) -> BatchIn:
    """By the same reader, of the one object that the lines make; so the same batch is the same however it is sent."""
    settings, _, rest = bytes(body).partition(b"\n")
    settings, lines = settings.strip(), [line for line in rest.split(b"\n") if line.strip()]
    if not (settings.startswith(b"{") and settings.endswith(b"}")):
        raise RequestError(400, "bad_lines", "the first line must be a JSON object with the settings of the batch")
    head = settings[:-1].rstrip()
    comma = b"" if head == b"{" else b","
    value = read_batch(head + comma + b'"items":[' + b",".join(lines) + b"]}", MAX_ITEMS)
    if len(value["items"]) != len(lines):
        raise RequestError(400, "bad_lines", "each line after the first must be one JSON object, an item")
    return BatchIn.parse(value)


def _read_parquet(body: bytearray) -> BatchIn:
    return _read_lines(lines_of(body, BODY_BYTES, MAX_ITEMS, MAX_VALUES))


_READERS = {JSON: _read_batch, LINES: _read_lines, PARQUET: _read_parquet}


def documents(model: type[BaseModel], **more: dict[str, Any]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is read here, with further media types. The app adds the model to the
    components."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}, **more}}}


@dataclass
class Receiving:
    """What a server has in hand of bodies: one a process, on its event loop."""

    number: int = 0
    num_bytes: int = 0
    unpacking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(UNPACKED_AT_ONCE))


@asynccontextmanager
async def _receiving(request: Request, *media_types: str, may_be_gzip: bool = False) -> AsyncIterator[bytearray]:
    """The whole body. It counts as in hand until it is left, so that bodies together take bounded memory."""
    is_gzip = _check_head(request, media_types or (JSON,), may_be_gzip)
    receiving: Receiving = request.app.state.receiving
    if receiving.number >= MOST_AT_ONCE:
        raise RequestError(503, "busy", _BUSY, Retry_After="5", Connection="close")
    body = bytearray()
    receiving.number += 1
    try:
        async for chunk in _unzipped(_in_time(request)) if is_gzip else _in_time(request):
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


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_head(request: Request, media_types: tuple[str, ...], may_be_gzip: bool) -> bool:
    """Whether the body is gzipped."""
    # An exact type also means that no foreign web page can post here without asking first.
    if _media_type(request) not in media_types:
        raise RequestError(415, "content_type", f"the body must be sent as Content-Type: {' or '.join(media_types)}")
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding and not (may_be_gzip and encoding == "gzip"):
        taken = "with Content-Encoding: gzip or without one" if may_be_gzip else "without Content-Encoding"
        raise RequestError(415, "content_encoding", f"the body must be sent {taken}")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > BODY_BYTES:
        raise _too_large()
    return bool(encoding)


async def _unzipped(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Piece by piece, each small: who counts them stops a bomb at the first that is too much."""
    stream = zlib.decompressobj(wbits=31)
    async for chunk in chunks:
        while chunk:
            try:
                yield stream.decompress(chunk, _PIECE)
            except zlib.error:
                raise RequestError(400, "bad_gzip", "the body is no gzip, or damaged on its way") from None
            if stream.unused_data:
                raise RequestError(400, "bad_gzip", "something stands behind the end of the gzip")
            chunk = stream.unconsumed_tail
            await asyncio.sleep(0)  # others' turn
    if not stream.eof:
        raise RequestError(400, "bad_gzip", "the gzip breaks off")


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
