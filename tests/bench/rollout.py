"""Ways to draw the same rollouts, in one engine and one run.

    OMP_NUM_THREADS=1 python -m tests.bench.rollout [--shape demo] [--pairs 64] [--tokens 200] [--repeats 5]
    python -m tests.bench.rollout --shape qwen2.5-7b --pairs 256 --tokens 256 --repeats 3 [--ahead]          (one GPU)

rows: lockstep's rows a second over plain decoding's. Plain decoding is the ceiling: both rows of every pair as ordinary
requests without seeds, sampled by vLLM itself, all for a fixed number of tokens. traces: whole traces a second, which
end by themselves: the privileged student's rows sampled plainly by vLLM, direct sampling by our own draws, lockstep,
lazy with and without the student's reading, draft_verify on two engines in this process, and a token-by-token loop in
transformers with a KV cache. All are run in turn, so that a machine whose speed drifts favours none. Prints one JSON
line for each number of pairs; several are measured in a process each, with which vLLM gives a GPU's memory back.

With `--ahead` the engine prepares a step before the last one's tokens are known, as vLLM does by itself on a GPU, for
all ways alike: `plain rows/s` and `plain tokens/s` of such a run are what ours without it is to be held against.

With a shape other than the demo's the weights are made up and every trace has the same length. The temperature is then
found so that the student is asked about 5 times in 256 tokens, and tau is held against tempered probabilities;
draft_verify, which knows raw ones only, is left out, and so is the transformers loop.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from dail.synth.config import EngineConfig
from dail.synth.data.reader import load_items
from dail.synth.engine.vllm import VllmEngine
from dail.synth.method.acceptance import Rule, Sampling, mix, uniforms
from dail.synth.method.prompts import Contexts, Prompts
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.rollout.select import acceptance
from dail.synth.schema.synthesis import Synthesis
from tests.bench.plain import decode
from tests.bench.shapes import DEMO, SHAPES, Model, fitted, machine, model_of
from tests.bench.watching import watched

Measured = tuple[float, int]  # seconds, tokens
_LOOPS = 4  # traces of the transformers loop, which takes seconds for each
_WANTED_QUESTIONS = 5.0  # in 256 tokens: as many as were first seen on a small model
_PROBED = 16  # tokens of each trace, at every temperature
names = itertools.count()


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
    prompts = [
        ids
        for request in requests
        for role, ids in (("s", request.student_ids), ("p", request.privileged_ids))
        if role in roles
    ]
    seconds, tokens, _ = decode(engine._engine, prompts, requests[0].synthesis, requests[0].stop_ids)
    return seconds, tokens


def transformers_loop(model: Any, requests: list[RolloutRequest]) -> Measured:
    """One trace after the other, both roles' caches grown by one token at a time."""
    started, total = time.perf_counter(), 0
    device = torch.device("cpu")
    for request in requests:
        synthesis = request.synthesis
        sampling = Sampling.of([(synthesis.temperature, synthesis.top_p, synthesis.top_k)], device)
        rule = Rule.of([acceptance(synthesis)], device)
        tokens: list[int] = []
        caches: dict[str, Any] = {"s": None, "p": None}
        new = {"s": list(request.student_ids), "p": list(request.privileged_ids)}
        while len(tokens) < synthesis.max_tokens and not (tokens and tokens[-1] in request.stop_ids):
            logits = {}
            for role in ("s", "p"):
                with torch.inference_mode():
                    out = model(torch.tensor([new[role]]), past_key_values=caches[role], use_cache=True)
                caches[role], logits[role] = out.past_key_values, out.logits[:, -1]
            numbers = uniforms(torch.tensor([request.seed]), torch.tensor([len(tokens)]))
            token = int(mix(logits["s"], logits["p"], sampling, rule, numbers).token_P)
            tokens.append(token)
            new = {"s": [token], "p": [token]}
        total += len(tokens)
    return time.perf_counter() - started, total


def spread(values: Iterable[float]) -> list[float]:
    """Median, smallest, largest."""
    ordered = sorted(values)
    return [round(value, 3) for value in (statistics.median(ordered), ordered[0], ordered[-1])]


def asking_temperature(engine: VllmEngine, contexts: list[Contexts], tau: float) -> float:
    """The lowest at which made-up weights let the student be asked so often, or the busiest."""
    pair, rates = Pair(engine, "lazy", with_scores=False), {}
    lazy: Any = pair._strategies["lazy"]
    for step in range(31):  # made-up weights give logits so near each other that a temperature far below 1 is needed
        temperature = 10 ** (-10 + step / 3)
        settings = Synthesis(temperature=temperature, max_tokens=_PROBED, tau=tau, probability_space="tempered")
        before, tokens = lazy.num_questions, _PROBED * len(contexts[:16])
        for number, context in enumerate(contexts[:16]):
            name = f"{next(names)}"
            pair.add(RolloutRequest(name, context.student_ids, context.privileged_ids, settings, number, frozenset()))
        while pair.pending():
            pair.step()
        rates[temperature] = 256 * (lazy.num_questions - before) / tokens
        if rates[temperature] >= _WANTED_QUESTIONS:
            return temperature
    return max(rates, key=lambda temperature: rates[temperature])


class Bench:
    """Engines and contexts of one shape, and what is run on them."""

    def __init__(self, model: Model, is_demo: bool, pairs: int, options: argparse.Namespace) -> None:
        self.options, self.pairs, self.is_demo = options, pairs, is_demo
        self._prompts = prompts = Prompts(model.folder)
        items = load_items(DEMO / "expert_solutions.jsonl")
        thinking = False if prompts.has_thinking_switch else None
        self._contexts = [prompts.contexts(items[n % len(items)], Synthesis(thinking=thinking)) for n in range(pairs)]
        config = EngineConfig(model=model.folder, dtype=model.dtype, rows=2 * pairs, step_tokens=options.step_tokens)
        num_engines = 2 if is_demo else 1
        # lazy from outside holds tau against what vLLM returns, which must then be tempered as well
        vllm_args = model.vllm_args if is_demo else {**model.vllm_args, "logprobs_mode": "processed_logprobs"}
        ahead = {"async_scheduling": True} if options.ahead else {}
        self.engine = VllmEngine(fitted(config, model, num_engines), **vllm_args, **ahead)
        self.pair_of = {
            "direct": Pair(self.engine),
            "lockstep": Pair(self.engine, "lockstep"),
            "lazy": Pair(self.engine, "lazy", with_scores=False),
            "lazy and reading": Pair(self.engine, "lazy"),
        }
        self._student, self._loop = None, None
        self._rule: dict[str, Any] = {"temperature": 1.0, "tau": options.tau}
        if is_demo:
            from transformers import AutoModelForCausalLM

            self._student = VllmEngine(fitted(config, model, 2), **ahead)
            self.pair_of["draft_verify"] = Pair(self.engine, "draft_verify", self._student)
            self._loop = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32).eval()
        else:
            self._rule |= {"probability_space": "tempered"}
            self._rule["temperature"] = asking_temperature(self.engine, self._contexts, options.tau)

    def requests(self, method: str, until_stop: bool = True) -> list[RolloutRequest]:
        settings = Synthesis(method=method, max_tokens=self.options.tokens, **self._rule)
        stop_ids = self._prompts.stop_ids if until_stop and self.is_demo else frozenset()
        return [
            RolloutRequest(f"{next(names)}", context.student_ids, context.privileged_ids, settings, number, stop_ids)
            for number, context in enumerate(self._contexts)
        ]

    def run(self) -> dict[str, Measured]:
        """Every way once."""
        ways: dict[str, Callable[[], Measured]] = {
            "rows, lockstep": lambda: traces(self.pair_of["lockstep"], self.requests("mixed", False)),
            "rows, plain": lambda: plain(self.engine, self.requests("mixed", False), "sp"),
            "plain": lambda: plain(self.engine, self.requests("direct"), "p"),
        }
        for name, pair in self.pair_of.items():
            method = "direct" if name == "direct" else "mixed"
            ways[name] = lambda pair=pair, method=method: traces(pair, self.requests(method))
        ways["lazy from outside"] = lambda: self._watched(self.requests("mixed"))
        if self._loop is not None:
            ways["transformers"] = lambda: transformers_loop(self._loop, self.requests("mixed")[:_LOOPS])
        return {name: way() for name, way in ways.items()}

    def _watched(self, requests: list[RolloutRequest]) -> Measured:
        started = time.perf_counter()
        tokens = watched(self.engine._engine, requests)
        return time.perf_counter() - started, tokens

    def result(self) -> dict[str, Any]:
        runs = [self.run() for _ in range(self.options.repeats + 1)]
        lazy: Any = self.pair_of["lazy"]._strategies["lazy"]
        num_questions = lazy.num_questions / len(runs)
        runs = runs[1:]  # the first warms up

        def per_second(name: str, run: dict[str, Measured]) -> float:
            seconds, tokens = run[name]
            return (2 if name == "rows, lockstep" else 1) * tokens / seconds

        def faster(one: str, other: str) -> list[float] | None:
            """By which factor, for the same number of tokens."""
            if one not in runs[0] or other not in runs[0]:
                return None
            return spread(per_second(one, run) / per_second(other, run) for run in runs)

        return {
            "bench": "rollout",
            "shape": self.options.shape,
            "pairs": self.pairs,
            "lockstep ÷ plain, rows/s": faster("rows, lockstep", "rows, plain"),
            "lazy ÷ plain vLLM": faster("lazy", "plain"),
            "lazy ÷ direct": faster("lazy", "direct"),
            "lazy ÷ lockstep": faster("lazy", "lockstep"),
            "lazy with reading ÷ without": faster("lazy and reading", "lazy"),
            "lazy ÷ lazy from outside": faster("lazy", "lazy from outside"),
            "lockstep ÷ direct": faster("lockstep", "direct"),
            "direct ÷ plain vLLM": faster("direct", "plain"),
            "lazy ÷ draft_verify": faster("lazy", "draft_verify"),
            "lockstep ÷ draft_verify": faster("lockstep", "draft_verify"),
            "lazy ÷ transformers loop": faster("lazy", "transformers"),
            "student queries per 256 trace tokens": round(256 * num_questions / runs[-1]["lazy"][1], 2),
            "plain rows/s": round(statistics.median(per_second("rows, plain", run) for run in runs)),
            "lockstep rows/s": round(statistics.median(per_second("rows, lockstep", run) for run in runs)),
            "plain tokens/s": round(statistics.median(per_second("plain", run) for run in runs)),
            "lazy tokens/s": round(statistics.median(per_second("lazy", run) for run in runs)),
            "desynchronised": self.pair_of["lockstep"].num_desynchronised,
            "tokens": self.options.tokens,
            **self._rule,
            "scheduled ahead": self.engine._engine.vllm_config.scheduler_config.async_scheduling,
            "engine": self.engine.name,
            "machine": machine(),
        }

    def close(self) -> None:
        for engine in filter(None, (self.engine, self._student)):
            engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--pairs", type=int, nargs="+", default=[64])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--step-tokens", type=int, default=None, help="fitted if left out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tau", type=float, default=0.8)
    parser.add_argument("--ahead", action="store_true", help="let vLLM schedule ahead, which our engine turns off")
    options = parser.parse_args()
    if len(options.pairs) > 1:
        for pairs in options.pairs:
            again = [sys.executable, "-m", "tests.bench.rollout", *sys.argv[1:], "--pairs", str(pairs)]
            subprocess.run(again, check=True)
        return
    bench = Bench(model_of(options.shape), options.shape == "demo", options.pairs[0], options)
    print(json.dumps(bench.result(), ensure_ascii=False), flush=True)
    bench.close()


if __name__ == "__main__":
    main()
