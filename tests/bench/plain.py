"""Plain decoding by vLLM itself, as fast as it can: what ours is held against.

Rows have no seeds: vLLM draws the noise of seeded rows one row after the other.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from dail.synth.schema.synthesis import Synthesis

_rows = itertools.count()


class Decoded(NamedTuple):
    """`row_steps`: in how many steps each row was, added up."""

    seconds: float
    tokens: int
    row_steps: int


def decode(engine: Any, prompts: Iterable[Sequence[int]], settings: Synthesis, stop_ids: Iterable[int] = ()) -> Decoded:
    """All of them, to their ends, on vLLM's LLMEngine."""
    started, tokens, row_steps = time.perf_counter(), 0, 0
    for ids in prompts:
        sampling = SamplingParams(
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            stop_token_ids=sorted(stop_ids),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(f"plain-{next(_rows)}", {"prompt_token_ids": list(ids)}, sampling)
    while engine.has_unfinished_requests():
        row_steps += engine.get_num_unfinished_requests()
        tokens += sum(len(one.outputs[0].token_ids) for one in engine.step() if one.finished)
    return Decoded(time.perf_counter() - started, tokens, row_steps)
