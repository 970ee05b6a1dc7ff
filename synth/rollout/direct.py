"""One role alone: direct sampling from the privileged student (paper §2.1), or the student by itself.

Drawn from the trace's own random numbers, so a direct trace is the one that a mixed rollout with a tau above 1 would
write, a student's the one with tau 0, and either goes on after a prefix as if it had never stopped.
"""

from __future__ import annotations

from dail.synth.engine.base import AloneRecord, AloneRow, PairRecord
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.scheduler import Entry, Stage, Staged, Trace, alone_row
from dail.synth.rollout.stop_strings import Stops
from dail.synth.schema.trace_tokens import Tokens


class Single(Staged[Trace]):
    """Args:
    student: the engine of the student, if it has one of its own.
    """

    name = "single"
    make_trace = Trace

    def __init__(self, privileged: Entry, student: Entry, stops: Stops | None = None) -> None:
        super().__init__(privileged, stops)
        self._student = student

    def room(self, request: RolloutRequest) -> int:
        if request.synthesis.method == "student":
            return self._student.admission.check([len(request.student_ids)])
        return self._entry.admission.check([len(request.privileged_ids)])

    def next_stage(self, trace: Trace) -> Stage:
        request, max_tokens = trace.request, trace.max_tokens - len(trace.tokens)
        if request.synthesis.method == "student":
            row = alone_row(trace, request.student_ids, max_tokens, AloneRow(0), request.adapter)
            return Stage(self._student, [row], max_tokens)
        return Stage(self._entry, [alone_row(trace, request.privileged_ids, max_tokens, AloneRow(1))], max_tokens)

    def read(self, trace: Trace, record: PairRecord | AloneRecord) -> None:
        assert isinstance(record, AloneRecord), f"{trace.key} is no row alone"
        by_student = trace.request.synthesis.method == "student"
        number = len(record.token_ids)
        own: list[float | None] = list(record.logprob)
        other: list[float | None] = [None] * number
        trace.put(
            record.start,
            Tokens(
                list(record.token_ids),
                [float(by_student)] * number,
                [None] * number,
                own if by_student else other,
                other if by_student else own,
            ),
        )

    def settle(self, trace: Trace, stage: Stage) -> None:
        (row,) = stage.ended
        trace.settle(stage.rows[0].start, row.token_ids)
        trace.reason = trace.ends()

    def _rollout(self, trace: Trace) -> Rollout:
        rollout = super()._rollout(trace)
        return Rollout(rollout.unit_id, rollout.tokens, rollout.reason, trace.request.synthesis.method)
