"""How throughput grows with pairs in one engine, and with engines on one machine.

    OMP_NUM_THREADS=1 python -m tests.bench.scale [--shape demo] [--pairs 8 … 512] [--actors 1 2] [--tokens 128]
    python -m tests.bench.scale --shape qwen2.5-7b [--tokens 256] [--ahead]                  (one GPU)

Pairs: one engine in this process, lockstep and lazy, in turn. Actors: a pool on a local Ray, as a worker uses it, with
the same number of units each time. Every trace has the same length. Prints one JSON line for each. Actors are left out
for shapes whose weights are made up, so those need no Ray. `--ahead`: see tests/bench/rollout.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.data.reader import load_items
from dail.synth.engine.vllm import VllmEngine
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.schema.synthesis import Synthesis
from tests.bench.shapes import DEMO, SHAPES, Model, fitted, machine, model_of

STRATEGIES = ("lockstep", "lazy")


def requests(model: Model, number: int, tokens: int) -> list[RolloutRequest]:
    prompts, items = Prompts(model.folder), load_items(DEMO / "expert_solutions.jsonl")
    thinking = False if prompts.has_thinking_switch else None
    contexts = [prompts.contexts(item, Synthesis(thinking=thinking)) for item in items]
    settings = Synthesis(max_tokens=tokens, temperature=1.0)
    return [
        RolloutRequest(
            f"u{n}",
            contexts[n % len(items)].student_ids,
            contexts[n % len(items)].privileged_ids,
            settings,
            n,
            frozenset(),
        )
        for n in range(number)
    ]


def longest(everything: list[RolloutRequest]) -> int:
    """Tokens that a row may reach, and one to spare."""
    prompt = max(max(len(one.student_ids), len(one.privileged_ids)) for one in everything)
    return prompt + everything[0].synthesis.max_tokens + 1


def by_pairs(options: argparse.Namespace, model: Model) -> None:
    most = max(options.pairs)
    everything = requests(model, most, options.tokens)
    config = EngineConfig(model=model.folder, dtype=model.dtype, rows=2 * most, model_tokens=longest(everything))
    ahead = {"async_scheduling": True} if options.ahead else {}
    engine = VllmEngine(fitted(config, model), **model.vllm_args, **ahead)
    for number in options.pairs:
        rates: dict[str, float] = {}
        for strategy in STRATEGIES:
            pair = Pair(engine, strategy, with_scores=False)
            for _ in range(2):  # the first warms up
                started, tokens = time.perf_counter(), 0
                for request in everything[:number]:
                    pair.add(request)
                while pair.pending():
                    tokens += sum(len(rollout.tokens) for rollout in pair.step())
                rates[strategy] = tokens / (time.perf_counter() - started)
        emit(options, pairs=number, **{f"{name} tokens/s": round(rate) for name, rate in rates.items()})
    engine.close()


async def by_actors(options: argparse.Namespace, model: Model, actors: int) -> float:
    """Tokens a second from the first submission to the last trace."""
    from dail.synth.run.pool import rollout_pool

    everything = requests(model, options.units, options.tokens)
    engine = EngineConfig(model=model.folder, dtype=model.dtype, rows=128, model_tokens=longest(everything))
    async with rollout_pool(SynthConfig(engine=engine, actors=actors, score_student=False)) as pool:
        while pool.room() < 2 * actors:  # until all of them are ready
            await asyncio.sleep(0.1)
        waiting, tokens, done = list(everything), 0, 0
        started = time.perf_counter()
        while done < len(everything):
            room = pool.room()
            pool.submit(waiting[:room])
            waiting = waiting[room:]
            results = await pool.next_results()
            assert not results.failed, results.failed[0].detail
            done += len(results.finished)
            tokens += sum(len(rollout.tokens) for rollout in results.finished)
        return tokens / (time.perf_counter() - started)


def emit(options: argparse.Namespace, **figures: Any) -> None:
    known = {"bench": "scale", "shape": options.shape, "tokens": options.tokens, "ahead": options.ahead}
    print(json.dumps({**known, **figures, "machine": machine()}, ensure_ascii=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--pairs", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--ahead", action="store_true", help="let vLLM schedule ahead: one engine's figures only")
    options = parser.parse_args()
    model = model_of(options.shape)
    by_pairs(options, model)
    if model.vllm_args or options.ahead:
        return  # weights made up in each actor would need another way to tell vLLM so
    from dail.synth.run.ray_cluster import ray_cluster

    for actors in options.actors:
        with ray_cluster():
            rate = asyncio.run(by_actors(options, model, actors))
        emit(options, actors=actors, units=options.units, **{"lazy tokens/s": round(rate)})


if __name__ == "__main__":
    main()
