"""`TraceView`: what people are shown of a trace, made of its row; `TraceSummary`: the same in a line.

    row ─▶ viewed(row) ─▶ TraceView ─▶ JSON ─▶ static/viewer.js
               └───────▶ TraceSummary: which of FILTERS it falls under

Places in texts count UTF-16 units, as a browser does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from dail.synth.core.config import Frozen
from dail.synth.schema.shards import TraceRow
from dail.synth.schema.trace_tokens import count_attributed, count_student, student_share
from dail.synth.schema.units import Failure
from dail.synth.view.places import Span, apart, cited_places, places_of

Outcome = Literal["correct", "wrong", "cut", "unknown", "no_answer"]

LOW_SHARE = 0.5  # of a student who wrote less, a trace is another's: the paper's traces have 0.8 and more
_MOST_WAYPOINTS = 200  # that are looked for in one trace


class TraceSummary(Frozen):
    """One trace, or an attempt that ended without one: then `error` says why, and there is nothing to read."""

    unit_id: str
    item_id: str
    sample: int | None = None
    kind: str = "verifiable"
    tokens: int = 0
    attributed_tokens: int = 0
    student_tokens: float = 0.0
    student_share: float | None = Field(None, description="of the tokens whose writer is known; null if none is")
    disagreements: int = Field(0, description="tokens that the student did not write, or that replaced a proposal")
    finish_reason: str = ""
    truncated: bool = False
    cites: int = Field(0, description="phrases that give away that a solution, an answer or a hint was shown")
    verdict: Outcome | None = Field(None, description="of its answer; null where nobody has judged it")
    error: Failure | None = None


class TraceView(Frozen):
    """`texts` and the lists beside it have an entry a token; they are empty where the shard does not know the texts of
    its tokens, and `no_tokens` says why. A log-probability is null where none was computed."""

    summary: TraceSummary
    problem: str
    solution: str
    answer: str | None
    waypoints: tuple[str, ...]
    shown: str
    method: str
    model_name: str
    engine: str
    text: str
    solution_marks: tuple[Span, ...] = Field(description="where its waypoints stand, in UTF-16 units")
    trace_marks: tuple[Span, ...]
    cited: tuple[Span, ...] = Field(description="where the trace cites what it was shown")
    texts: tuple[str, ...] = ()
    student_prob: tuple[float | None, ...] = ()
    student_logprob: tuple[float | None, ...] = ()
    privileged_logprob: tuple[float | None, ...] = ()
    rejected: dict[int, str] = Field(default_factory=dict, description="by place, the proposal that was refused")
    no_tokens: str | None = None


SUMMARY_COLUMNS = (
    "unit_id", "item_id", "sample_index", "kind", "problem", "trace_text", "student_prob", "rejected_ids",
    "finish_reason", "truncated",
)  # fmt: skip


def summarised(row: Mapping[str, Any], verdict: Outcome | None = None) -> TraceSummary:
    """Of a row's SUMMARY_COLUMNS, so that a list need not read the others."""
    student_tokens, attributed = count_student(row["student_prob"]), count_attributed(row["student_prob"])
    return TraceSummary(
        unit_id=row["unit_id"],
        item_id=row["item_id"],
        sample=row["sample_index"],
        kind=row["kind"],
        tokens=len(row["student_prob"]),
        attributed_tokens=attributed,
        student_tokens=student_tokens,
        student_share=student_share(student_tokens, attributed),
        disagreements=sum(
            refused is not None or (share is not None and share < 0.5)
            for refused, share in zip(row["rejected_ids"], row["student_prob"], strict=True)
        ),
        finish_reason=row["finish_reason"],
        truncated=row["truncated"],
        cites=len(cited_places(row["trace_text"], row["problem"])),
        verdict=verdict,
    )


def summary_of(row: TraceRow, verdict: Outcome | None = None) -> TraceSummary:
    return summarised({name: getattr(row, name) for name in SUMMARY_COLUMNS}, verdict)


def viewed(row: TraceRow, verdict: Outcome | None = None) -> TraceView:
    """Of a shard that knows no texts of tokens, the trace as one text."""
    text = "".join(row.token_texts) or row.trace_text
    has_tokens = len(row.token_texts) == len(row.trace_ids)
    tokens = {
        "texts": row.token_texts,
        "student_prob": tuple(map(_short, row.student_prob)),
        "student_logprob": tuple(map(_short, row.student_logprob)),
        "privileged_logprob": tuple(map(_short, row.privileged_logprob)),
        "rejected": {place: one for place, one in enumerate(row.rejected_texts) if one is not None},
    }
    return TraceView(
        summary=summary_of(row, verdict),
        problem=row.problem,
        solution=row.solution,
        answer=row.answer,
        waypoints=row.waypoints,
        shown=row.shown,
        method=row.method,
        model_name=row.model_name,
        engine=row.engine,
        text="" if has_tokens else text,
        solution_marks=_marks(row.waypoints, row.solution),
        trace_marks=_marks(row.waypoints, text),
        cited=_in_utf16(text, cited_places(text, row.problem)),
        **(tokens if has_tokens else {}),
        no_tokens=None
        if has_tokens
        else "this shard does not know the texts of its tokens; `dail inspect --model "
        "FOLDER` reads them with the model's tokenizer",
    )


def _marks(waypoints: Sequence[str], text: str) -> tuple[Span, ...]:
    inked = [one for one in dict.fromkeys(waypoints) if one.strip()][:_MOST_WAYPOINTS]
    return _in_utf16(text, apart([span for one in inked for span in places_of(one, text)]))


def _in_utf16(text: str, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Places in characters, in order and apart → in UTF-16 units, of which a letter beyond U+FFFF takes two."""
    if text.isascii():
        return tuple(spans)
    found, read, units = [], 0, 0
    for place in (place for span in spans for place in span):
        units += (place - read) + sum(one > "\uffff" for one in text[read:place])
        read = place
        found.append(units)
    return tuple(zip(found[::2], found[1::2], strict=True))


def _short(value: float | None) -> float | None:
    """Six digits, which is what float32 has."""
    return None if value is None else float(f"{value:.6g}")


Filter = Literal["failed", "cut", "leaky", "wrong", "low-student"]
FILTERS: dict[str, Callable[[TraceSummary], bool]] = {
    "failed": lambda one: one.error is not None,
    "cut": lambda one: one.truncated,
    "leaky": lambda one: one.cites > 0,
    "wrong": lambda one: one.verdict == "wrong",
    "low-student": lambda one: one.student_share is not None and one.student_share < LOW_SHARE,
}


def inked(text: str) -> str:
    """With a name for each character that steers a terminal or has no ink, but for line breaks and spaces.

    >>> inked(chr(27) + "[31m" + chr(0x202E) + "a")
    '⟨U+001B⟩[31m⟨U+202E⟩a'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else f"⟨U+{ord(one):04X}⟩" for one in text)
