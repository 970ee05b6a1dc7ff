"""What vLLM's own speculative decoding could bring under strategy lazy, at the most.

    OMP_NUM_THREADS=1 python -m tests.bench.speculation [--shape demo] [--rows 1 8 64] [--tokens 200] [--repeats 3]

vLLM takes no custom logits processors beside speculative decoding, so lazy would have to watch log-probabilities from
outside. Measured is what bounds that from above: the privileged student's rows decoded plainly, with n-gram drafts
(looked up in the prompt, expert solution included) and without, in two engines that run in turn. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.sampling_params import RequestOutputKind

from dail.synth.method.prompts import Prompts
from dail.synth.schema.items import load_items
from tests.bench.shapes import DEMO, SHAPES, Model, machine, model_of

NGRAMS = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2}


def start(model: Model, rows: int, speculative: dict[str, Any] | None) -> LLMEngine:
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(model.folder),
            dtype=model.dtype,
            max_num_seqs=rows,
            max_num_batched_tokens=16384,
            max_model_len=1024,
            kv_cache_memory_bytes=1 << 30,
            enforce_eager=True,
            disable_log_stats=True,
            speculative_config=speculative,
            **model.vllm_args,
        )
    )


def drive(engine: LLMEngine, prompts: list[list[int]], stop_ids: list[int], options: argparse.Namespace) -> float:
    """Tokens a second."""
    for number, ids in enumerate(prompts):
        sampling = SamplingParams(
            temperature=options.temperature,
            seed=number,
            max_tokens=options.tokens,
            stop_token_ids=stop_ids,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(f"r{number}", {"prompt_token_ids": ids}, sampling)
    started, tokens = time.perf_counter(), 0
    while engine.has_unfinished_requests():
        tokens += sum(len(one.outputs[0].token_ids) for one in engine.step() if one.finished)
    return tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    import dail.synth.engine.vllm  # noqa: F401  (sets what vLLM reads from the environment)

    model = model_of(options.shape)
    prompts, items = Prompts(model.folder), load_items(DEMO / "expert_solutions.jsonl")
    thinking = False if prompts.has_thinking_switch else None
    privileged = [prompts.contexts(item, thinking).privileged_ids for item in items]
    stop_ids = sorted(prompts.stop_ids)
    engines = [start(model, max(options.rows), speculative) for speculative in (None, NGRAMS)]
    found = {}
    for rows in options.rows:
        ratios = []
        for _ in range(options.repeats + 1):
            plain, drafted = (drive(engine, privileged[:rows], stop_ids, options) for engine in engines)
            ratios.append(drafted / plain)
        ordered = sorted(ratios[1:])  # the first warms up
        found[f"{rows} rows"] = [round(value, 3) for value in (statistics.median(ordered), ordered[0], ordered[-1])]
    known = {"bench": "speculation", "shape": options.shape, "temperature": options.temperature}
    print(json.dumps({**known, "n-gram drafts ÷ plain, tokens/s": found, "machine": machine()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
