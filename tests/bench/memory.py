"""Peak memory of one engine for both roles ÷ two engines, one each, for the same number of pairs and the same KV cache.

    OMP_NUM_THREADS=1 python -m tests.bench.memory [--shape demo] [--pairs 64] [--tokens 256]

Each way runs in a process of its own: peak resident memory on a CPU, what torch reserved at most on a GPU. Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import torch

from dail.synth.config import EngineConfig
from dail.synth.data.reader import load_items
from dail.synth.engine.sizing import GIB, shape_of
from dail.synth.engine.vllm import VllmEngine
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.schema.synthesis import Synthesis
from tests.bench.shapes import DEMO, SHAPES, fitted, machine, model_of

_BLOCK = 128


def peak_bytes(shape: str, pairs: int, tokens: int, engines: int) -> int:
    model = model_of(shape)
    prompts, items = Prompts(model.folder), load_items(DEMO / "expert_solutions.jsonl")
    thinking = False if prompts.has_thinking_switch else None
    contexts = [prompts.contexts(items[n % len(items)], Synthesis(thinking=thinking)) for n in range(pairs)]
    longest = max(max(len(context.student_ids), len(context.privileged_ids)) for context in contexts)
    rows = 2 * pairs // engines
    kv_bytes = (rows + 1) * (longest + tokens + _BLOCK) * shape_of(model.folder, model.dtype).kv_token_bytes
    config = fitted(
        EngineConfig(model=model.folder, dtype=model.dtype, rows=rows, step_tokens=8192, kv_cache_gib=kv_bytes / GIB),
        model,
        engines,
    )
    privileged, *others = [VllmEngine(config, **model.vllm_args) for _ in range(engines)]
    pair = Pair(privileged, "draft_verify" if others else "lockstep", *others)
    settings = Synthesis(max_tokens=tokens, temperature=1.0)
    for number, context in enumerate(contexts):
        pair.add(
            RolloutRequest(f"u{number}", context.student_ids, context.privileged_ids, settings, number, frozenset())
        )
    while pair.pending():
        pair.step()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--engines", type=int, choices=[1, 2], help="run this way here, and print its bytes")
    options = parser.parse_args()
    if options.engines:
        print(json.dumps({"bytes": peak_bytes(options.shape, options.pairs, options.tokens, options.engines)}))
        return
    peaks = {}
    for engines in (1, 2):
        command = [sys.executable, "-m", "tests.bench.memory", *sys.argv[1:], "--engines", str(engines)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks[engines] = json.loads(done.stdout.splitlines()[-1])["bytes"]
    print(
        json.dumps(
            {
                "bench": "memory",
                "shape": options.shape,
                "pairs": options.pairs,
                "tokens": options.tokens,
                "one engine ÷ two engines": round(peaks[1] / peaks[2], 3),
                "one engine, GiB": round(peaks[1] / GIB, 2),
                "two engines, GiB": round(peaks[2] / GIB, 2),
                "machine": machine(),
            },
            ensure_ascii=False,
        )
    )


if __name__ == "__main__":
    main()
