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
        how, max_tokens = trace.request.synthesis, trace.max_tokens - len(trace.tokens)
        rule, roles = acceptance(how), (how.proposer, how.verifier)
        halves = [Draw(role, rule, True, how.proposals, how.proposer, how.greedy_proposals) for role in roles]
        return Stage(self._entry, [drawn_sequence(trace, max_tokens, half) for half in halves], max_tokens)

    def read(self, trace: Trace, sampled: Sampled) -> None:
        trace.tokens.extend(sampled.tokens)

    def settle(self, trace: Trace, stage: Stage) -> None:
        trace.reason = trace.ends()
