"""Does the engine's path work on this device? Demo model in float32: every strategy against the literal loop, token for
token, and what is said of each token beside it. One JSON line for each; the first difference is shown with how near the
two tokens were.

    python -m tests.gpu.equality [--eager] [--ahead] [--traces 12] [--tokens 60]
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dail.synth.config import EngineConfig
from dail.synth.data.reader import load_items
from dail.synth.engine.vllm import VllmEngine, chosen
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.rollout.reference import Reference
from dail.synth.schema.synthesis import Synthesis
from tests.bench.shapes import DEMO, machine

STRATEGIES = ("lockstep", "lazy", "draft_verify")
LOGPROB_ERROR = 1e-2


def put(**figures: Any) -> None:
    print(json.dumps(figures, ensure_ascii=False), flush=True)


class Remembering(Reference):
    """The literal loop, which is asked for the same logits again where a trace differs."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def logits(self, context: Sequence[int]) -> torch.Tensor:
        if (key := tuple(context)) not in self._known:
            self._known[key] = super().logits(context)
        return self._known[key]


def start(options: argparse.Namespace) -> VllmEngine:
    started = time.perf_counter()
    config = EngineConfig(
        model=DEMO / "model", dtype="float32", rows=64, step_tokens=8192, kv_cache_gib=0.5, model_tokens=1024
    )
    eager = {"enforce_eager": True} if options.eager else {}
    ahead = {"async_scheduling": True} if options.ahead else {}
    block = {"block_size": options.block} if options.block else {}
    engine = VllmEngine(config, **eager, **ahead, **block)
    core: Any = engine._engine.engine_core
    runner = core.engine_core.model_executor.driver_worker.worker.model_runner
    put(
        engine=engine.name,
        runner=type(runner).__module__,
        eager=options.eager,
        ahead=engine._engine.vllm_config.scheduler_config.async_scheduling,
        start_s=round(time.perf_counter() - started, 1),
        limits=str(engine.limits),
        machine=machine(),
    )
    try:
        put(chosen=chosen(config).model_dump())
    except Exception as error:  # where vLLM is asked differs by version; no strategy needs it
        put(chosen=f"{type(error).__name__}: {error}"[:300])
    return engine


def draw(engine: VllmEngine, strategy: Any, requests: list[RolloutRequest]) -> tuple[dict[str, Rollout], float]:
    pair, done, started = Pair(engine, strategy), {}, time.perf_counter()
    for request in requests:
        pair.add(request)
    while pair.pending():
        done |= {rollout.unit_id: rollout for rollout in pair.step()}
    return done, time.perf_counter() - started


def first_difference(reference: Reference, request: RolloutRequest, got: Rollout, wanted: Rollout) -> dict | None:
    for place, (one, other) in enumerate(zip(got.tokens.ids, wanted.tokens.ids, strict=False)):
        if one != other:
            logits = reference.logits([*request.privileged_ids, *wanted.tokens.ids[:place]])
            apart = float(logits[other] - logits[one])
            return {"unit": request.unit_id, "place": place, "got": one, "wanted": other, "logits apart": apart}
    return None


def off(got: Sequence[Rollout], wanted: Sequence[Rollout], column: str) -> float | None:
    """The largest error of a column of log-probabilities, where both have one."""
    pairs = [
        (a, b)
        for one, other in zip(got, wanted, strict=True)
        for a, b in zip(getattr(one.tokens, column), getattr(other.tokens, column), strict=True)
    ]
    return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=None)


def compared(strategy: str, got: Mapping[str, Rollout], wanted: Mapping[str, Rollout]) -> dict[str, Any]:
    alike = [name for name in wanted if got[name].tokens.ids == wanted[name].tokens.ids]
    ours, theirs = [got[name] for name in alike], [wanted[name] for name in alike]
    num_missing = sum(value is None for one in ours for value in one.tokens.student_logprob)
    student = off(ours, theirs, "student_logprob")
    # of a refused proposal draft_verify knows no log-probability of the student
    is_whole = strategy == "draft_verify" or num_missing == 0
    return {
        "same traces": len(alike),
        "of": len(wanted),
        "tokens": sum(len(one.tokens.ids) for one in got.values()),
        "student logprob off": student,
        "privileged logprob off": off(ours, theirs, "privileged_logprob"),
        "student logprobs missing": num_missing,
        "ok": len(alike) == len(wanted) and (student or 0) < LOGPROB_ERROR and is_whole,
    }


def check(engine: VllmEngine, reference: Reference, temperature: float, requests: list[RolloutRequest]) -> bool:
    """Every strategy at one temperature; whether all of them are right."""
    wanted = {request.unit_id: reference.rollout(request) for request in requests}
    all_ok = True
    for strategy in STRATEGIES:
        known = {"strategy": strategy, "temperature": temperature}
        try:
            got, seconds = draw(engine, strategy, requests)
        except Exception as error:  # the others may work
            put(**known, failed=f"{type(error).__name__}: {error}", at=traceback.format_exc(limit=-3))
            all_ok = False
            continue
        names = [(request, request.unit_id) for request in requests]
        differ = [d for request, n in names if (d := first_difference(reference, request, got[n], wanted[n]))]
        figures = compared(strategy, got, wanted)
        put(
            **known,
            **figures,
            seconds=round(seconds, 2),
            first_differences=differ[:3],
            read_again=engine.num_read_again,
        )
        all_ok &= figures["ok"]
    return all_ok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eager", action="store_true", help="no compilation, no CUDA graphs: starts soonest")
    parser.add_argument("--ahead", action="store_true", help="let vLLM schedule ahead, which our engine turns off")
    parser.add_argument("--traces", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--block", type=int, default=None, help="of the KV cache; a GPU's is 16")
    options = parser.parse_args()
    torch.set_num_threads(2)  # the literal loop is on the CPU, and small
    engine, prompts, reference = start(options), Prompts(DEMO / "model"), Remembering(DEMO / "model")
    thinking = False if prompts.has_thinking_switch else None
    items = load_items(DEMO / "expert_solutions.jsonl")[: options.traces]
    contexts = [prompts.contexts(item, Synthesis(thinking=thinking)) for item in items]
    all_ok = True
    for temperature in (0.0, 1.0):
        settings = Synthesis(tau=0.8, temperature=temperature, max_tokens=options.tokens)
        stop_ids = frozenset() if temperature == 0 else prompts.stop_ids
        requests = [
            RolloutRequest(f"{number}", one.student_ids, one.privileged_ids, settings, number, stop_ids)
            for number, one in enumerate(contexts)
        ]
        all_ok &= check(engine, reference, temperature, requests)
    put(all_equal=all_ok)
    engine.close()


if __name__ == "__main__":
    main()
