"""What the strategies share: traces wait until admission lets their sequences in, and go on in stages until they end.

    request ─▶ Trace ─next_stage─▶ Stage of TokenSequences ─▶ engine ─▶ Sampled ─read, settle─▶ Trace ─▶ Rollout

A stage is a set of sequences of one engine that are admitted together and end together. When they have ended, the
strategy settles what they gave and says which come next. What is in `Trace.tokens` is final: another attempt, in
another process, can go on from it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from dail.synth.core.errors import EngineDead
from dail.synth.engine.admission import Admission
from dail.synth.engine.base import Draw, Engine, FinishReason, Proposal, Sampled, SequenceKey, TokenSequence
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.stop_strings import Stops
from dail.synth.schema.synthesis import Role, Synthesis
from dail.synth.schema.trace_tokens import Tokens

# Of one pair without a token in between. A pair is desynchronised by bad luck (thrown back while the KV cache is full),
# and then the next try gets further; five times at one token is an engine that will never do it.
_MOST_DESYNCHRONISED = 5
# Of all traces of this process. What an engine says of a stage may come after it was left, or after its unit was
# cancelled and begun anew: then it finds nobody, since no two stages ever have one number.
_stage_numbers = itertools.count()


class Entry(NamedTuple):
    """An engine, and who may enter it."""

    engine: Engine
    admission: Admission


@dataclass
class Stage:
    """Sequences of one engine: made by a strategy, over when all have ended.

    `is_warming`: they only bring the prompts into the prefix cache.
    """

    entry: Entry
    sequences: list[TokenSequence]
    max_tokens: int
    is_warming: bool = False
    ended: list[Sampled] = field(default_factory=list)


@dataclass
class Trace:
    """A request on its way. Each strategy adds what it must remember between two stages."""

    request: RolloutRequest
    max_tokens: int
    tokens: Tokens
    reason: FinishReason | None = None
    stage: Stage | None = None
    stage_number: int = field(default_factory=lambda: next(_stage_numbers))
    is_warm: bool = False
    num_searched: int = 0  # tokens in which no stop string ends
    num_rows: int = 0  # steps of the engine times the sequences that it had in them
    desynchronised_at: list[int] = field(default_factory=list)  # lengths of the trace

    @property
    def key(self) -> SequenceKey:
        """Names what is in the engine for this trace."""
        return SequenceKey(self.request.unit_id, self.stage_number)

    def is_of(self, key: SequenceKey) -> bool:
        return self.stage is not None and key.stage == self.stage_number

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
        # Traces that are under way stand before new ones: they hold nothing in the engine between two stages, and a
        # trace that is nearly whole is worth more than one not begun.
        self._waiting: deque[T] = deque()
        self._live: dict[str, T] = {}
        self.num_desynchronised = 0

    @abstractmethod
    def capacity(self, request: RolloutRequest) -> int:
        """How many tokens the trace may have. Raises ItemError if this strategy can never draw it."""

    @abstractmethod
    def next_stage(self, trace: T) -> Stage: ...

    @abstractmethod
    def read(self, trace: T, sampled: Sampled) -> None:
        """Takes what is new of a sequence of the stage that runs, if that has a `Draw`."""

    @abstractmethod
    def settle(self, trace: T, stage: Stage) -> None:
        """Draws the conclusion, once all sequences of the stage have ended and were read."""

    def is_done(self, trace: T) -> bool:
        return trace.reason is not None

    def add(self, request: RolloutRequest) -> None:
        max_tokens = min(self.capacity(request), request.synthesis.max_tokens)
        trace = self.make_trace(request, max_tokens, request.prefix[:max_tokens])
        self._search(trace)
        trace.reason = trace.reason or trace.ends()
        self._waiting.append(trace)

    def cancel(self, unit_id: str) -> None:
        self._waiting = deque(trace for trace in self._waiting if trace.request.unit_id != unit_id)
        if trace := self._live.pop(unit_id, None):
            self._leave(trace, abort=True)

    def admit(self) -> None:
        """In order, and nobody overtakes: a long trace would wait for ever behind short ones."""
        while self._waiting:
            trace = self._waiting[0]
            if self.is_done(trace):  # a prefix that was whole already
                self._live[trace.request.unit_id] = self._waiting.popleft()
                continue
            stage = self._warmed(trace, self.next_stage(trace))
            prompts = [len(sequence.prompt_ids) for sequence in stage.sequences]
            # Only a pair must be prefilled in one step: a sequence alone samples in vain until its prompt is whole.
            may_split = stage.is_warming or len(prompts) == 1
            if not stage.entry.admission.take(trace.key, prompts, stage.max_tokens, trace.is_warm, may_split):
                return
            trace.stage = stage
            self._live[trace.request.unit_id] = self._waiting.popleft()
            for sequence in stage.sequences:
                stage.entry.engine.add(sequence)

    def take(self, sampled: Sequence[Sampled]) -> list[Rollout]:
        """Adds to the traces what is new of their sequences, behind a step; returns the traces that are now whole."""
        for live in self._live.values():
            live.num_rows += len(live.stage.sequences) if live.stage else 0
        for one in sampled:
            trace = self._live.get(one.key.unit_id)
            if trace and trace.stage and trace.is_of(one.key):  # else it was cancelled, or left that stage
                self._take(trace, trace.stage, one)
        return [self._rollout(trace) for trace in list(self._live.values()) if self.is_done(trace)]

    def pending(self) -> int:
        return len(self._waiting) + len(self._live)

    def progress(self) -> dict[str, Tokens]:
        return {trace.request.unit_id: trace.tokens for trace in self._traces()}

    def _traces(self) -> Iterator[T]:
        yield from self._waiting
        yield from self._live.values()

    def _take(self, trace: T, stage: Stage, one: Sampled) -> None:
        if stage.sequences[0].draw:  # else a prompt was warmed or scored, and its one token is nobody's
            self.read(trace, one)
            if self._search(trace):
                return
        if one.reason == "desynchronised":
            self._redo(trace)
        elif one.reason:
            stage.ended.append(one)
            if len(stage.ended) == len(stage.sequences):
                self._end_stage(trace)

    def _search(self, trace: T) -> bool:
        """Ends a trace that wrote one of its stop strings; whether it did."""
        if not trace.request.synthesis.stop or trace.reason:
            return False
        end = self._stops.find(trace.tokens.ids, trace.request.synthesis.stop, trace.num_searched)
        trace.num_searched = len(trace.tokens)
        if end is None:
            return False
        trace.tokens.cut(end)
        trace.reason = "stop"
        if trace.stage:
            self._leave(trace, abort=True)
            self._wait(trace)
        return True

    def _warmed(self, trace: T, stage: Stage) -> Stage:
        """The stage, or one before it that brings its prompts into the prefix cache, if no step could prefill them
        whole together: the engine would split one of the two, and the pair would never be at one position."""
        prompts = [len(sequence.prompt_ids) for sequence in stage.sequences]
        if trace.is_warm or len(prompts) == 1 or not stage.entry.admission.is_long(prompts):
            return stage
        sequences = [one.warming(one.key) for one in stage.sequences]
        return Stage(stage.entry, sequences, stage.max_tokens, is_warming=True)

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
            stage.entry.engine.abort([sequence.key for sequence in stage.sequences])
        stage.entry.admission.release(trace.key)
        trace.stage_number = next(_stage_numbers)
        return stage

    def _redo(self, trace: T) -> None:
        """A pair that is desynchronised goes on from its last common token: what was read of it is common, since the
        engine keeps back a token that may be sampled again."""
        self._leave(trace, abort=True)
        trace.is_warm = False
        self.num_desynchronised += 1
        trace.desynchronised_at.append(len(trace.tokens))
        if trace.desynchronised_at[-_MOST_DESYNCHRONISED:] == [len(trace.tokens)] * _MOST_DESYNCHRONISED:
            raise EngineDead(
                f"the two sequences of unit {trace.request.unit_id} were desynchronised {_MOST_DESYNCHRONISED} times "
                f"at token {len(trace.tokens)}; the engine cannot keep them in one step; set engine.step_tokens or "
                f"engine.kv_cache_gib higher, or engine.rows lower"
            )
        self._wait(trace)

    def _rollout(self, trace: T) -> Rollout:
        assert trace.reason is not None, f"{trace.key} has no end"
        del self._live[trace.request.unit_id]
        return Rollout(trace.request.unit_id, trace.tokens, trace.reason, self.name, trace.num_rows)


def drawn_sequence(trace: Trace, max_tokens: int, draw: Draw) -> TokenSequence:
    """A sequence of one role that goes on after the trace so far, sampled from the trace's own random numbers."""
    request, synthesis = trace.request, trace.request.synthesis
    return TokenSequence(
        key=trace.key._replace(part=draw.role),
        prompt_ids=[*request.prompt_ids(draw.role), *trace.tokens.ids],
        max_tokens=max_tokens,
        temperature=synthesis.temperature,
        top_p=synthesis.top_p,
        top_k=synthesis.top_k,
        seed=request.seed,
        stop_ids=request.stop_ids,
        draw=draw,
        suppressed_ids=request.suppressed_ids,
        start=len(trace.tokens),
        adapter=request.adapter_of(draw.role),
    )


def scored_sequence(trace: Trace, role: Role, prompt_ids: Sequence[int], score_from: int) -> TokenSequence:
    """A scoring pass: a prompt of which the engine gives the log-probabilities from an index on. It writes nothing."""
    key = trace.key._replace(part="scoring")
    adapter = trace.request.adapter_of(role)
    return TokenSequence(key, prompt_ids, 1, 0.0, 0, frozenset(), adapter=adapter, score_from=score_from)


def proposing(synthesis: Synthesis) -> Draw:
    """How a proposer samples by itself."""
    return Draw(
        synthesis.proposer,
        proposals=synthesis.proposals,
        proposer=synthesis.proposer,
        greedy=synthesis.greedy_proposals,
    )


def proposals(sampled: Sampled, role: Role) -> list[list[Proposal]]:
    """What a role by itself proposed at each position, in order."""
    tokens = sampled.tokens
    logprobs = tokens.student_logprob if role == "student" else tokens.privileged_logprob
    further = sampled.further or [()] * len(tokens)
    return [
        [Proposal(token, logprob or 0.0), *rest]
        for token, logprob, rest in zip(tokens.ids, logprobs, further, strict=True)
    ]


def write(
    tokens: Tokens, token: int, writer: Role, logprobs: Mapping[Role, float | None], rejected: int | None = None
) -> None:
    """Adds a token that one role wrote, with the log-probabilities that are known of it."""
    by_student = float(writer == "student")
    tokens.add(token, by_student, logprobs.get("student"), logprobs.get("privileged"), rejected)
