"""Some traces of a manifest, token by token, for the report: who wrote each and what both roles gave it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dail.synth.method.token_texts import Decode, with_texts
from dail.synth.schema.manifest import Manifest, read_manifest, read_rows
from dail.synth.schema.shards import TraceRow

NUM_TRACES = 12
NUM_TOKENS = 1500  # shown of one trace; a browser takes no more of many


@dataclass(frozen=True)
class Token:
    """`student` is the probability that the student wrote it, none if that is unknown; `rejected`: what the student had
    proposed at this place, if that was refused."""

    text: str
    student: float | None
    student_logprob: float | None
    privileged_logprob: float | None
    rejected: str | None = None

    @property
    def shade(self) -> str:
        """The style class: s0 (privileged student) to s10 (student)."""
        return "unknown" if self.student is None else f"s{round(10 * self.student)}"

    @property
    def about(self) -> str:
        """What is shown of a token that is pointed at, tapped, or reached with the keyboard."""
        said = [
            f"“{shown(self.text)}”" if self.text else "part of a character",
            f"student {_logprob(self.student_logprob)}",
            f"privileged {_logprob(self.privileged_logprob)}",
            self._writer(),
        ]
        if self.rejected is not None:
            said.append(f"the student proposed “{shown(self.rejected)}”, which was refused")
        return " · ".join(said)

    def _writer(self) -> str:
        if self.student is None:
            return "writer unknown"
        if self.student in (0.0, 1.0):
            return f"written by the {'student' if self.student else 'privileged student'}"
        return f"written by the student with probability ≈ {self.student:.2f}"


@dataclass(frozen=True)
class Trace:
    row: TraceRow
    tokens: list[Token]

    @property
    def num_hidden(self) -> int:
        return len(self.row.trace_ids) - len(self.tokens)

    @property
    def num_rejected(self) -> int:
        return sum(token is not None for token in self.row.rejected_ids)

    @property
    def is_estimate(self) -> bool:
        """Whether who wrote it is known for some tokens as a probability alone, so that shares are expectations."""
        return any(share not in (None, 0.0, 1.0) for share in self.row.student_prob)


def some_traces(path: Path, decode: Decode) -> tuple[Manifest, list[Trace]]:
    """Traces from all over the manifest, in its order. Only their shards are read.

    Raises:
        DailError: the manifest or a shard cannot be used.
    """
    manifest = read_manifest(path)
    step = max(1.0, len(manifest.shards) / NUM_TRACES)
    shards = [manifest.shards[int(place * step)] for place in range(min(NUM_TRACES, len(manifest.shards)))]
    rows = read_rows(path, {shard.unit_id for shard in shards})
    return manifest, [_trace(row, decode) for row in islice(rows, NUM_TRACES)]


def _trace(row: TraceRow, decode: Decode) -> Trace:
    row = with_texts(row, decode)
    columns = zip(
        row.token_texts, row.student_prob, row.student_logprob, row.privileged_logprob, row.rejected_texts, strict=False
    )
    return Trace(row, [Token(*column) for column in islice(columns, NUM_TOKENS)])


def shown(text: str) -> str:
    """A piece of text inside a line: what has no ink gets some."""
    return text.replace("\n", "↵").replace("\t", "→") if text.strip(" ") else "␣" * len(text)


def _logprob(value: float | None) -> str:
    """With its probability, with as many digits as tell it from 0 and from 1: −0.0004 (99.96 %)."""
    if value is None:
        return "not computed"
    if math.isnan(value):
        return "not a number"
    if value in (math.inf, -math.inf):
        return "−∞ (0 %)" if value < 0 else "∞"
    return f"{_plain(value)} ({_percent(value)} %)"


def _percent(logprob: float) -> str:
    if logprob >= 0:
        return "100"
    if logprob < -700:
        return "< 1e−300"
    if logprob > -1e-13:
        return "> 99.99999999999"
    percent, short_of_all = 100 * math.exp(logprob), -100 * math.expm1(logprob)
    if percent < 50:
        return _plain(percent)
    return f"{percent:.{min(12, max(1, 1 - math.floor(math.log10(short_of_all))))}f}".rstrip("0").rstrip(".")


def _plain(value: float) -> str:
    """Three digits, without an exponent where that is readable, with a true minus, and no minus before 0."""
    if value == 0:
        return "0"
    digits = f"{value:.3g}"
    if "e" in digits and abs(value) > 1e-9:
        digits = f"{value:.{2 - math.floor(math.log10(abs(value)))}f}" if abs(value) < 1 else f"{value:.0f}"
    return digits.replace("-", "−")
