"""Some traces of a manifest, token by token, for the report: who wrote each and what both roles gave it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dail.synth.core.files import Objects
from dail.synth.schema.manifest import Manifest, output_root, read_manifest
from dail.synth.schema.shards import TraceRow, decode_shard

NUM_TRACES = 12
NUM_TOKENS = 1500  # shown of one trace; a browser takes no more of many

Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class Token:
    """`student` is the probability that the student wrote it, none if that is unknown."""

    text: str
    student: float | None
    student_logprob: float | None
    privileged_logprob: float | None

    @property
    def shade(self) -> str:
        """The style class: s0 (privileged student) to s10 (student)."""
        return "unknown" if self.student is None else f"s{round(10 * self.student)}"

    @property
    def about(self) -> str:
        """What the pointer shows."""
        logprobs = f"student {_logprob(self.student_logprob)} · privileged {_logprob(self.privileged_logprob)}"
        if self.student is None:
            return f"{logprobs} · writer unknown"
        if self.student in (0.0, 1.0):
            return f"{logprobs} · written by the {'student' if self.student else 'privileged student'}"
        return f"{logprobs} · written by the student with probability {self.student:.2f}"


@dataclass(frozen=True)
class Trace:
    row: TraceRow
    tokens: list[Token]

    @property
    def num_hidden(self) -> int:
        return len(self.row.trace_ids) - len(self.tokens)


def some_traces(path: Path, decode: Decode) -> tuple[Manifest, list[Trace]]:
    """Traces from all over the manifest, in its order. Only their shards are read.

    Raises:
        DailError: the manifest or a shard cannot be used.
    """
    manifest = read_manifest(path)
    objects = Objects(output_root(path))
    step = max(1.0, len(manifest.shards) / NUM_TRACES)
    shards = [manifest.shards[int(place * step)] for place in range(min(NUM_TRACES, len(manifest.shards)))]
    rows = [
        row
        for shard in shards
        for row in decode_shard(objects.get(shard.key, size=shard.size_bytes, digest=shard.sha256), shard.key)
    ]
    return manifest, [_trace(row, decode) for row in rows[:NUM_TRACES]]


def _trace(row: TraceRow, decode: Decode) -> Trace:
    pieces = token_pieces(list(row.trace_ids[:NUM_TOKENS]), decode)
    columns = zip(pieces, row.student_prob, row.student_logprob, row.privileged_logprob, strict=False)
    return Trace(row, [Token(*column) for column in columns])


def token_pieces(ids: Sequence[int], decode: Decode) -> list[str]:
    """The text of each token; joined they are the decoded whole.

    A token may be some bytes of a character: its piece is empty, and the token that completes the character gets all
    of it. Each token is decoded behind its predecessors back to the last whole character but one, since some
    tokenizers drop a leading space.
    """
    text = decode(list(ids))
    pieces: list[str] = []
    start, read, place = 0, 0, 0
    for end in range(1, len(ids) + 1):
        known, grown = decode(list(ids[start:read])), decode(list(ids[start:end]))
        piece = grown[len(known) :] if grown.startswith(known) else ""
        if piece and text.startswith(piece, place):
            start, read, place = read, end, place + len(piece)
        else:
            piece = ""
        pieces.append(piece)
    if pieces:
        pieces[-1] += text[place:]
    return pieces


def _logprob(value: float | None) -> str:
    return "not computed" if value is None else f"{value:.3f} ({100 * math.exp(value):.3g} %)"
