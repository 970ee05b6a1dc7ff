"""The literal rollout of paper §2.1 with transformers: one pair, one token at a time, no cache, float32.

The oracle that every other strategy is tested against. Slow on purpose: nothing in it could be wrong in two ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dail.synth.engine.base import FinishReason
from dail.synth.method.acceptance import Rule, Sampling, mix, trace_uniforms
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.scheduler import write
from dail.synth.rollout.select import acceptance

_CPU = torch.device("cpu")


class Reference:
    name = "reference"

    def __init__(self, model: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        ).eval()

    def logits(self, context: Sequence[int]) -> Tensor:
        """Next-token logits [V] after the context, float32."""
        with torch.inference_mode():
            logits: Tensor = self._model(torch.tensor([list(context)])).logits[0, -1]
        return logits

    def rollout(self, request: RolloutRequest) -> Rollout:
        """One mixed-policy trace, drawn with the same random numbers as any other strategy would use."""
        synthesis = request.synthesis
        settings = (synthesis.temperature, synthesis.top_p, synthesis.top_k)
        sampling = Sampling.of([settings], _CPU, [request.suppressed_ids])
        rule = Rule.of([acceptance(synthesis)], _CPU)
        tokens = request.prefix[:]
        while len(tokens) < synthesis.max_tokens and not (tokens.ids and tokens.ids[-1] in request.stop_ids):
            proposer_1V, verifier_1V = (
                self.logits([*request.prompt_ids(role), *tokens.ids])[None]
                for role in (synthesis.proposer, synthesis.verifier)
            )
            first, own, *further = trace_uniforms(
                torch.tensor([request.seed]), torch.tensor([len(tokens)]), synthesis.proposals
            )[0]
            rows = [proposer_1V] * synthesis.proposals
            if synthesis.greedy_proposals:
                rows = [_only(token, proposer_1V) for token in likeliest(proposer_1V[0].tolist(), request)]
            tried = []
            for row_1V, proposal in zip(rows, (first, *further), strict=False):
                tried.append(mix(row_1V, verifier_1V, sampling, rule, torch.stack([proposal, own])[None]))
                if tried[-1].accepted_P:
                    break
            last, accepted = tried[-1], bool(tried[-1].accepted_P)
            write(
                tokens,
                int(last.token_P),
                synthesis.proposer if accepted else synthesis.verifier,
                {
                    synthesis.proposer: float(proposer_1V.log_softmax(-1)[0, last.token_P]),
                    synthesis.verifier: float(last.verifier_logprob_P),
                },
                rejected=None if accepted else int(tried[0].proposal_P),
            )
        reason: FinishReason = "stop" if tokens.ids[-1] in request.stop_ids else "length"
        return Rollout(request.unit_id, tokens, reason, self.name)


def likeliest(logits: list[float], request: RolloutRequest) -> list[int]:
    """What a greedy proposer proposes: of the tokens that it could draw the likeliest, in order, equals by id."""
    how = request.synthesis
    shown = sorted(set(range(len(logits))) - request.suppressed_ids, key=lambda token: (-logits[token], token))
    shown = shown[: how.top_k or None]
    weights = [math.exp((logits[token] - logits[shown[0]]) / (how.temperature or 1.0)) for token in shown]
    if how.top_p < 1:
        shown = [token for place, token in enumerate(shown) if sum(weights[:place]) < how.top_p * sum(weights)]
    return shown[: how.proposals]


def _only(token: int, logits_1V: Tensor) -> Tensor:
    """Logits of a proposer that can propose nothing else."""
    only_1V = torch.full_like(logits_1V, float("-inf"))
    only_1V[0, token] = 0.0
    return only_1V
