"""What several proposals a position cost, and what the authors' shape of requests costs beside whole sequences.

    OMP_NUM_THREADS=1 python -m tests.bench.proposals [--pairs 64] [--tokens 200] [--repeats 3]

Tokens a second of the demo model at temperature 1 and tau 0.8, in traces that end by themselves: lockstep and lazy with
1, 5 and 16 proposals, draft_verify with 1 and 5, and `tests.bench.stepwise`: one request a role and token on two
engines, with 5 proposals as its authors have it. All are run in turn in one process. Prints one JSON line of ratios:
median, smallest, largest.

An engine prefills again what its last cached block does not hold, for each request a token: vLLM's blocks have 128
tokens on a CPU and 16 on a GPU, so they are set to 32 here, for all ways, the least that the CPU build takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

from dail.synth.config import EngineConfig
from dail.synth.data.reader import load_items
from dail.synth.engine.vllm import VllmEngine
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.schema.synthesis import Synthesis
from tests.bench.rollout import Measured, spread, traces
from tests.bench.shapes import DEMO, fitted, machine, model_of
from tests.bench.stepwise import stepwise

WAYS = (("lockstep", 1), ("lockstep", 5), ("lockstep", 16), ("lazy", 1), ("lazy", 5), ("lazy", 16))
DRAFTED = (("draft_verify", 1), ("draft_verify", 5))
_BLOCK = 32  # tokens: the least that the CPU build takes
_names = itertools.count()


class Bench:
    """Two engines of the demo model, one of which serves all ways but those that need two."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, model = options, model_of("demo")
        prompts, items = Prompts(model.folder), load_items(DEMO / "expert_solutions.jsonl")
        self._stop_ids = prompts.stop_ids
        settings = Synthesis(thinking=False if prompts.has_thinking_switch else None)
        self._contexts = [prompts.contexts(items[n % len(items)], settings) for n in range(options.pairs)]
        config = EngineConfig(model=model.folder, dtype=model.dtype, rows=2 * options.pairs)
        self.engines = [VllmEngine(fitted(config, model, 2), block_size=_BLOCK, **model.vllm_args) for _ in range(2)]
        self._pair_of = {
            "lockstep": Pair(self.engines[0], "lockstep"),
            "lazy": Pair(self.engines[0], "lazy", with_scores=False),
            "draft_verify": Pair(self.engines[0], "draft_verify", self.engines[1]),
        }

    def ways(self) -> dict[str, Callable[[], Measured]]:
        ways: dict[str, Callable[[], Measured]] = {
            _label(*way): lambda way=way: traces(self._pair_of[way[0]], self._requests(way[1]))  # type: ignore[misc]
            for way in (*WAYS, *DRAFTED)
        }
        return {**ways, "a request a token": self._stepwise}

    def _requests(self, proposals: int) -> list[RolloutRequest]:
        settings = Synthesis(max_tokens=self.options.tokens, temperature=1.0, tau=0.8, proposals=proposals)
        return [
            RolloutRequest(f"{next(_names)}", one.student_ids, one.privileged_ids, settings, number, self._stop_ids)
            for number, one in enumerate(self._contexts)
        ]

    def _stepwise(self) -> Measured:
        requests, started = self._requests(5), time.perf_counter()
        tokens = stepwise(self.engines[1]._engine, self.engines[0]._engine, requests)
        return time.perf_counter() - started, tokens

    def result(self) -> dict[str, Any]:
        ways = self.ways()
        # the first round warms up
        runs = [{name: way() for name, way in ways.items()} for _ in range(self.options.repeats + 1)][1:]

        def ratio(one: str, other: str) -> list[float]:
            """Tokens a second of the one over the other's."""
            return spread(_speed(run[one]) / _speed(run[other]) for run in runs)

        several = {
            f"{name}, {n} proposals ÷ 1": ratio(_label(name, n), _label(name, 1))
            for name, n in (*WAYS, *DRAFTED)
            if n > 1
        }
        outside = {
            f"{name}, 5 ÷ a request a token": ratio(_label(name, 5), "a request a token") for name in self._pair_of
        }
        return {
            "bench": "proposals",
            **vars(self.options),
            **several,
            **outside,
            "tokens/s": {name: round(spread(_speed(run[name]) for run in runs)[0]) for name in ways},
            "block": self.engines[0].limits.kv_block,
            "machine": machine(),
        }


def _label(name: str, proposals: int) -> str:
    return f"{name}, {proposals}"


def _speed(measured: Measured) -> float:
    seconds, tokens = measured
    return tokens / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    bench = Bench(parser.parse_args())
    print(json.dumps(bench.result(), ensure_ascii=False), flush=True)
    for engine in bench.engines:
        engine.close()


if __name__ == "__main__":
    main()
