"""The shape of requests that the authors' code has: at each token, one request of one token for each role, to an engine
of its own, for the 20 likeliest tokens. What it costs beside whole sequences, whatever the rule.

Made as cheap as that shape allows: engines in this process, no HTTP, prefix caches, all traces of a batch asked about
in one go, both roles at a time. Proposals come from the student's 20, renormalised; where none is accepted, the token
from the privileged student's.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from dail.synth.engine.base import SCORE_TOP
from dail.synth.rollout.base import RolloutRequest

_names = itertools.count()
Likeliest = tuple[np.ndarray, np.ndarray]  # token ids and their probabilities at temperature 1


def stepwise(student_engine: Any, privileged_engine: Any, requests: list[RolloutRequest]) -> int:
    """Draws all of them on two of vLLM's LLMEngines; how many tokens there are."""
    numbers = np.random.default_rng(0)
    traces = [list[int]() for _ in requests]
    left = list(range(len(requests)))
    while left:
        students = _asked(student_engine, [[*requests[n].student_ids, *traces[n]] for n in left])
        privileged = _asked(privileged_engine, [[*requests[n].privileged_ids, *traces[n]] for n in left])
        for n, ours, theirs in zip(left, students, privileged, strict=True):
            traces[n].append(_mixed(ours, theirs, requests[n], numbers))
        left = [n for n in left if not _is_done(traces[n], requests[n])]
    return sum(map(len, traces))


def _is_done(trace: list[int], request: RolloutRequest) -> bool:
    return trace[-1] in request.stop_ids or len(trace) >= request.synthesis.max_tokens


def _mixed(ours: Likeliest, theirs: Likeliest, request: RolloutRequest, numbers: np.random.Generator) -> int:
    known = dict(zip(*theirs, strict=True))
    for _ in range(request.synthesis.proposals):
        proposal = int(numbers.choice(ours[0], p=ours[1] / ours[1].sum()))
        if known.get(proposal, 0.0) >= request.synthesis.tau:
            return proposal
    return int(numbers.choice(theirs[0], p=theirs[1] / theirs[1].sum()))


def _asked(engine: Any, prompts: list[list[int]]) -> list[Likeliest]:
    """The likeliest tokens after each prompt, in its order."""
    sampling = SamplingParams(
        temperature=1.0,
        max_tokens=1,
        logprobs=SCORE_TOP,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    order = {f"stepwise-{next(_names)}": place for place in range(len(prompts))}
    for name, prompt in zip(order, prompts, strict=True):
        engine.add_request(name, {"prompt_token_ids": prompt}, sampling)
    found: dict[int, Likeliest] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            (logprobs,) = output.outputs[0].logprobs
            named = [(token, one.logprob) for token, one in logprobs.items() if one.rank <= SCORE_TOP]
            ids, values = zip(*named, strict=True)
            found[order[output.request_id]] = np.array(ids), np.exp(np.array(values))
    return [found[place] for place in range(len(prompts))]
