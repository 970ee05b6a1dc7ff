"""The Parquet shard: the contract between synthesis and training. The worker writes it, the trainer reads it.

It holds traces of one batch, each a row group of its own, so that whoever wants one reads no other. Which of them count
is not said here: a unit that was taken from its worker leaves a row that no manifest names.

The trainer needs token ids only; it never renders text, so it cannot disagree with the rollout about a prompt.
"""

from __future__ import annotations

import datetime as dt
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from dail.synth.core.config import TOOL_VERSION, Frozen
from dail.synth.core.errors import IntegrityError
from dail.synth.schema.items import Kind
from dail.synth.schema.trace_tokens import count_attributed, count_student, student_share

SCHEMA_VERSION = 6  # a changed column raises it
READABLE = (5, 6)  # version 5 had no texts of tokens, and is read as having none
FAKE_ENGINE = "fake"  # in the column `engine`: what it gives tokens is made up

Int32 = Annotated[int, pa.int32()]
Float32 = Annotated[float, pa.float32()]
_KINDS = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    dt.datetime: pa.timestamp("us", tz="UTC"),
}


class TraceMessage(Frozen):
    """A message as other trainers read it: of any length, since a trace may be long, and as the model wrote it."""

    role: str
    content: str


class NamedContext(Frozen):
    """A further prompt that the trace is read behind, beside those of the three roles: one of `synthesis.contexts`."""

    name: str
    ids: tuple[Int32, ...]


class TraceRow(Frozen):
    """One trace with everything that made it. Its fields are the columns, in this order; `SCHEMA` follows from them."""

    # who and what
    unit_id: str
    batch_id: str
    item_id: str
    sample_index: Int32
    problem: str
    solution: str
    answer: str | None
    answer_found: str  # answer, box (the last one of the solution) or nowhere
    kind: Kind
    waypoints: tuple[str, ...]
    privileged: str | None  # what the privileged student was shown instead of the solution
    dropped: tuple[str, ...]  # what the solution, or the one dealt, lost because it was too long, in order
    shown: str = "solution"  # what the privileged student was shown: solution, answer, nothing or other_solution
    shown_share: float = 1.0  # of that text, in characters; `privileged` has what was shown of it
    waypoints_from: str = "own"  # whose waypoints the negative reference was told: own or other
    other_item: str | None = None  # the item that was dealt: whose solution or waypoints were taken
    other_solution: str | None = None  # its solution, as it was shown
    wrong_answer: str | None = None  # what the context wrong_hint says
    source: str | None
    license: str | None
    metadata: str  # JSON
    # what the trainer reads: three contexts, further ones by name, and one trace, as token ids
    student_prompt_ids: tuple[Int32, ...]
    privileged_prompt_ids: tuple[Int32, ...]
    negative_prompt_ids: tuple[Int32, ...]
    contexts: tuple[NamedContext, ...] = ()
    trace_ids: tuple[Int32, ...]
    # per trace token
    student_prob: tuple[Float32 | None, ...]  # that the student wrote it: 1, 0 privileged student, null unknown
    rejected_ids: tuple[Int32 | None, ...]  # the proposer's first proposal, where none was accepted
    student_logprob: tuple[Float32 | None, ...]  # natural log, temperature 1, nothing suppressed; null: not computed
    privileged_logprob: tuple[Float32 | None, ...]
    # for people and other trainers
    trace_text: str
    token_texts: tuple[str, ...] = ()  # per trace token, special ones too; of part of a character: empty. None: unknown
    rejected_texts: tuple[str | None, ...] = ()  # what `rejected_ids` would have said there
    prompt: tuple[TraceMessage, ...]
    completion: tuple[TraceMessage, ...]
    finish_reason: str  # stop or length
    truncated: bool
    # how it was made
    method: str
    strategy: str
    prompts: str  # these three as NAME, or NAME#DIGEST of what was brought along
    extractor: str
    acceptance: str
    tau: float
    acceptance_k: Int32
    temperature: float
    probability_space: str
    top_p: float
    top_k: Int32
    stop: tuple[str, ...]
    proposer: str = "student"  # the role that proposed, or privileged
    proposals: Int32 = 1  # how often it proposed at a position
    greedy_proposals: bool = False  # its likeliest tokens in their order, and not drawn ones
    suppressed_ids: tuple[Int32, ...] = ()  # tokens that no role could draw
    max_tokens: Int32
    thinking: bool | None
    template_args: str  # JSON
    date: str | None  # that the chat template printed
    opening: str
    drop_empty_thought: bool
    probe_hash: str  # sha256 of a fixed conversation as this model's chat template rendered it
    seed: int
    model_name: str
    model_revision: str
    student_revision: str | None  # of the student's own adapter or weights; null: the model's
    privileged_revision: str | None = None  # of the privileged student's adapter; null: the model's
    tokenizer_hash: str
    template_hash: str
    config_fingerprint: str
    engine: str  # with its version and the type it computed in, as "vllm 0.32.0 bfloat16"
    tool_version: str = TOOL_VERSION
    created_at: dt.datetime

    @property
    def student_share(self) -> float | None:
        """Expected share of the tokens that the student wrote, of those whose writer is known; none if none is."""
        return student_share(count_student(self.student_prob), count_attributed(self.student_prob))


def _columns(model: type[Frozen]) -> list[pa.Field]:
    hints = get_type_hints(model, include_extras=True)
    return [_column(name, hints[name]) for name in model.model_fields]


def _column(name: str, hint: Any) -> pa.Field:
    """A field as Arrow has it: `int | None` is nullable, `Annotated[int, kind]` of that kind, a tuple a list."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (hint,) = (option for option in options if option is not NoneType)
    return pa.field(name, _kind(hint), nullable=NoneType in options)


def _kind(hint: Any) -> pa.DataType:
    origin = get_origin(hint)
    if origin is Annotated:
        return get_args(hint)[1]
    if origin is tuple:
        element = get_args(hint)[0]
        # messages keep Arrow's own element, "item" and nullable, as they have had it since version 1
        return pa.list_(_kind(element) if element is TraceMessage else _column("element", element))
    if origin is Literal:
        return pa.string()
    return pa.struct(_columns(hint)) if issubclass(hint, Frozen) else _KINDS[hint]


SCHEMA = pa.schema(_columns(TraceRow), metadata={"dail.schema_version": str(SCHEMA_VERSION)})
_NEW = ("token_texts", "rejected_texts")
_SCHEMA_5 = pa.schema([column for column in SCHEMA if column.name not in _NEW])


class ShardEncoder:
    """A Parquet file with page checksums that grows in memory, since it is hashed before it is put."""

    def __init__(self) -> None:
        self._taken = _Taken()
        # nobody looks for rows by the least and greatest value of a column, and of one row the two were most of a short
        # trace's bytes; nor does a dictionary pay: ids and log-probabilities of 16,000 tokens are larger by a fifth
        self._writer = pq.ParquetWriter(
            self._taken, SCHEMA, compression="zstd", write_page_checksum=True, write_statistics=False,
            use_dictionary=False,
        )  # fmt: skip

    def add(self, row: TraceRow) -> int:
        """Writes a row group of one trace; says how many bytes there are now, without the footer."""
        self.add_table(pa.Table.from_pylist([row.model_dump()], schema=SCHEMA))
        return self._taken.tell()

    def add_table(self, table: pa.Table) -> None:
        """Writes a row group."""
        self._writer.write_table(table)

    def take(self) -> bytes:
        """What was written since the last time, for one who passes the file on as it grows."""
        return self._taken.take()

    def end(self) -> bytes:
        """The rest, with the footer; all of it where nothing was taken."""
        self._writer.close()
        return self.take()


class _Taken(io.RawIOBase):
    """A file that is appended to, and whose beginning is taken away; places in it go on counting."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        self._size += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def encode_shard(rows: Sequence[TraceRow]) -> bytes:
    """A shard of these traces, in this order."""
    encoder = ShardEncoder()
    for row in rows:
        encoder.add(row)
    return encoder.end()


class ShardFile:
    """A shard's bytes, read a row group at a time; `name` is used in errors.

    Raises:
        IntegrityError: not Parquet, another schema version or other columns; from each method too: no such row group,
            or rows that break the format.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name, self.size_bytes = name, len(data)
        self._one_at_a_time = threading.Lock()
        with self._read():
            # a file, or a buffer of Python's, would be read by one of Arrow's own threads (26.0), which abort a process
            # that ends soon after they began, on a busy machine one in five
            self._file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            self._is_old = _check_schema(self._file.schema_arrow, name) != SCHEMA_VERSION

    @property
    def num_groups(self) -> int:
        return int(self._file.num_row_groups)

    def rows(self, group: int) -> list[TraceRow]:
        """The traces of a row group; of a shard as this build writes it, one."""
        found = self.columns(group, None)
        try:
            return [TraceRow.model_validate(row) for row in found]
        except ValueError as error:
            raise IntegrityError(f"shard {self.name} breaks the format: {error}; rebuild it") from None

    def columns(self, group: int, names: list[str] | None) -> list[dict[str, Any]]:
        """Some columns of a row group, row by row, without reading the others."""
        return self.table(group, names).to_pylist()

    def table(self, group: int, names: list[str] | None = None) -> pa.Table:
        if group >= self.num_groups:
            raise IntegrityError(
                f"shard {self.name} holds other rows than is said: row group {group} of {self.num_groups}; rebuild it"
            )
        with self._one_at_a_time, self._read():
            found = self._file.read_row_group(group, columns=names, use_threads=False)
            return _as_now(found, names) if self._is_old else found

    @contextmanager
    def _read(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
            raise IntegrityError(
                f"shard {self.name} is not readable Parquet: {error}; restore it or rebuild it"
            ) from None


def decode_shard(data: bytes, name: str) -> list[TraceRow]:
    """All rows of a shard, also of those that do not count. Raises IntegrityError as `ShardFile`."""
    file = ShardFile(data, name)
    return [row for group in range(file.num_groups) for row in file.rows(group)]


def _check_schema(schema: Any, name: str) -> int:
    """The version that the shard is of. Raises IntegrityError: none that is read, or other columns than it has."""
    got = (schema.metadata or {}).get(b"dail.schema_version", b"none").decode()
    if got not in map(str, READABLE):
        raise IntegrityError(
            f"shard {name}: schema version {got}, this build reads {readable()}; draw the traces again, or "
            f"read them with the release of dail that wrote them"
        )
    wanted = SCHEMA if got == str(SCHEMA_VERSION) else _SCHEMA_5
    if not schema.equals(wanted, check_metadata=False):
        wrong = sorted({f.name for f in schema} ^ {f.name for f in wanted}) or "column types"
        raise IntegrityError(f"shard {name} does not have the columns of schema version {got}: {wrong}")
    return int(got)


def readable() -> str:
    """The schema versions that this build reads, for an error."""
    return " and ".join(map(str, READABLE))


def _as_now(table: pa.Table, names: list[str] | None) -> pa.Table:
    """Rows of version 5 with the columns that came since, which are empty."""
    wanted = SCHEMA.names if names is None else names
    for name in (name for name in wanted if name in _NEW):
        column = SCHEMA.field(name)
        table = table.append_column(column, pa.array([[]] * table.num_rows, column.type))
    return table.select(wanted).replace_schema_metadata(SCHEMA.metadata)
