"""Strategy lazy from outside: vLLM samples the privileged student's rows itself and hands every token's `logprobs=1` to
Python, which stops a row and asks the student where its word matters. What the pause on the device is measured against.

The same distribution as `dail.synth.rollout.lazy` at temperature 1, without its seeds, records, or stop strings.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from dail.synth.rollout.base import RolloutRequest

_rows = itertools.count()


@dataclass
class _Trace:
    """`standing` and `drawn`: what the student is being asked about, and what the privileged student drew instead."""

    request: RolloutRequest
    tokens: list[int] = field(default_factory=list)
    asking: bool = False
    standing: int = 0
    drawn: int = 0

    @property
    def is_done(self) -> bool:
        is_stopped = bool(self.tokens) and self.tokens[-1] in self.request.stop_ids
        return is_stopped or len(self.tokens) >= self.request.synthesis.max_tokens


def watched(engine: Any, requests: list[RolloutRequest]) -> int:
    """Draws all of them on vLLM's LLMEngine; how many tokens there are."""
    rows: dict[str, _Trace] = {}
    for request in requests:
        _go_on(engine, rows, _Trace(request))
    tokens = 0
    while rows:
        for output in engine.step():
            trace = rows.get(output.request_id)
            if trace is None:
                continue  # stopped, but it ran once more
            _take(trace, output.outputs[0])
            if output.finished or trace.asking != output.request_id.endswith("student"):
                if not output.finished:
                    engine.abort_request([output.request_id])
                del rows[output.request_id]
                if trace.is_done and not trace.asking:
                    tokens += len(trace.tokens)
                else:
                    _go_on(engine, rows, trace)
    return tokens


def _take(trace: _Trace, new: Any) -> None:
    if trace.asking:
        trace.tokens.append(trace.standing if new.token_ids[0] == trace.standing else trace.drawn)
        trace.asking = False
        return
    bar = math.log(trace.request.synthesis.tau)
    for token, logprobs in zip(new.token_ids, new.logprobs, strict=True):
        top = next(one for one, known in logprobs.items() if known.rank == 1)
        if token != top and logprobs[top].logprob >= bar:
            trace.asking, trace.standing, trace.drawn = True, top, token
            return
        trace.tokens.append(token)


def _go_on(engine: Any, rows: dict[str, _Trace], trace: _Trace) -> None:
    request = trace.request
    row_id = f"{request.unit_id}/{next(_rows)}/{'student' if trace.asking else 'privileged'}"
    rows[row_id] = trace
    sampling = SamplingParams(
        temperature=request.synthesis.temperature,
        max_tokens=1 if trace.asking else request.synthesis.max_tokens - len(trace.tokens),
        logprobs=None if trace.asking else 1,
        stop_token_ids=sorted(request.stop_ids),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    context = request.student_ids if trace.asking else request.privileged_ids
    engine.add_request(row_id, {"prompt_token_ids": [*context, *trace.tokens]}, sampling)
