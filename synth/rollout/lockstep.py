"""Mixed-policy rollouts in lockstep: both contexts are paired sequences of one engine (paper §2.1).

They are added before the same step, always receive the same token and end together, so a pair costs exactly two decode
rows a token and nothing is sampled in vain. Exact for any rule.
"""

from __future__ import annotations

from dail.synth.engine.base import Draw, Sampled
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.scheduler import Stage, Staged, Trace, drawn_sequence
from dail.synth.rollout.select import acceptance


class Lockstep(Staged[Trace]):
    name = "lockstep"
    make_trace = Trace

    def capacity(self, request: RolloutRequest) -> int:
        return self._entry.admission.check([len(request.student_ids), len(request.privileged_ids)])

    def next_stage(self, trace: Trace) -> Stage:
        request, max_tokens = trace.request, trace.max_tokens - len(trace.tokens)
        rule, proposals = acceptance(request.synthesis), request.synthesis.proposals
        student, privileged = (Draw(role, rule, True, proposals) for role in ("student", "privileged"))
        sequences = [
            drawn_sequence(trace, request.student_ids, max_tokens, student, request.adapter),
            drawn_sequence(trace, request.privileged_ids, max_tokens, privileged),
        ]
        return Stage(self._entry, sequences, max_tokens)

    def read(self, trace: Trace, sampled: Sampled) -> None:
        trace.tokens.extend(sampled.tokens)

    def settle(self, trace: Trace, stage: Stage) -> None:
        trace.reason = trace.ends()
