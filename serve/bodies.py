"""What people get back: batches and how far they are, their items, and what came of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from dail.synth.core.config import Frozen
from dail.synth.schema.kinds import ItemKinds
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Failure, ShardRef, UnitState
from dail.synth.view.traces import TraceSummary

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ItemStatus = Literal["queued", "running", "completed", "failed", "cancelled", "expired"]

_EXAMPLE_MODEL: dict[str, JsonValue] = {
    "name": "qwen3-8b",
    "revision": "b968826d9c46dd6066d109eabc6255188de91218",
    "tokenizer_hash": "sha256:aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "template_hash": "sha256:55a1f2bd1f0fbd2b0a9b3b0f1a3e5bfbfb6d3a4d1e3b0d8a0f7e5c1f4b2a9d10",
}


class RequestCounts(Frozen):
    """Items by state; the six states add up to `total`."""

    total: int
    queued: int = 0
    running: int = 0
    completed: int = Field(0, description="every sample has a trace, or was not needed")
    failed: int = Field(0, description="at least one sample failed; the others may have traces")
    cancelled: int = 0
    expired: int = 0


class UnitCounts(Frozen):
    """Units (item × sample) by state; the eight states add up to `total`."""

    total: int
    waiting: int = Field(0, description="drawn if earlier samples of the item are not enough")
    queued: int = 0
    leased: int = 0
    committed: int = 0
    skipped: int = Field(0, description="not needed: earlier samples of the item were enough")
    failed: int = 0
    cancelled: int = 0
    expired: int = 0


class Tokens(Frozen):
    total: int = Field(description="trace tokens of committed units and, so far, of running ones")
    attributed: int = Field(description="of these, whose writer is known")
    student: float = Field(description="of those, expected number that the student wrote")
    student_share: float | None = Field(description="student / attributed; null while no writer is known")


class ManifestRef(Frozen):
    key: str
    path: str = Field(description="the file on the server's disk, or its URL")
    digest: str


class WaitingFor(Frozen):
    """Why nothing happens with a batch that has units to draw."""

    reason: Literal["no_worker", "other_model"] = Field(
        description="no_worker: none asks for its model; other_model: those that ask for a model of that name have "
        "other files"
    )
    detail: str


class BatchOut(Frozen):
    """A batch and how far it is. Times are Unix seconds."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "batch_0c6f9b6f5b6e4c7f8d1f2a3b4c5d6e7f",
                "object": "batch",
                "status": "in_progress",
                "generation": 1,
                "model": _EXAMPLE_MODEL,
                "synthesis": Synthesis(samples_per_item=4, seed=7).model_dump(),
                "config_fingerprint": "sha256:4f5c…",
                "tenant": "topology",
                "run_label": None,
                "metadata": {"owner": "topology"},
                "item_kinds": {"by_answer": 1, "by_box": 0, "without_answer": 0, "proofs": 0, "without_waypoints": 0},
                "request_counts": {"total": 1, "queued": 0, "running": 1, "completed": 0, "failed": 0},
                "units": {"total": 4, "queued": 1, "leased": 2, "committed": 1},
                "tokens": {"total": 5120, "attributed": 5024, "student": 4710.0, "student_share": 0.9375},
                "tokens_per_s": 341.3,
                "shards": 1,
                "damaged_shards": 0,
                "waiting_for": None,
                "ending_error": None,
                "manifest": None,
                "created_at": 1795248000,
                "in_progress_at": 1795248002,
                "finalizing_at": None,
                "completed_at": None,
                "cancelling_at": None,
                "cancelled_at": None,
                "completion_window": "72h",
                "expires_at": 1795507200,
                "expired_at": None,
                "failed_at": None,
            }
        }
    )

    id: str
    object: Literal["batch"] = "batch"
    status: BatchStatus
    generation: int = Field(description="1, and one more with every retry; each has its own manifest")
    model: ModelIdentity
    synthesis: Synthesis
    config_fingerprint: str
    tenant: str = Field(description="whose it is: the tenant of the token that posted it, empty where it has none")
    run_label: str | None
    metadata: dict[str, str]
    item_kinds: ItemKinds
    request_counts: RequestCounts
    units: UnitCounts
    tokens: Tokens
    tokens_per_s: float = Field(description="over the batch's life, from its first lease")
    shards: int = Field(description="files that the committed traces are in")
    damaged_shards: int = Field(description="traces, of those read as results, whose bytes are gone or changed")
    waiting_for: WaitingFor | None = Field(description="why nothing happens with it; null while somebody could work")
    ending_error: str | None = Field(description="why every unit has ended and the batch has not")
    manifest: ManifestRef | None = Field(description="null until the batch ends, and if it ends without a shard")
    created_at: int
    in_progress_at: int | None = Field(description="when a worker took its first unit")
    finalizing_at: int | None
    completed_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    completion_window: str | None
    expires_at: int | None
    expired_at: int | None
    failed_at: int | None


class RetryIn(Frozen):
    items: Literal["failed"] | tuple[str, ...] = Field(
        description="`failed`: every item that ended without all its traces; or their ids"
    )


class BatchPage(Frozen):
    """Newest first. The next page starts `after` this one's `last_id`."""

    object: Literal["list"] = "list"
    data: tuple[BatchOut, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class SampleOut(Frozen):
    """One sample of an item: a unit."""

    sample: int
    unit_id: str
    status: UnitState
    leases: int = Field(description="how often a worker took it")
    tokens: int
    attributed_tokens: int
    student_tokens: float
    correct: bool | None = Field(description="whether its answer is right, where the batch draws until one is")
    error: Failure | None = Field(description="why it failed, or why it was tried again")


class ItemOut(Frozen):
    id: str
    object: Literal["batch.item"] = "batch.item"
    status: ItemStatus
    samples: tuple[SampleOut, ...]
    error: Failure | None = Field(None, description="why it could not be used at all, where the batch skips such items")


class ItemPage(Frozen):
    """In the order they were posted."""

    object: Literal["list"] = "list"
    data: tuple[ItemOut, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ShardPage(Frozen):
    """All committed shards; their keys are relative to `output_root`, a folder on the server's disk or a bucket."""

    object: Literal["list"] = "list"
    data: tuple[ShardRef, ...]
    output_root: str


class TracePage(Frozen):
    """Traces and failures of units that have ended, in the order of drawing. The next page starts `after` this one's
    `last_id`, which with a filter may be of a unit that is not in it."""

    object: Literal["list"] = "list"
    data: tuple[TraceSummary, ...]
    last_id: str | None
    has_more: bool


class Result(Frozen):
    """One line of the results: a trace, or why there is none."""

    item_id: str
    sample: int
    status: Literal["succeeded", "skipped", "failed", "cancelled", "expired"]
    error: Failure | None = None
    trace: dict[str, Any] | None = Field(None, description="the columns of a shard row (problem and solution too)")
