"""Where a step's time goes under lockstep, lazy, and lazy with the student's reading. Prints one JSON line.

    OMP_NUM_THREADS=1 python -m tests.bench.where [--pairs 64] [--tokens 200] [--repeats 3]

Demo model, traces of a fixed length. A clock is put around some methods of vLLM and of ours, in this process; a figure
is the time inside one without what is inside the next, in milliseconds for 1,000 trace tokens. The clock costs under a
microsecond a call, a few dozen calls a step. GPUs compute behind Python's back, so there it would mislead.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from dail.synth.engine.sampling import BatchSampler
from dail.synth.rollout.pair import Pair
from tests.bench.clock import Clock
from tests.bench.rollout import Bench, traces
from tests.bench.shapes import machine, model_of


def watch(bench: Bench) -> Clock:
    clock = Clock()
    vllm: Any = bench.engine._engine
    core = vllm.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    clock.put(Pair, "step", "dail: strategy, admission, records")
    clock.put(BatchSampler, "apply", "dail: sampler")
    clock.put(BatchSampler, "index", "dail: sampler")
    clock.put(vllm, "step", "vLLM: rest")
    clock.put(vllm.output_processor, "process_outputs", "vLLM: outputs")
    clock.put(core.scheduler, "schedule", "vLLM: scheduler")
    clock.put(core.scheduler, "update_from_output", "vLLM: scheduler")
    clock.put(runner, "_model_forward", "model")
    clock.put(runner.model, "compute_logits", "model")
    clock.put(runner, "_sample", "vLLM: sampler")
    clock.put(runner, "_get_prompt_logprobs_dict", "vLLM: log-probabilities of prompts")
    for name in ("_update_states", "_prepare_inputs", "_build_attention_metadata", "_bookkeeping_sync"):
        clock.put(runner, name, "vLLM: batch")
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.tau, options.step_tokens, options.ahead = 0.8, None, False
    bench = Bench(model_of("demo"), True, options.pairs, options)
    clock = watch(bench)
    found: dict[str, Any] = {}
    for name in ("lockstep", "lazy", "lazy and reading"):
        pair, tokens = bench.pair_of[name], 0
        traces(pair, bench.requests("mixed", False))  # warms up
        clock.seconds.clear()
        for _ in range(options.repeats):
            tokens += traces(pair, bench.requests("mixed", False))[1]
        by_label = {label: 1e6 * seconds / tokens for label, seconds in clock.seconds.most_common()}
        found[name] = {label: round(value, 1) for label, value in by_label.items()}
        found[name]["all"] = round(sum(by_label.values()), 1)
    print(json.dumps({"bench": "where", **vars(options), "ms per 1,000 tokens": found, "machine": machine()}))
    bench.close()


if __name__ == "__main__":
    main()
