"""The literal rollout of paper §2.1 with transformers: one pair, one token at a time, no cache, float32.

The oracle that every other strategy is tested against. Slow on purpose: nothing in it could be wrong in two ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synth.engine.base import FinishReason
from synth.rollout import Rule, mix, uniforms
from synth.strategies.base import Rollout, RolloutRequest


class Reference:
    name = "reference"

    def __init__(self, model: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()

    def logits(self, context: Sequence[int]) -> Tensor:
        """Next-token logits [V] after the context, float32."""
        with torch.inference_mode():
            logits: Tensor = self._model(torch.tensor([list(context)])).logits[0, -1]
        return logits

    def rollout(self, request: RolloutRequest) -> Rollout:
        """One mixed-policy trace, drawn with the same random numbers as any other strategy would use."""
        synthesis = request.synthesis
        rule = Rule(
            torch.tensor([synthesis.tau]),
            torch.tensor([synthesis.temperature]),
            torch.tensor([synthesis.probability_space == "tempered"]),
        )
        trace_ids: list[int] = []
        source: list[float | None] = []
        student_logprob: list[float | None] = []
        privileged_logprob: list[float | None] = []
        while len(trace_ids) < synthesis.max_tokens and not (trace_ids and trace_ids[-1] in request.stop_ids):
            mixed = mix(
                self.logits([*request.student_ids, *trace_ids])[None],
                self.logits([*request.privileged_ids, *trace_ids])[None],
                rule,
                torch.from_numpy(uniforms(np.array([request.seed]), np.array([len(trace_ids)]))),
            )
            trace_ids.append(int(mixed.token_P))
            source.append(float(mixed.accepted_P))
            student_logprob.append(float(mixed.student_logprob_P))
            privileged_logprob.append(float(mixed.privileged_logprob_P))
        reason: FinishReason = "stop" if trace_ids[-1] in request.stop_ids else "length"
        return Rollout(request.unit_id, trace_ids, source, student_logprob, privileged_logprob, reason, self.name)
