"""Ways to draw the same rollouts, in one engine and one run.

    python -m tests.bench.rollout [--model FOLDER] [--pairs 64] [--tokens 200] [--repeats 5]

rows: lockstep's rows a second over plain decoding's. Plain decoding is the ceiling: both rows of every pair as ordinary
requests, sampled by vLLM itself, all for a fixed number of tokens. traces: whole traces a second, which end by
themselves: the privileged student's rows sampled plainly by vLLM, direct sampling by our own draws, lockstep, lazy with
and without the student's reading, and draft_verify on two engines in this process. All are run in turn, so that a
machine whose speed drifts favours none. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

from synth.config import EngineConfig
from synth.engine.base import Row
from synth.engine.vllm import VllmEngine
from synth.pair import Pair
from synth.prompts import Prompts
from synth.schema.items import Synthesis, load_items
from synth.strategies.base import RolloutRequest

DEMO = Path(__file__).parents[2] / "deploy" / "demo"


Measured = tuple[float, int]  # seconds, tokens


def traces(pair: Pair, requests: list[RolloutRequest]) -> Measured:
    started = time.perf_counter()
    for request in requests:
        pair.add(request)
    tokens = 0
    while pair.pending():
        tokens += sum(len(rollout.tokens) for rollout in pair.step())
    return time.perf_counter() - started, tokens


def plain(engine: VllmEngine, requests: list[RolloutRequest], roles: str) -> Measured:
    """The contexts of every request as ordinary rows: `s` the student's, `p` the privileged student's."""
    started = time.perf_counter()
    for request in requests:
        for role, ids in (("s", request.student_ids), ("p", request.privileged_ids)):
            if role not in roles:
                continue
            row_id = f"{request.unit_id}/{role}"
            engine.add(Row(row_id, ids, request.synthesis.max_tokens, 1.0, request.seed, request.stop_ids))
    tokens, left = 0, len(roles) * len(requests)
    while left:
        for row in engine.step():
            tokens += len(row.token_ids)
            left -= 1
    return time.perf_counter() - started, tokens


def spread(values: Iterable[float]) -> list[float]:
    """Median, smallest, largest."""
    ordered = sorted(values)
    return [round(value, 3) for value in (statistics.median(ordered), ordered[0], ordered[-1])]


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

    def requests(method: str, stop_ids: frozenset[int]) -> list[RolloutRequest]:
        settings = Synthesis(method=method, tau=options.tau, temperature=1.0, max_tokens=options.tokens)
        return [
            RolloutRequest(f"{next(names)}", context.student_ids, context.privileged_ids, settings, number, stop_ids)
            for number, context in enumerate(contexts)
        ]

    names = itertools.count()
    student = VllmEngine(EngineConfig(model=options.model, rows=options.pairs, step_tokens=65536))
    lazy = Pair(engine, "lazy", with_scores=False)
    pairs = {
        "direct": Pair(engine),
        "lockstep": Pair(engine, "lockstep"),
        "lazy": lazy,
        "lazy and reading": Pair(engine, "lazy"),
        "draft_verify": Pair(engine, "draft_verify", student),
    }
    runs: list[dict[str, Measured]] = []
    for _ in range(options.repeats + 1):
        run = {
            "rows, lockstep": traces(pairs["lockstep"], requests("mixed", frozenset())),
            "rows, plain": plain(engine, requests("mixed", frozenset()), "sp"),
            "plain": plain(engine, requests("direct", prompts.stop_ids), "p"),
        }
        for name, pair in pairs.items():
            method = "direct" if name == "direct" else "mixed"
            run[name] = traces(pair, requests(method, prompts.stop_ids))
        runs.append(run)
    num_questions = lazy._strategies["lazy"].num_questions / len(runs)
    runs = runs[1:]  # the first warms up

    def per_second(name: str, run: dict[str, Measured]) -> float:
        seconds, tokens = run[name]
        return (2 if name == "rows, lockstep" else 1) * tokens / seconds

    def faster(one: str, other: str) -> list[float]:
        """By which factor, for the same number of traces."""
        return spread(run[other][0] / run[one][0] for run in runs)

    result = {
        "bench": "rollout",
        "lockstep ÷ plain, rows/s": spread(
            per_second("rows, lockstep", r) / per_second("rows, plain", r) for r in runs
        ),
        "lazy ÷ plain vLLM, traces/s": faster("lazy", "plain"),
        "lazy ÷ direct, traces/s": faster("lazy", "direct"),
        "lazy ÷ lockstep, traces/s": faster("lazy", "lockstep"),
        "lazy with reading ÷ without, traces/s": faster("lazy and reading", "lazy"),
        "lockstep ÷ direct, traces/s": faster("lockstep", "direct"),
        "direct ÷ plain vLLM, traces/s": faster("direct", "plain"),
        "lazy ÷ draft_verify, traces/s": faster("lazy", "draft_verify"),
        "lockstep ÷ draft_verify, traces/s": faster("lockstep", "draft_verify"),
        "student queries per 256 trace tokens": round(256 * num_questions / runs[-1]["lazy"][1], 2),
        "lockstep rows/s": round(statistics.median(per_second("rows, lockstep", run) for run in runs)),
        "direct traces/s": round(statistics.median(options.pairs / run["direct"][0] for run in runs), 1),
        "pairs": options.pairs,
        "tokens": options.tokens,
        "tau": options.tau,
        "engine": engine.name,
        "model": options.model.name,
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
