"""One role alone: direct sampling from the privileged student (paper §2.1), or the student by itself.

An ordinary request of the engine, so the engine's own sampler draws and its own speed-ups apply.
"""

from __future__ import annotations

from collections.abc import Sequence

from synth.engine.base import Row
from synth.strategies.base import Rollout, RolloutRequest
from synth.strategies.queued import Live, Queued


class Single(Queued):
    def contexts(self, request: RolloutRequest) -> list[Sequence[int]]:
        return [request.student_ids if request.synthesis.method == "student" else request.privileged_ids]

    def rows(self, request: RolloutRequest, max_tokens: int) -> list[Row]:
        row = Row(
            row_id=f"{request.unit_id}/alone",
            prompt_ids=self.contexts(request)[0],
            max_tokens=max_tokens,
            temperature=request.synthesis.temperature,
            seed=request.seed,
            stop_ids=request.stop_ids,
            adapter=request.adapter if request.synthesis.method == "student" else None,
            with_logprobs=True,
        )
        return [row]

    def rollout(self, live: Live) -> Rollout:
        (row,) = live.ended
        by_student = live.request.synthesis.method == "student"
        own: list[float | None] = list(row.logprobs or [])
        other: list[float | None] = [None] * len(row.token_ids)
        return Rollout(
            unit_id=live.request.unit_id,
            trace_ids=row.token_ids,
            source=[float(by_student)] * len(row.token_ids),
            student_logprob=own if by_student else other,
            privileged_logprob=other if by_student else own,
            reason=row.reason,
            strategy=live.request.synthesis.method,
        )
