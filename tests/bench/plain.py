"""Plain decoding by vLLM itself, as fast as it can: what ours is held against.

    python -m tests.bench.plain --shape qwen2.5-7b [--rows 512] [--tokens 256] [--repeats 2]

Run by itself it takes an engine as vLLM starts it: its own scheduling ahead, no logits processor of ours. The plain
rows of tests/bench/rollout.py run in our engine, which schedules step by step; this says what that costs. Prints one
JSON line. Rows have no seeds: vLLM draws the noise of seeded rows one row after the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

import dail.synth.engine.vllm  # noqa: F401  (sets what vLLM reads from the environment)
from dail.synth.data.reader import load_items
from dail.synth.method.prompts import Prompts
from dail.synth.schema.synthesis import Synthesis
from tests.bench.shapes import DEMO, SHAPES, Model, machine, model_of

_MODEL_TOKENS = 1024
_CPU_ARGS = {"kv_cache_memory_bytes": 1 << 28, "enforce_eager": True}  # else nearly all of the memory, and minutes
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


def start(model: Model, rows: int) -> LLMEngine:
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(model.folder),
            dtype=model.dtype,
            max_num_seqs=rows,
            max_model_len=_MODEL_TOKENS,
            disable_log_stats=True,
            seed=0,
            **model.vllm_args,
            **(_CPU_ARGS if current_platform.is_cpu() else {}),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    model = model_of(options.shape)
    prompts = Prompts(model.folder)
    thinking = False if prompts.has_thinking_switch else None
    ids = [
        prompts.contexts(item, Synthesis(thinking=thinking)).privileged_ids
        for item in load_items(DEMO / "expert_solutions.jsonl")
    ]
    started = time.perf_counter()
    engine = start(model, options.rows)
    start_s, settings = time.perf_counter() - started, Synthesis(temperature=1.0, max_tokens=options.tokens)
    rows = list(itertools.islice(itertools.cycle(ids), options.rows))
    runs = [decode(engine, rows, settings) for _ in range(options.repeats + 1)]
    figures = {
        "bench": "plain",
        **vars(options),
        "tokens/s": [round(run.tokens / run.seconds) for run in runs[1:]],  # the first warms up
        "scheduled ahead": engine.vllm_config.scheduler_config.async_scheduling,
        "start_s": round(start_s, 1),
        "machine": machine(),
    }
    print(json.dumps(figures, ensure_ascii=False), flush=True)
    engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
