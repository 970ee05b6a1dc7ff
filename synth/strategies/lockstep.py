"""Mixed-policy rollouts in lockstep: both contexts are paired rows of one engine (paper §2.1).

The rows are added before the same step, always receive the same token and end together, so a pair costs exactly two
decode rows a token and nothing is drawn in vain. Exact for any tau.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from synth.engine.base import PairRow, Row
from synth.strategies.base import Rollout, RolloutRequest
from synth.strategies.queued import Live, Queued


class Lockstep(Queued):
    def contexts(self, request: RolloutRequest) -> list[Sequence[int]]:
        return [request.student_ids, request.privileged_ids]

    def rows(self, request: RolloutRequest, max_tokens: int) -> list[Row]:
        return [
            _half(request, "student", request.student_ids, request.adapter, max_tokens),
            _half(request, "privileged", request.privileged_ids, None, max_tokens),
        ]

    def rollout(self, live: Live) -> Rollout:
        one, other = live.ended
        unit_id = live.request.unit_id
        assert one.token_ids == other.token_ids == live.record.token_ids, f"pair {unit_id} parted"
        return Rollout(
            unit_id=unit_id,
            trace_ids=one.token_ids,
            source=[float(accepted) for accepted in live.record.accepted],
            student_logprob=list(live.record.student_logprob),
            privileged_logprob=list(live.record.privileged_logprob),
            reason=one.reason,
            strategy="lockstep",
        )


def _half(
    request: RolloutRequest,
    role: Literal["student", "privileged"],
    prompt_ids: Sequence[int],
    adapter: str | None,
    max_tokens: int,
) -> Row:
    synthesis = request.synthesis
    return Row(
        row_id=f"{request.unit_id}/{role}",
        prompt_ids=prompt_ids,
        max_tokens=max_tokens,
        temperature=synthesis.temperature,
        seed=request.seed,
        stop_ids=request.stop_ids,
        pair=PairRow(request.unit_id, role, synthesis.tau, synthesis.probability_space == "tempered"),
        adapter=adapter,
    )
