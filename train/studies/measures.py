"""What is measured of the traces of one value of tau: figures with 95 % intervals, by bootstrap over items."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from dail.synth.core.config import Frozen
from dail.synth.core.files import Objects
from dail.synth.method.selection import Outcome
from dail.synth.run.judging import GRADE_TIMEOUT_S, Judging, judged
from dail.synth.schema.shard_reader import ShardReader, by_file
from dail.synth.schema.units import ShardRef
from dail.train.evals.passk import LEVEL, Interval, bootstrap, resampled
from dail.train.signals import Counts, count_text

_COLUMNS = ["unit_id", "sample_index", "kind", "problem", "trace_text", "truncated", "engine"]
PER = 1000  # tokens, of which self-correction is counted


class Estimate(Frozen):
    """A figure and its 95 % interval; none where one item, or nothing, tells of no others."""

    value: float
    low: float | None
    high: float | None


class Figures(Frozen):
    """Of the traces of one value. `correct` is none without traces that could be judged, as proofs cannot.

    Shares are means over items of the share of an item's traces; a trace that was cut, or on which the grader was given
    up, is not correct. The others are quotients of sums: `student_share` of tokens whose writer is known, `markers` of
    self-correction in 1,000 tokens, `length` of a trace ÷ that of its expert solution, both in tokens.
    """

    traces: int
    tokens: int
    correct: Estimate | None
    judged: int
    given_up: int
    attributed: float = Field(description="share of the tokens whose writer is known")
    leak: Estimate
    student_share: Estimate | None
    markers: Estimate
    length: Estimate
    looping: Estimate
    cut: Estimate


@dataclass(frozen=True)
class Seen:
    """One trace as it is read here. `outcome`: none where it is a proof's."""

    item_id: str
    sample: int
    problem: str
    text: str
    outcome: Outcome | None
    counts: Counts
    shard: ShardRef
    engine: str

    @property
    def is_correct(self) -> bool:
        return self.outcome == "correct"

    @property
    def is_judged(self) -> bool:
        return self.outcome not in (None, "no_answer")


def see(root: Path, shards: Sequence[ShardRef], grader: str, on_seen: Callable[[int], None]) -> list[Seen]:
    """The traces of these shards, judged in child processes by the grader of their settings.

    Args:
        grader: a pinned reference.
        on_seen: told how many are judged.

    Raises:
        IntegrityError: a damaged shard.
        UsageError: the grader made a mistake.
    """
    outcomes: dict[str, Outcome | None] = {}
    for one in judged(Judging(root, grader, None, GRADE_TIMEOUT_S), shards):
        outcomes[one.unit_id] = one.outcome
        on_seen(len(outcomes))
    reader = ShardReader(Objects(root))
    seen = {shard.unit_id: _seen(reader, shard, outcomes[shard.unit_id]) for shard in by_file(shards)}
    return [seen[shard.unit_id] for shard in shards]


def _seen(reader: ShardReader, shard: ShardRef, outcome: Outcome | None) -> Seen:
    (row,) = reader.columns(shard, _COLUMNS)
    return Seen(
        shard.item_id,
        row["sample_index"],
        row["problem"],
        row["trace_text"],
        None if row["kind"] == "proof" else outcome,
        count_text(row["trace_text"], shard.tokens, problem=row["problem"], is_cut=row["truncated"]),
        shard,
        row["engine"],
    )


def correctness(traces: Iterable[Seen]) -> dict[str, float]:
    """By item, the share of its traces that are correct; without items of which none could be judged."""
    by_item: dict[str, list[bool]] = {}
    for one in traces:
        if one.is_judged:
            by_item.setdefault(one.item_id, []).append(one.is_correct)
    return {item: sum(verdicts) / len(verdicts) for item, verdicts in by_item.items()}


def measure(traces: Sequence[Seen], expert_tokens: Mapping[str, int], seed: int) -> Figures:
    """Figures of at least one trace.

    Args:
        expert_tokens: by item, the tokens of its expert solution as a trace.
        seed: of the bootstrap; one seed draws the same items of every value that has all items.
    """
    by_item: dict[str, list[Seen]] = {}
    for one in sorted(traces, key=lambda one: (one.item_id, one.sample)):
        by_item.setdefault(one.item_id, []).append(one)
    counts = [sum((one.counts for one in own), Counts()) for own in by_item.values()]
    tokens = [sum(one.shard.tokens for one in own) for own in by_item.values()]
    right = list(correctness(traces).values())
    length = _quotient(tokens, [len(own) * expert_tokens[item] for item, own in by_item.items()], seed)
    assert length is not None, "a solution has at least the token that ends it"

    def share(part: str) -> Estimate:
        return _estimate(bootstrap([getattr(one, part) / one.texts for one in counts], seed))

    return Figures(
        traces=len(traces),
        tokens=sum(tokens),
        correct=_estimate(bootstrap(right, seed)) if right else None,
        judged=sum(one.is_judged for one in traces),
        given_up=sum(one.outcome == "unknown" for one in traces),
        attributed=sum(one.shard.attributed_tokens for one in traces) / (sum(tokens) or 1),
        leak=share("mentioning"),
        student_share=_quotient(
            [sum(one.shard.student_tokens for one in own) for own in by_item.values()],
            [sum(one.shard.attributed_tokens for one in own) for own in by_item.values()],
            seed,
        ),
        markers=_rate([one.markers for one in counts], tokens, seed),
        length=length,
        looping=share("looping"),
        cut=share("cut"),
    )


def leak_interval(figures: Figures) -> Interval:
    leak = figures.leak
    return Interval(leak.value, 0.0 if leak.low is None else leak.low, 1.0 if leak.high is None else leak.high)


def _estimate(interval: Interval) -> Estimate:
    return Estimate(value=interval.mean, low=interval.low, high=interval.high)


def _quotient(parts: Sequence[float], wholes: Sequence[float], seed: int) -> Estimate | None:
    """Sum ÷ sum, resampled by item; none if there is nothing to divide by."""
    if not sum(wholes):
        return None
    import numpy as np

    value = sum(parts) / sum(wholes)
    if len(parts) == 1:
        return Estimate(value=value, low=None, high=None)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = resampled(parts, seed) / resampled(wholes, seed)
    low, high = np.quantile(draws[np.isfinite(draws)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high))


def _rate(marks: Sequence[int], tokens: Sequence[int], seed: int) -> Estimate:
    """Marks in `PER` tokens. Where none was seen, as many as would be missed with probability 2.5 % are the most."""
    found = _quotient([PER * one for one in marks], tokens, seed) or Estimate(value=0.0, low=None, high=None)
    if found.value == 0 and any(tokens):
        return Estimate(value=0.0, low=0.0, high=PER * -math.log((1 - LEVEL) / 2) / sum(tokens))
    return found
