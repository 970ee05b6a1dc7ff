"""Mixed-policy rollouts in lockstep: both contexts are paired rows of one engine (paper §2.1).

The rows are added before the same step, always receive the same token and end together, so a pair costs exactly two
decode rows a token and nothing is drawn in vain. Exact for any rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dail.synth.engine.base import AloneRecord, AloneRow, PairRecord, PairRow, Row
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.scheduler import Stage, Staged, Trace, alone_row
from dail.synth.rollout.select import acceptance
from dail.synth.schema.trace_tokens import Tokens


class Lockstep(Staged[Trace]):
    name = "lockstep"
    make_trace = Trace

    def room(self, request: RolloutRequest) -> int:
        return self._entry.admission.check([len(request.student_ids), len(request.privileged_ids)])

    def next_stage(self, trace: Trace) -> Stage:
        request, max_tokens = trace.request, trace.max_tokens - len(trace.tokens)
        rows = [
            _half(trace, "student", request.student_ids, max_tokens, request.adapter),
            _half(trace, "privileged", request.privileged_ids, max_tokens, None),
        ]
        return Stage(self._entry, rows, max_tokens)

    def read(self, trace: Trace, record: PairRecord | AloneRecord) -> None:
        assert isinstance(record, PairRecord), f"{trace.key} is no pair"
        trace.put(record.start, _tokens(record))

    def settle(self, trace: Trace, stage: Stage) -> None:
        one, other = stage.ended
        assert one.token_ids == other.token_ids, f"pair {trace.key} parted unseen"
        trace.settle(stage.rows[0].start, one.token_ids)
        trace.reason = trace.ends()


def _half(
    trace: Trace,
    role: Literal["student", "privileged"],
    prompt_ids: Sequence[int],
    max_tokens: int,
    adapter: str | None,
) -> Row:
    row = alone_row(trace, prompt_ids, max_tokens, AloneRow(0), adapter)
    pair = PairRow(trace.key, role, acceptance(trace.request.synthesis))
    return replace(row, row_id=f"{trace.key}/{role}", alone=None, pair=pair)


def _tokens(record: PairRecord) -> Tokens:
    return Tokens(
        list(record.token_ids),
        [float(accepted) for accepted in record.accepted],
        [None if accepted else token for token, accepted in zip(record.proposal, record.accepted, strict=True)],
        list(record.student_logprob),
        list(record.privileged_logprob),
    )
