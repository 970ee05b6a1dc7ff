"""One role alone: direct sampling from the privileged student (paper §2.1), or the student by itself.

Drawn from the trace's own random numbers, so a direct trace is the one that a mixed rollout with a tau above 1 would
write, a student's the one with tau 0, and either goes on after a prefix as if it had never stopped.
"""

from __future__ import annotations

from dataclasses import replace

from dail.synth.engine.base import Draw, Sampled
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.scheduler import Entry, Stage, Staged, Trace, drawn_sequence
from dail.synth.rollout.stop_strings import Stops


class Single(Staged[Trace]):
    """Args:
    student: the engine of the student, if it has one of its own.
    """

    name = "single"
    make_trace = Trace

    def __init__(self, privileged: Entry, student: Entry, stops: Stops | None = None) -> None:
        super().__init__(privileged, stops)
        self._student = student

    def capacity(self, request: RolloutRequest) -> int:
        if request.synthesis.method == "student":
            return self._student.admission.check([len(request.student_ids)])
        return self._entry.admission.check([len(request.privileged_ids)])

    def next_stage(self, trace: Trace) -> Stage:
        request, max_tokens = trace.request, trace.max_tokens - len(trace.tokens)
        if request.synthesis.method == "student":
            return Stage(self._student, [drawn_sequence(trace, max_tokens, Draw("student"))], max_tokens)
        return Stage(self._entry, [drawn_sequence(trace, max_tokens, Draw("privileged"))], max_tokens)

    def read(self, trace: Trace, sampled: Sampled) -> None:
        trace.tokens.extend(sampled.tokens)

    def settle(self, trace: Trace, stage: Stage) -> None:
        trace.reason = trace.ends()

    def _rollout(self, trace: Trace) -> Rollout:
        rollout = super()._rollout(trace)
        return replace(rollout, strategy=trace.request.synthesis.method)
