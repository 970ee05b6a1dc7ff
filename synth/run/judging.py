"""Traces that are drawn already → whether their answers are right, and what score they have.

By the grader of evaluation, in child processes, a few at a time on this machine or, where RAY_ADDRESS names a cluster
and there are many, in tasks there.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import FAULTS
from dail.synth.core.files import Objects
from dail.synth.method.grading import Grader
from dail.synth.method.selection import BUILTIN, SCORES, Candidate, Outcome, Score
from dail.synth.method.verdicts import COLUMNS, MOST, Judgement, Said, judge, outcome_of
from dail.synth.schema.manifest import output_root, read_manifest
from dail.synth.schema.shard_reader import ShardReader, by_file
from dail.synth.schema.shards import TraceRow
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import student_share
from dail.synth.schema.units import ShardRef

GRADE_TIMEOUT_S = 5.0  # of one trace
_A_PIECE = 64  # shards that one thread or task takes at a time
_COLUMNS = ["unit_id", "sample_index", "trace_text", "completion", "answer", "truncated"]
_MOST_CHILDREN = 16  # each holds sympy, 100 MB


@dataclass(frozen=True)
class Judging:
    """What is asked of each trace. `grader` and `by` are pinned references; none: it is not asked for."""

    root: Path
    grader: str | None
    by: str | None
    timeout_s: float

    def graders(self) -> Callable[[], ExitStack | Grader]:
        return ExitStack if self.grader is None else lambda: Grader(self.timeout_s, str(self.grader))


class Verdicts:
    """Whether a trace is correct, for batches that stop by verdicts: one at a time, beside the event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._children = ExitStack()
        self._graders: dict[str, Grader] = {}

    async def of(self, row: TraceRow, synthesis: Synthesis) -> bool | None:
        """None where the batch does not ask, or nobody can say.

        Raises:
            UsageError: the grader cannot be loaded, or made a mistake.
        """
        if not synthesis.stops_by_verdict or row.answer is None:
            return None
        said = Said(row.trace_text, row.completion[0].content, row.answer, row.truncated)
        async with self._turn:
            return await asyncio.to_thread(self._outcome, said, synthesis.grader) == "correct"

    def _outcome(self, said: Said, grader: str) -> Outcome:
        if grader not in self._graders:
            self._graders[grader] = self._children.enter_context(Grader(GRADE_TIMEOUT_S, grader))
        return outcome_of(said, self._graders[grader])

    def close(self) -> None:
        self._children.close()


def judged_run(manifest: Path) -> Judgement:
    """Some traces from all over a manifest, by the grader that its settings name.

    Raises:
        DailError, ModuleNotFoundError: the grader cannot be used, or a shard is damaged.
    """
    run, reader = read_manifest(manifest), ShardReader(Objects(output_root(manifest)))
    step = max(1.0, len(run.shards) / MOST)
    some = by_file(run.shards[int(place * step)] for place in range(min(MOST, len(run.shards))))
    share = student_share(
        sum(shard.student_tokens for shard in run.shards), sum(shard.attributed_tokens for shard in run.shards)
    )
    rows = (row for shard in some for row in reader.columns(shard, COLUMNS))
    return judge(rows, len(run.shards), share, run.synthesis.grader)


def judged(asked: Judging, shards: Sequence[ShardRef]) -> Iterator[Candidate]:
    """The traces of these shards, in no particular order.

    Raises:
        IntegrityError: a damaged shard.
        UsageError: grader or score cannot be loaded, or made a mistake; names the trace.
    """
    score_of(asked.by)  # whatever is wrong with it is said before a child starts
    ordered = by_file(shards)
    pieces = [ordered[start : start + _A_PIECE] for start in range(0, len(shards), _A_PIECE)]
    spread = _on_threads if len(pieces) == 1 or not os.environ.get("RAY_ADDRESS") else _on_cluster
    for found in spread(asked, pieces):
        yield from found


def score_of(by: str | None) -> Score | None:
    """What a reference to a score means. Raises UsageError: it cannot be loaded, or is no function."""
    if by is None or by in BUILTIN:
        return None if by is None else BUILTIN[by]
    score = SCORES.load(by)
    if not callable(score):
        raise UsageError(f"score {by.partition('#')[0]} is a {type(score).__name__}; wanted a function of a trace")
    found: Score = score
    return found


def _on_threads(asked: Judging, pieces: Sequence[Sequence[ShardRef]]) -> Iterator[list[Candidate]]:
    """Threads, since what takes long is done by the graders' children."""
    width = max(1, min(len(pieces), os.cpu_count() or 1, _MOST_CHILDREN))
    make, idle = asked.graders(), SimpleQueue[Any]()

    def piece(shards: Sequence[ShardRef]) -> list[Candidate]:
        grader = idle.get()
        try:
            return _judge(asked, grader, shards)
        finally:
            idle.put(grader)

    with ExitStack() as graders:
        for _ in range(width):
            idle.put(graders.enter_context(make()))
        pool = ThreadPoolExecutor(width)
        try:
            yield from (done.result() for done in as_completed([pool.submit(piece, shards) for shards in pieces]))
        finally:
            pool.shutdown(cancel_futures=True)


def _on_cluster(asked: Judging, pieces: Sequence[Sequence[ShardRef]]) -> Iterator[list[Candidate]]:
    from dail.synth.run.cluster_map import map_on_cluster

    yield from map_on_cluster(_task, [(asked, shards) for shards in pieces])


def _task(asked: Judging, shards: Sequence[ShardRef]) -> list[Candidate]:
    with asked.graders()() as grader:
        return _judge(asked, grader, shards)


def _judge(asked: Judging, grader: Any, shards: Sequence[ShardRef]) -> list[Candidate]:
    reader, score = ShardReader(Objects(asked.root)), score_of(asked.by)
    found = []
    for shard in shards:
        (row,) = reader.columns(shard, _COLUMNS)  # without the ids, which would take most of the time
        try:
            outcome = None if asked.grader is None else outcome_of(_said(row), grader)
        except UsageError as error:
            raise UsageError(f"item {shard.item_id}, sample {row['sample_index']}: {error}") from None
        value = None if score is None else _scored(score, asked.by or "", reader.rows(shard)[0])
        found.append(Candidate(shard.unit_id, row["sample_index"], outcome, value))
    return found


def _said(row: dict[str, Any]) -> Said:
    return Said(row["trace_text"], row["completion"][0]["content"], row["answer"], row["truncated"])


def _scored(score: Score, by: str, row: TraceRow) -> float:
    try:
        value: object = score(row)
        # numpy's numbers are Real too; float() refuses what no float is as large as
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except FAULTS as error:
        fault = f"failed with {type(error).__name__}: {error!s:.500}"
    else:
        if not math.isnan(number):
            return number
        fault = f"returned {value!r:.200}; wanted a number"
    raise UsageError(
        f"item {row.item_id}, sample {row.sample_index}: score {by.partition('#')[0]} {fault}; correct it and run again"
    )
