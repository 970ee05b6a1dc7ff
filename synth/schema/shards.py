"""The Parquet shard: the contract between synthesis and training. The worker writes it, the trainer reads it.

The trainer needs token ids only; it never renders text, so it cannot disagree with the rollout about a prompt.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dail.synth.core.config import TOOL_VERSION, Frozen
from dail.synth.core.errors import IntegrityError
from dail.synth.schema.items import Kind

SCHEMA_VERSION = 2
_IDS = pa.list_(pa.field("element", pa.int32(), nullable=False))
_PER_TOKEN = pa.list_(pa.field("element", pa.float32()))
_MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string(), False), pa.field("content", pa.string(), False)]))
_OPTIONAL = ("answer", "thinking", "source", "license", "student_revision")

SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=name in _OPTIONAL)
        for name, kind in [
            # who and what
            ("unit_id", pa.string()),
            ("batch_id", pa.string()),
            ("item_id", pa.string()),
            ("sample_index", pa.int32()),
            ("problem", pa.string()),
            ("solution", pa.string()),
            ("answer", pa.string()),
            ("kind", pa.string()),
            ("waypoints", pa.list_(pa.field("element", pa.string(), False))),
            ("source", pa.string()),
            ("license", pa.string()),
            ("metadata", pa.string()),  # JSON
            # what the trainer reads: three contexts and one trace, as token ids
            ("student_prompt_ids", _IDS),
            ("privileged_prompt_ids", _IDS),
            ("negative_prompt_ids", _IDS),
            ("trace_ids", _IDS),
            # per trace token
            ("trace_source", _PER_TOKEN),  # probability that the student wrote it: 1, 0 privileged, null unknown
            ("rejected_ids", pa.list_(pa.field("element", pa.int32()))),  # the student's proposal that did not stand
            ("student_logprob", _PER_TOKEN),  # natural log, temperature 1; null where it was not computed
            ("privileged_logprob", _PER_TOKEN),
            # for people and other trainers
            ("trace_text", pa.string()),
            ("prompt", _MESSAGES),
            ("completion", _MESSAGES),
            ("finish_reason", pa.string()),  # stop or length
            ("truncated", pa.bool_()),
            # how it was made
            ("method", pa.string()),
            ("strategy", pa.string()),
            ("acceptance", pa.string()),
            ("tau", pa.float64()),
            ("acceptance_k", pa.int32()),
            ("temperature", pa.float64()),
            ("probability_space", pa.string()),
            ("top_p", pa.float64()),
            ("top_k", pa.int32()),
            ("stop", pa.list_(pa.field("element", pa.string(), False))),
            ("max_tokens", pa.int32()),
            ("thinking", pa.bool_()),
            ("seed", pa.int64()),
            ("model_name", pa.string()),
            ("model_revision", pa.string()),
            ("student_revision", pa.string()),  # of the student's own adapter or weights; null: the model's
            ("tokenizer_hash", pa.string()),
            ("template_hash", pa.string()),
            ("config_fingerprint", pa.string()),
            ("engine", pa.string()),
            ("tool_version", pa.string()),
            ("created_at", pa.timestamp("us", tz="UTC")),
        ]
    ],
    metadata={"dail.schema_version": str(SCHEMA_VERSION)},
)


class TraceMessage(Frozen):
    """A message as other trainers read it: of any length, since a trace may be long, and as the model wrote it."""

    role: str
    content: str


class TraceRow(Frozen):
    """One trace with everything that made it. Field for field the columns of `SCHEMA`."""

    unit_id: str
    batch_id: str
    item_id: str
    sample_index: int
    problem: str
    solution: str
    answer: str | None
    kind: Kind
    waypoints: tuple[str, ...]
    source: str | None
    license: str | None
    metadata: str
    student_prompt_ids: tuple[int, ...]
    privileged_prompt_ids: tuple[int, ...]
    negative_prompt_ids: tuple[int, ...]
    trace_ids: tuple[int, ...]
    trace_source: tuple[float | None, ...]
    rejected_ids: tuple[int | None, ...]
    student_logprob: tuple[float | None, ...]
    privileged_logprob: tuple[float | None, ...]
    trace_text: str
    prompt: tuple[TraceMessage, ...]
    completion: tuple[TraceMessage, ...]
    finish_reason: str
    truncated: bool
    method: str
    strategy: str
    acceptance: str
    tau: float
    acceptance_k: int
    temperature: float
    probability_space: str
    top_p: float
    top_k: int
    stop: tuple[str, ...]
    max_tokens: int
    thinking: bool | None
    seed: int
    model_name: str
    model_revision: str
    student_revision: str | None
    tokenizer_hash: str
    template_hash: str
    config_fingerprint: str
    engine: str
    tool_version: str = TOOL_VERSION
    created_at: dt.datetime


def encode_shard(rows: Sequence[TraceRow]) -> bytes:
    """The rows as one Parquet file with page checksums; whole in memory, since it is hashed before it is put."""
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def decode_shard(data: bytes, name: str) -> list[TraceRow]:
    """The rows of a shard; `name` is used in errors.

    Raises:
        IntegrityError: not Parquet, another schema version, other columns, or rows that break the format.
    """
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        _check_schema(table.schema, name)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        raise IntegrityError(f"shard {name} is not readable Parquet: {error}; restore it or rebuild it") from None
    try:
        return [TraceRow.model_validate(row) for row in table.to_pylist()]
    except ValueError as error:
        raise IntegrityError(f"shard {name} breaks the format: {error}; rebuild it") from None


def _check_schema(schema: Any, name: str) -> None:
    got = (schema.metadata or {}).get(b"dail.schema_version", b"none").decode()
    if got != str(SCHEMA_VERSION):
        raise IntegrityError(
            f"shard {name}: schema version {got}, this build reads {SCHEMA_VERSION}; upgrade dail or rebuild the shard"
        )
    if not schema.equals(SCHEMA, check_metadata=False):
        wrong = sorted({f.name for f in schema} ^ {f.name for f in SCHEMA}) or "column types"
        raise IntegrityError(f"shard {name} does not have the columns of schema version {SCHEMA_VERSION}: {wrong}")
