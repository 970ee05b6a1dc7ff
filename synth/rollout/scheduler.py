"""What the strategies share: traces wait until admission lets their rows in, rows end, and a trace goes on or is done.

A trace is carried on in stages. A stage is a set of rows in one engine that are admitted together and end together;
when they have ended, the strategy settles what they gave and says which rows come next. What is in `Trace.tokens` is
final: another attempt can go on from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from dail.synth.core.errors import EngineDead
from dail.synth.engine.admission import Admission
from dail.synth.engine.base import AloneRecord, AloneRow, Engine, Finished, FinishReason, PairRecord, Records, Row
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.stop_strings import Stops
from dail.synth.schema.trace_tokens import Tokens

_MOST_PARTINGS = 5  # of one pair without a token in between


class Entry(NamedTuple):
    """An engine, and who may enter it."""

    engine: Engine
    admission: Admission


@dataclass
class Stage:
    """Rows of one engine. `is_warming`: they only bring the prompts into the prefix cache."""

    entry: Entry
    rows: list[Row]
    max_tokens: int
    is_warming: bool = False
    ended: list[Finished] = field(default_factory=list)


@dataclass
class Trace:
    """A request on its way. `held` is the token that was recorded last: its place may yet be drawn again."""

    request: RolloutRequest
    max_tokens: int
    tokens: Tokens
    held: Tokens = field(default_factory=Tokens)
    reason: FinishReason | None = None
    stage: Stage | None = None
    num_stages: int = 0
    is_warm: bool = False
    num_searched: int = 0  # tokens in which no stop string ends
    parted_at: list[int] = field(default_factory=list)  # lengths of the trace

    @property
    def key(self) -> str:
        """Names what is in the engine for this trace: no two stages of a trace have one name."""
        return f"{self.request.unit_id}/{self.num_stages}"

    def put(self, start: int, new: Tokens) -> None:
        """Adds recorded tokens from place `start` on."""
        if start > len(self.tokens):
            new = self.held + new
        assert start <= len(self.tokens) + len(self.held), f"{self.key}: places before {start} were not recorded"
        self.tokens.extend(new[:-1])
        self.held = new[-1:]

    def settle(self, start: int, token_ids: Sequence[int]) -> None:
        """Holds what was recorded from place `start` on against what the row was given, and makes it final."""
        self.tokens.extend(self.held)
        self.held = Tokens()
        self.tokens.cut(start + len(token_ids))  # an engine that schedules ahead draws past a row's end
        assert self.tokens.ids[start:] == list(token_ids), f"{self.key} holds other tokens than were drawn for it"

    def ends(self) -> FinishReason | None:
        """Why the trace is whole, if it is."""
        if self.tokens.ids and self.tokens.ids[-1] in self.request.stop_ids:
            return "stop"
        return "length" if len(self.tokens) >= self.max_tokens else None


T = TypeVar("T", bound=Trace)


class Staged(ABC, Generic[T]):
    """A strategy. `name` goes into the shard, `make_trace` is what it keeps of each request."""

    name: str
    make_trace: type[T]

    def __init__(self, entry: Entry, stops: Stops | None = None) -> None:
        self._entry = entry
        self._stops = stops or Stops(None)
        self._waiting: deque[T] = deque()  # traces that are under way stand before new ones
        self._live: dict[str, T] = {}
        self.num_partings = 0

    @abstractmethod
    def room(self, request: RolloutRequest) -> int:
        """How many tokens the trace may have. Raises ItemError if this strategy can never draw it."""

    @abstractmethod
    def next_stage(self, trace: T) -> Stage: ...

    @abstractmethod
    def read(self, trace: T, record: PairRecord | AloneRecord) -> None:
        """Takes what was recorded of the stage that runs."""

    @abstractmethod
    def settle(self, trace: T, stage: Stage) -> None:
        """Takes what the stage gave, once all its rows have ended."""

    def is_done(self, trace: T) -> bool:
        return trace.reason is not None

    def add(self, request: RolloutRequest) -> None:
        max_tokens = min(self.room(request), request.synthesis.max_tokens)
        trace = self.make_trace(request, max_tokens, request.prefix[:max_tokens])
        self._search(trace)
        trace.reason = trace.reason or trace.ends()
        self._waiting.append(trace)

    def cancel(self, unit_id: str) -> None:
        self._waiting = deque(trace for trace in self._waiting if trace.request.unit_id != unit_id)
        if trace := self._live.pop(unit_id, None):
            self._leave(trace, abort=True)

    def admit(self) -> None:
        while self._waiting:
            trace = self._waiting[0]
            if self.is_done(trace):  # a prefix that was whole already
                self._live[trace.request.unit_id] = self._waiting.popleft()
                continue
            stage = self._warmed(trace, self.next_stage(trace))
            prompts = [len(row.prompt_ids) for row in stage.rows]
            may_split = stage.is_warming or len(prompts) == 1
            if not stage.entry.admission.take(trace.key, prompts, stage.max_tokens, trace.is_warm, may_split):
                return
            trace.stage = stage
            self._live[trace.request.unit_id] = self._waiting.popleft()
            for row in stage.rows:
                stage.entry.engine.add(row)

    def take(self, finished: Sequence[Finished], records: Records) -> list[Rollout]:
        for name, record in records.pairs.items():
            self._read(name, record)
        for row_id, alone in records.alone.items():
            self._read(row_id.rpartition("/")[0], alone)
        for name in records.parted:
            if trace := self._named(name):
                self._redo(trace)
        for row in finished:
            trace = self._named(row.row_id.rpartition("/")[0])
            if trace and trace.stage:
                trace.stage.ended.append(row)
                if len(trace.stage.ended) == len(trace.stage.rows):
                    self._end_stage(trace)
        return [self._rollout(trace) for trace in list(self._live.values()) if self.is_done(trace)]

    def pending(self) -> int:
        return len(self._waiting) + len(self._live)

    def progress(self) -> dict[str, Tokens]:
        return {trace.request.unit_id: trace.tokens for trace in self._traces()}

    def _traces(self) -> Iterator[T]:
        yield from self._waiting
        yield from self._live.values()

    def _named(self, key: str) -> T | None:
        """The live trace whose stage has this name; none for one that was cancelled or begun anew."""
        trace = self._live.get(key.rpartition("/")[0])
        return trace if trace and trace.key == key else None

    def _read(self, name: str, record: PairRecord | AloneRecord) -> None:
        if trace := self._named(name):
            self.read(trace, record)
            self._search(trace)

    def _search(self, trace: T) -> None:
        """Ends a trace that wrote one of its stop strings."""
        if not trace.request.synthesis.stop or trace.reason:
            return
        end = self._stops.find(trace.tokens.ids, trace.request.synthesis.stop, trace.num_searched)
        trace.num_searched = len(trace.tokens)
        if end is None:
            return
        trace.tokens.cut(end)
        trace.held, trace.reason = Tokens(), "stop"
        if trace.stage:
            self._leave(trace, abort=True)
            self._wait(trace)

    def _warmed(self, trace: T, stage: Stage) -> Stage:
        """The stage, or one before it that brings its prompts into the prefix cache, if no step could prefill them
        whole together."""
        prompts = [len(row.prompt_ids) for row in stage.rows]
        if trace.is_warm or len(prompts) == 1 or not stage.entry.admission.is_long(prompts):
            return stage
        rows = [Row(row.row_id, row.prompt_ids, 1, 0.0, 0, frozenset(), adapter=row.adapter) for row in stage.rows]
        return Stage(stage.entry, rows, stage.max_tokens, is_warming=True)

    def _end_stage(self, trace: T) -> None:
        stage = self._leave(trace)
        trace.is_warm = stage.is_warming
        if not stage.is_warming:
            self.settle(trace, stage)
            self._search(trace)
        if not self.is_done(trace):
            self._wait(trace)

    def _wait(self, trace: T) -> None:
        del self._live[trace.request.unit_id]
        self._waiting.appendleft(trace)

    def _leave(self, trace: T, abort: bool = False) -> Stage:
        """The stage is over, its room free."""
        stage, trace.stage = trace.stage, None
        assert stage is not None, f"{trace.key} is in no engine"
        if abort:
            stage.entry.engine.abort([row.row_id for row in stage.rows])
        stage.entry.admission.release(trace.key)
        trace.num_stages += 1
        return stage

    def _redo(self, trace: T) -> None:
        """A pair whose rows parted goes on from its last common token."""
        self._leave(trace, abort=True)
        trace.held, trace.is_warm = Tokens(), False
        self.num_partings += 1
        trace.parted_at.append(len(trace.tokens))
        if trace.parted_at[-_MOST_PARTINGS:] == [len(trace.tokens)] * _MOST_PARTINGS:
            raise EngineDead(
                f"the two rows of unit {trace.request.unit_id} parted {_MOST_PARTINGS} times at token "
                f"{len(trace.tokens)}; the engine cannot keep them in one step; set engine.step_tokens or "
                f"engine.kv_cache_gib higher, or engine.rows lower"
            )
        self._wait(trace)

    def _rollout(self, trace: T) -> Rollout:
        assert trace.reason is not None, f"{trace.key} has no end"
        del self._live[trace.request.unit_id]
        return Rollout(trace.request.unit_id, trace.tokens, trace.reason, self.name)


def alone_row(
    trace: Trace, prompt_ids: Sequence[int], max_tokens: int, alone: AloneRow, adapter: str | None = None
) -> Row:
    """One role's row that goes on after the trace so far, drawn from the trace's own random numbers."""
    request, synthesis = trace.request, trace.request.synthesis
    return Row(
        row_id=f"{trace.key}/alone",
        prompt_ids=[*prompt_ids, *trace.tokens.ids],
        max_tokens=max_tokens,
        temperature=synthesis.temperature,
        top_p=synthesis.top_p,
        top_k=synthesis.top_k,
        seed=request.seed,
        stop_ids=request.stop_ids,
        alone=alone,
        start=len(trace.tokens),
        adapter=adapter,
    )
