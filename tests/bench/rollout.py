"""Lockstep's rows a second over plain decoding's, for the same rows in the same engine, in one run.

    python -m tests.bench.rollout [--model FOLDER] [--pairs 64] [--tokens 200] [--repeats 5]

Plain decoding is the ceiling: both rows of every pair as ordinary requests, sampled by vLLM itself. The two are run in
turn, so that a machine whose speed drifts does not favour one. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

from synth.config import EngineConfig
from synth.engine.base import Row
from synth.engine.vllm import VllmEngine
from synth.pair import Pair
from synth.prompts import Contexts, Prompts
from synth.schema.items import Synthesis, load_items
from synth.strategies.base import RolloutRequest

DEMO = Path(__file__).parents[2] / "deploy" / "demo"


def lockstep(engine: VllmEngine, contexts: list[Contexts], tokens: int, tau: float) -> float:
    """Rows a second: trace tokens of all pairs, times two."""
    pair = Pair(engine)
    settings = Synthesis(tau=tau, temperature=1.0, max_tokens=tokens)
    started = time.perf_counter()
    for number, context in enumerate(contexts):
        request = RolloutRequest(
            f"{started}-{number}", context.student_ids, context.privileged_ids, settings, number, frozenset()
        )
        pair.add(request)
    decoded = 0
    while pair.pending():
        decoded += sum(2 * len(rollout.trace_ids) for rollout in pair.step())
    return decoded / (time.perf_counter() - started)


def plain(engine: VllmEngine, contexts: list[Contexts], tokens: int) -> float:
    started = time.perf_counter()
    for number, context in enumerate(contexts):
        for role, ids in (("s", context.student_ids), ("p", context.privileged_ids)):
            engine.add(Row(f"{started}-{number}/{role}", ids, tokens, 1.0, number, frozenset()))
    decoded, left = 0, 2 * len(contexts)
    while left:
        for row in engine.step():
            decoded += len(row.token_ids)
            left -= 1
    return decoded / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO / "model")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tau", type=float, default=0.8)
    options = parser.parse_args()

    prompts = Prompts(options.model)
    items = load_items(DEMO / "expert_solutions.jsonl")
    thinking = False if prompts.has_thinking_switch else None
    contexts = [prompts.contexts(items[n % len(items)], thinking) for n in range(options.pairs)]
    engine = VllmEngine(EngineConfig(model=options.model, rows=2 * options.pairs, step_tokens=65536))
    runs = []
    for repeat in range(options.repeats + 1):
        run = lockstep(engine, contexts, options.tokens, options.tau), plain(engine, contexts, options.tokens)
        if repeat:  # the first warms up
            runs.append(run)
    ratios = sorted(mixed / ceiling for mixed, ceiling in runs)
    print(
        json.dumps(
            {
                "bench": "lockstep rows/s ÷ plain rows/s",
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_min_max": [round(ratios[0], 3), round(ratios[-1], 3)],
                "lockstep_rows_s": round(statistics.median(mixed for mixed, _ in runs)),
                "plain_rows_s": round(statistics.median(ceiling for _, ceiling in runs)),
                "pairs": options.pairs,
                "tokens": options.tokens,
                "tau": options.tau,
                "engine": engine.name,
                "model": options.model.name,
                "machine": platform.processor() or platform.machine(),
            },
            ensure_ascii=False,
        )
    )


if __name__ == "__main__":
    main()
