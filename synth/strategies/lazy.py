"""Mixed-policy rollouts with a lazy student: it is asked only where its word matters (paper §2.1).

The privileged student decodes alone. The student's word can change the trace only where a token that the privileged
student did not draw would stand (`synth.rollout.watch`). There the privileged row pauses, the student is asked for one
token after the trace so far, and the privileged row goes on after whichever token the rule gives. From tau 0.5 on at
most one such token exists (a tie aside), so questions are rare: about one decode row a token instead of two.

All draws use the numbers that lockstep and the reference would use, so the traces are the same, token for token. Who
wrote a token is known only where nobody was confident (the privileged student) or where the student was asked; else
it is unknown (null).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from synth.engine.base import AloneRecord, AloneRow, Engine, Finished, FinishReason, Pause, Records, Row
from synth.schema.base import ItemError
from synth.strategies.admission import Admission
from synth.strategies.base import Rollout, RolloutRequest

LOWEST_TAU = 0.5
_NEVER = 2.0  # no probability reaches this tau


@dataclass
class _Trace:
    """A request on its way. `asking` is where the student is being asked."""

    request: RolloutRequest
    max_tokens: int
    trace_ids: list[int] = field(default_factory=list)
    source: list[float | None] = field(default_factory=list)
    student_logprob: list[float | None] = field(default_factory=list)
    privileged_logprob: list[float | None] = field(default_factory=list)
    record: AloneRecord = field(default_factory=AloneRecord)
    asking: Pause | None = None
    num_rows: int = 0
    row_id: str | None = None  # of the row that is in the engine

    def add(self, token: int, source: float | None, student: float | None, privileged: float | None) -> None:
        self.trace_ids.append(token)
        self.source.append(source)
        self.student_logprob.append(student)
        self.privileged_logprob.append(privileged)

    def reason(self) -> FinishReason | None:
        if self.trace_ids and self.trace_ids[-1] in self.request.stop_ids:
            return "stop"
        return "length" if len(self.trace_ids) >= self.max_tokens else None


class Lazy:
    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine = engine
        self._admission = admission
        self._waiting: deque[_Trace] = deque()  # paused traces stand before new ones
        self._live: dict[str, _Trace] = {}
        self.num_questions = 0

    def add(self, request: RolloutRequest) -> None:
        if request.synthesis.tau < LOWEST_TAU:
            raise ItemError(
                "tau_too_low",
                f"tau is {request.synthesis.tau}; the lazy strategy wants {LOWEST_TAU} or more; use strategy=lockstep",
            )
        room = min(self._admission.check([len(ids)]) for ids in (request.student_ids, request.privileged_ids))
        self._waiting.append(_Trace(request, min(room, request.synthesis.max_tokens)))

    def cancel(self, unit_id: str) -> None:
        self._waiting = deque(trace for trace in self._waiting if trace.request.unit_id != unit_id)
        for row_id in [row_id for row_id, trace in self._live.items() if trace.request.unit_id == unit_id]:
            del self._live[row_id]
            self._engine.abort([row_id])
            self._admission.release(row_id)

    def admit(self) -> None:
        while self._waiting:
            trace = self._waiting[0]
            row = _question(trace) if trace.asking else _privileged_row(trace)
            if not self._admission.take(row.row_id, [len(row.prompt_ids)], row.max_tokens):
                return
            self._waiting.popleft()
            trace.num_rows += 1
            self.num_questions += trace.asking is not None
            self._live[row.row_id] = trace
            self._engine.add(row)

    def take(self, finished: Sequence[Finished], records: Records) -> list[Rollout]:
        for row_id in records.alone.keys() & self._live.keys():
            self._live[row_id].record.extend(records.alone[row_id])
        done, paused = [], []
        for row in finished:
            if trace := self._live.pop(row.row_id, None):
                self._admission.release(row.row_id)
                drawn = row.token_ids[:-1] if trace.record.pause else row.token_ids
                assert drawn == trace.record.token_ids, f"row {row.row_id} holds other tokens than were drawn for it"
                _settle(trace)
                if reason := trace.reason():
                    done.append(_rollout(trace, reason))
                else:
                    paused.append(trace)
        self._waiting.extendleft(reversed(paused))
        return done

    def pending(self) -> int:
        return len(self._waiting) + len(self._live)

    def progress(self) -> dict[str, tuple[int, int]]:
        """Tokens of the row that runs now count as soon as they are recorded."""
        return {
            trace.request.unit_id: (
                len(trace.trace_ids) + len(trace.record.token_ids),
                round(sum(source or 0.0 for source in trace.source)),
            )
            for trace in self._traces()
        }

    def _traces(self) -> Iterator[_Trace]:
        yield from self._waiting
        yield from self._live.values()


def _settle(trace: _Trace) -> None:
    """Adds what the row that just ended gave: the answer to a question, or a stretch of the privileged student's."""
    record, trace.record = trace.record, AloneRecord()
    if pause := trace.asking:
        trace.asking = None
        (proposal,), (logprob,) = record.token_ids, record.logprob
        if proposal in pause.standing:
            trace.add(proposal, 1.0, logprob, pause.standing[proposal])
        else:
            trace.add(pause.drawn, 0.0, None, pause.logprob)
        return
    for token, logprob, confident in zip(record.token_ids, record.logprob, record.confident, strict=True):
        trace.add(token, None if confident else 0.0, None, logprob)
    trace.asking = record.pause


def _privileged_row(trace: _Trace) -> Row:
    synthesis = trace.request.synthesis
    return Row(
        row_id=f"{trace.request.unit_id}/{trace.num_rows}",
        prompt_ids=[*trace.request.privileged_ids, *trace.trace_ids],
        max_tokens=trace.max_tokens - len(trace.trace_ids),
        temperature=synthesis.temperature,
        seed=trace.request.seed,
        stop_ids=trace.request.stop_ids,
        alone=AloneRow(1, synthesis.tau, synthesis.probability_space == "tempered"),
        start=len(trace.trace_ids),
    )


def _question(trace: _Trace) -> Row:
    return Row(
        row_id=f"{trace.request.unit_id}/{trace.num_rows}",
        prompt_ids=[*trace.request.student_ids, *trace.trace_ids],
        max_tokens=1,
        temperature=trace.request.synthesis.temperature,
        seed=trace.request.seed,
        stop_ids=trace.request.stop_ids,
        alone=AloneRow(0, _NEVER, False),
        start=len(trace.trace_ids),
        adapter=trace.request.adapter,
    )


def _rollout(trace: _Trace, reason: FinishReason) -> Rollout:
    return Rollout(
        unit_id=trace.request.unit_id,
        trace_ids=trace.trace_ids,
        source=trace.source,
        student_logprob=trace.student_logprob,
        privileged_logprob=trace.privileged_logprob,
        reason=reason,
        strategy="lazy",
    )
