"""What the API hands a worker and what it gets back, over HTTP under /internal/v1.

    POST hello                     Hello → HelloReply, before an engine starts
    POST leases                    LeaseRequest → LeaseReply
    POST leases/heartbeat          Heartbeat, of all units that a worker holds → HeartbeatReply
    POST leases/{unit}/commit      Commit, 409 when fenced
    POST leases/{unit}/fail        Fail, 409 when fenced

A unit is one item × one sample. `epoch` counts how often it was leased; whoever holds an older epoch is fenced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from dail.synth.core.config import Frozen, canonical
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens

WIRE_VERSION = 2  # of what is described here; workers tell it, and another one is refused
BEATS_MOST = 1000  # units in one heartbeat
BEAT_TOKENS = 60_000  # of checkpoints in one; what a body may hold of values allows for more
CHECKPOINT_MOST = 4096  # tokens of one unit in one heartbeat


class Unit(Frozen):
    """One trace to make. API → worker."""

    unit_id: str
    batch_id: str
    item_id: str
    sample: int = Field(ge=0)
    epoch: int = Field(ge=0)
    item: ExpertSolution
    synthesis: Synthesis
    model: ModelIdentity
    prefix: Tokens = Field(default_factory=Tokens, description="what earlier attempts wrote of the trace")


class Hello(Frozen):
    """Who a worker is, so that what keeps it from working is said before anything is paid for. Worker → API."""

    worker: str = Field(min_length=1, max_length=256)
    wire: int
    tool_version: str = Field(max_length=64)
    schema_version: int = Field(description="of the shards it writes")
    model: ModelIdentity
    host: str = Field("", max_length=256)
    versions: dict[str, str] = Field(default_factory=dict, max_length=32, description="of packages there, by name")
    time: float = Field(description="Unix seconds, by the worker's clock")


class HelloReply(Frozen):
    """`time`: Unix seconds by the store's clock. `output_root` and `mark` as in a lease."""

    wire: int
    tool_version: str
    lease_s: float
    time: float
    output_root: str
    mark: str = ""


class LeaseRequest(Frozen):
    worker: str = Field(min_length=1, max_length=256)
    count: int = Field(ge=1, le=4096)
    model: ModelIdentity
    wire: int = Field(WIRE_VERSION, description="version of the protocol; a worker that does not tell it is too old")


class LeaseReply(Frozen):
    units: tuple[Unit, ...]
    lease_s: float = Field(description="a lease not renewed for this long is given to someone else")
    output_root: str = Field(description="place the shards go to, from the server's own settings")
    mark: str = Field("", description="what a worker reads there if it sees the same place; else it uploads")


class Beat(Frozen):
    """How far one unit is."""

    unit_id: str
    epoch: int
    tokens: int = Field(ge=0, description="trace tokens so far")
    attributed_tokens: int = Field(ge=0, description="of these, whose writer is known")
    student_tokens: float = Field(ge=0, description="of those, expected number that the student wrote")
    start: int = Field(0, ge=0, description="place in the trace of the checkpoint's first token")
    checkpoint: Tokens | None = Field(None, description="tokens of the trace that the next attempt could go on from")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.checkpoint is not None and len(self.checkpoint) > CHECKPOINT_MOST:
            raise ValueError(f"the checkpoint has {len(self.checkpoint)} tokens; at most {CHECKPOINT_MOST} are taken")
        return self


class Heartbeat(Frozen):
    """What a worker holds. Worker → API, one request for all of it, or a few where much was written."""

    worker: str = Field(min_length=1, max_length=256)
    beats: tuple[Beat, ...] = Field(max_length=BEATS_MOST)


class BeatReply(Frozen):
    """`known`: how many tokens of the trace are kept; the next checkpoint starts there. `fenced`: the lease is over."""

    unit_id: str
    epoch: int
    fenced: bool = False
    cancel: bool = False
    known: int = 0


class HeartbeatReply(Frozen):
    """In the order of the beats."""

    beats: tuple[BeatReply, ...]


def _is_zero(value: object) -> bool:
    return value == 0


class ShardRef(Frozen):
    """A unit's place in a shard, which holds the traces of several: where the file is, what it must be, which row.

    `key` is relative to the output root. `row` is left out where it is 0, so that manifests of shards with one trace
    are what they were before a shard could hold several, and keep their digests.
    """

    key: str
    row: int = Field(0, ge=0, exclude_if=_is_zero, description="the row group of the unit's trace in the file")
    rows: int = Field(ge=1)
    size_bytes: int = Field(ge=1)
    sha256: str
    unit_id: str
    item_id: str
    tokens: int = Field(ge=0)
    attributed_tokens: int = Field(ge=0, description="of these, whose writer is known")
    student_tokens: float = Field(ge=0, description="of those, expected number that the student wrote")


class Commit(Frozen):
    worker: str
    epoch: int
    shard: ShardRef
    correct: bool | None = Field(None, description="whether its answer is right; null where that is not asked for")


class Fail(Frozen):
    worker: str
    epoch: int
    code: str
    detail: str
    retryable: bool


class Failure(Frozen):
    """Why an item or unit has no trace."""

    code: str
    detail: str
    retryable: bool = False


WORKER_STOPPED = "worker_stopped"  # the code a worker fails with to hand a unit back
BLAMELESS = (WORKER_STOPPED, "engine_died")  # codes that say nothing of the unit, however often it fails with them

# waiting: drawn if the item's earlier samples are not enough; skipped: they were.
UnitState = Literal["waiting", "queued", "leased", "committed", "skipped", "failed", "cancelled", "expired"]


def unit_id(item: ExpertSolution, synthesis: Synthesis, model: ModelIdentity, sample: int) -> str:
    """32 hex digits that are the same on any machine for the same problem, solution, model, settings and sample, and
    the same that was dealt.

    The item's id, source and metadata do not count; nor do `samples_per_item` and `enough`, so asking for more samples
    later keeps the ones there are.
    """
    return unit_namer(synthesis, model)(item, sample)


def unit_namer(synthesis: Synthesis, model: ModelIdentity) -> Callable[[ExpertSolution, int], str]:
    """`unit_id` of many items, for which what they share is spelled once."""
    shared = canonical([synthesis.identity(), model.identity()])[1:-1]

    def name(item: ExpertSolution, sample: int) -> str:
        content = item_content(item)
        if item.wrong_answer is not None:
            content["wrong_answer"] = item.wrong_answer
        if item.dealt is not None:
            content["dealt"] = item_content(item.dealt)
        return hashlib.sha256(b"[%b,%b,%d]" % (canonical(content), shared, sample)).hexdigest()[:32]

    return name


def item_content(item: ExpertSolution) -> dict[str, JsonValue]:
    """What of an item shapes a trace, but for what it is given of others."""
    content: dict[str, JsonValue] = item.model_dump(mode="json", include={"problem", "solution", "answer", "kind"})
    return content | item.model_dump(mode="json", include={"waypoints", "privileged"}, exclude_none=True)


def unit_seed(unit: str) -> int:
    """The 63-bit seed of a unit's draws; `Synthesis.seed` is already part of the unit id."""
    return int.from_bytes(hashlib.sha256(b"draws" + unit.encode()).digest()[:8]) >> 1


def shard_key(batch_id: str, digest: str) -> str:
    """Where a shard goes, by its bytes: never the same for two, so nothing is ever overwritten."""
    return f"shards/{batch_id}/{digest[:16]}.parquet"
