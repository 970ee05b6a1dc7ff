"""What vLLM's own speculative decoding could bring under strategy lazy, at the most.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python -m tests.bench.speculation [--shape demo] [--rows 1 8 64] [--repeats 3]
    python -m tests.bench.speculation --shape qwen2.5-7b --temperature 0                     (one GPU)

vLLM takes no custom logits processors beside speculative decoding, so lazy would have to watch log-probabilities from
outside. Measured is what bounds that from above: the privileged student's rows decoded plainly, with n-gram drafts
(looked up in the row, expert solution included) and without, in two engines that run in turn. Tokens of a row in a step
say how many drafts stood: with made-up weights none at a temperature, and nearly all of them greedily, where such
weights go round in circles; so that is the bound. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from vllm import EngineArgs, LLMEngine
from vllm.platforms import current_platform

import dail.synth.engine.vllm  # noqa: F401  (sets what vLLM reads from the environment)
from dail.synth.data.reader import load_items
from dail.synth.engine.sizing import shape_of
from dail.synth.method.prompts import Prompts
from dail.synth.schema.synthesis import Synthesis
from tests.bench.plain import decode
from tests.bench.shapes import DEMO, SHAPES, Model, machine, model_of

NGRAMS = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
_MODEL_TOKENS = 1024
_SHARE = 0.45  # of a GPU's memory: two engines run in turn


def start(model: Model, rows: int, speculative: dict[str, Any] | None) -> LLMEngine:
    """Takes less than half of a GPU, so that another one fits beside it, with a KV cache that never preempts a row."""
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(model.folder),
            dtype=model.dtype,
            max_num_seqs=rows,
            max_num_batched_tokens=16384,
            max_model_len=_MODEL_TOKENS,
            kv_cache_memory_bytes=(rows + 1) * _MODEL_TOKENS * shape_of(model.folder, model.dtype).kv_token_bytes,
            gpu_memory_utilization=_SHARE,
            enforce_eager=current_platform.is_cpu(),
            disable_log_stats=True,
            speculative_config=speculative,
            **model.vllm_args,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    model = model_of(options.shape)
    prompts, items = Prompts(model.folder), load_items(DEMO / "expert_solutions.jsonl")
    thinking = False if prompts.has_thinking_switch else None
    privileged = [prompts.contexts(item, Synthesis(thinking=thinking)).privileged_ids for item in items]
    stop_ids = sorted(prompts.stop_ids)
    settings = Synthesis(temperature=options.temperature, max_tokens=options.tokens)
    engines = [start(model, max(options.rows), speculative) for speculative in (None, NGRAMS)]
    found = {}
    for rows in options.rows:
        faster, stood = [], []
        for _ in range(options.repeats + 1):
            plain, drafted = (decode(engine, privileged[:rows], settings, stop_ids) for engine in engines)
            faster.append(drafted.tokens / drafted.seconds * plain.seconds / plain.tokens)
            stood.append(drafted.tokens / drafted.row_steps)
        ordered = sorted(faster[1:])  # the first warms up
        found[f"{rows} rows"] = {
            "÷ plain, tokens/s": [round(value, 3) for value in (statistics.median(ordered), ordered[0], ordered[-1])],
            "tokens of a row in a step": round(statistics.median(stood[1:]), 2),
        }
    known = {"bench": "speculation", "shape": options.shape, "temperature": options.temperature}
    print(json.dumps({**known, "n-gram drafts": found, "machine": machine()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
