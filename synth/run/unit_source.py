"""Where units come from and where their ends are told: the API over HTTP, or a local file (synth/run/local.py)."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import httpx
from pydantic import ValidationError

from dail.synth.core.config import TOOL_VERSION, Frozen
from dail.synth.core.errors import ApiError, DailError, ObjectExists, describe
from dail.synth.core.files import sha256
from dail.synth.core.http import PatientClient
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import SCHEMA_VERSION
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import (
    BEAT_TOKENS,
    BEATS_MOST,
    WIRE_VERSION,
    Beat,
    BeatReply,
    Commit,
    Fail,
    Failure,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    LeaseReply,
    LeaseRequest,
    ShardRef,
    Unit,
)

_CLOCK_S = 60.0
_log = logging.getLogger(__name__)
_DROPPED = (404, 409, 410)  # fenced, or the batch was deleted

Reply = TypeVar("Reply", bound=Frozen)
_Told = tuple[Beat, "asyncio.Future[BeatReply]"]


class Fenced(DailError):
    """The unit is no longer ours: its lease ran out or its batch is gone. Drop it and go on."""

    code = "fenced"


class Progress(NamedTuple):
    """How far a unit is, and what the source does not know yet of its trace: the tokens from place `start` on."""

    tokens: int
    attributed_tokens: int
    student_tokens: float
    start: int
    checkpoint: Tokens | None


class Standing(NamedTuple):
    """How far a source is. `figures` are shown behind the bar."""

    done: int
    total: int
    figures: dict[str, object]


class UnitSource(Protocol):
    """Raises from `heartbeat`, `upload`, `commit` and `fail`: Fenced.

    From all: ApiError, StorageError, when it is no use.
    """

    async def present(self) -> None:
        """Says that a worker is there whose engine is not ready yet."""
        ...

    async def lease(self, count: int) -> LeaseReply:
        """Up to `count` units, none if there is no work now."""
        ...

    async def heartbeat(self, unit: Unit, progress: Progress) -> BeatReply:
        """Renews the lease, and keeps what is told of the trace."""
        ...

    async def upload(self, unit: Unit, key: str, data: bytes) -> None:
        """Puts a shard where the source reads it. Raises StorageError if it is refused for now."""
        ...

    async def commit(self, unit: Unit, shard: ShardRef, correct: bool | None = None, rows: int | None = None) -> None:
        """Makes a shard that is already stored the unit's result.

        Args:
            correct: where the batch stops by verdicts.
            rows: what the trace took of the engines (`Rollout.rows`), where one attempt drew all of it.
        """
        ...

    async def fail(self, unit: Unit, failure: Failure) -> None: ...

    def finished(self) -> bool:
        """No unit will ever come again."""
        ...

    def standing(self) -> Standing: ...


async def greet(http: httpx.AsyncClient, worker: str, model: ModelIdentity, versions: dict[str, str]) -> HelloReply:
    """Asks an API whether a worker could work there, before anything is paid for; waits for one that is away.

    Raises:
        ApiError: it could not: token, model, protocol or shards are not the API's; says which.
    """
    hello = Hello(
        worker=worker,
        wire=WIRE_VERSION,
        tool_version=TOOL_VERSION,
        schema_version=SCHEMA_VERSION,
        model=model,
        host=socket.gethostname(),
        versions=versions,
        time=time.time(),
    )
    async with http:
        data = await PatientClient(http).post("hello", hello.model_dump(mode="json"))
    reply = _parse(HelloReply, data)
    if abs(off := time.time() - reply.time) > _CLOCK_S:
        _log.warning(
            f"this machine's clock is {abs(off):.0f} s {'before' if off > 0 else 'behind'} the API's: leases do not "
            f"mind, but times in shards and logs will not agree"
        )
    return reply


class HttpSource:
    """Leases from an API. Calls are repeated while the API is away; every call is safe to repeat."""

    def __init__(self, client: httpx.AsyncClient, worker: str, model: ModelIdentity) -> None:
        self._client, self._worker, self._model = PatientClient(client), worker, model
        self._num_leased = self._num_ended = 0
        self._beats: list[_Told] = []
        self._telling: asyncio.Task[None] | None = None

    async def present(self) -> None:
        await self._client.post("leases/heartbeat", Heartbeat(worker=self._worker, beats=()).model_dump(mode="json"))

    async def lease(self, count: int) -> LeaseReply:
        request = LeaseRequest(worker=self._worker, count=min(count, 4096), model=self._model)
        reply = _parse(LeaseReply, await self._client.post("leases", request.model_dump(mode="json")))
        self._num_leased += len(reply.units)
        return reply

    async def heartbeat(self, unit: Unit, progress: Progress) -> BeatReply:
        """Those that are told in one turn of the loop go in one request."""
        beat = Beat(
            unit_id=unit.unit_id,
            epoch=unit.epoch,
            tokens=progress.tokens,
            attributed_tokens=progress.attributed_tokens,
            student_tokens=progress.student_tokens,
            start=progress.start,
            checkpoint=progress.checkpoint,
        )
        told: asyncio.Future[BeatReply] = asyncio.get_running_loop().create_future()
        self._beats.append((beat, told))
        if len(self._beats) == 1:
            self._telling = asyncio.create_task(self._tell())
        reply = await told
        if reply.fenced:
            raise Fenced("the lease is over: the unit has ended or went to another worker")
        return reply

    async def _tell(self) -> None:
        beats, self._beats = self._beats, []
        try:
            for some in _packed(beats):
                body = Heartbeat(worker=self._worker, beats=tuple(beat for beat, _ in some))
                data = await self._client.post("leases/heartbeat", body.model_dump(mode="json"))
                for (_, told), reply in zip(some, _parse(HeartbeatReply, data).beats, strict=True):
                    if not told.done():  # whoever asked may be gone
                        told.set_result(reply)
        except Exception as error:
            for _, told in beats:
                if not told.done():
                    told.set_exception(error)
        finally:
            for _, told in beats:
                told.cancel()  # where this was cancelled itself

    async def upload(self, unit: Unit, key: str, data: bytes) -> None:
        try:
            await self._client.put(f"objects/{key}", data, {"x-dail-sha256": sha256(data)})
        except ApiError as error:
            if error.status in (404, 410):  # its batch was deleted
                raise Fenced(str(error)) from None
            if error.status == 409:
                raise ObjectExists(str(error)) from None
            raise

    async def commit(self, unit: Unit, shard: ShardRef, correct: bool | None = None, rows: int | None = None) -> None:
        self._num_ended += 1
        body = Commit(worker=self._worker, epoch=unit.epoch, shard=shard, correct=correct)
        await self._post_for(unit, "commit", body)

    async def fail(self, unit: Unit, failure: Failure) -> None:
        self._num_ended += 1
        body = Fail(worker=self._worker, epoch=unit.epoch, **failure.model_dump())
        await self._post_for(unit, "fail", body)

    def finished(self) -> bool:
        return False

    def standing(self) -> Standing:
        return Standing(self._num_ended, self._num_leased, {})

    async def _post_for(self, unit: Unit, verb: str, body: Frozen) -> bytes:
        try:
            return await self._client.post(f"leases/{unit.unit_id}/{verb}", body.model_dump(mode="json"))
        except ApiError as error:
            if error.status in _DROPPED:
                raise Fenced(str(error)) from None
            raise


def _packed(beats: Sequence[_Told]) -> Iterator[list[_Told]]:
    """As few requests as may hold them."""
    some: list[_Told] = []
    num_tokens = 0
    for beat, told in beats:
        tokens = len(beat.checkpoint or ())
        if some and (len(some) == BEATS_MOST or num_tokens + tokens > BEAT_TOKENS):
            yield some
            some, num_tokens = [], 0
        some.append((beat, told))
        num_tokens += tokens
    if some:
        yield some


def _parse(kind: type[Reply], data: bytes) -> Reply:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise ApiError(f"the API's reply is no {kind.__name__}: {describe(error)}; are API and worker alike?") from None
