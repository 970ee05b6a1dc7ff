"""Training steps with the references computed once and in every step, side by side. Prints one JSON line.

    OMP_NUM_THREADS=1 python -m tests.bench.train [--shape demo] [--traces 100] [--trace-tokens 120]
    python -m tests.bench.train --shape qwen2.5-7b --traces 417 --trace-tokens 1500          (one GPU)

Two epochs each way, and the pass that fills the cache. The first epoch with a cache also finds each token's floor.
Contexts are as long as the demo's: about 100 tokens for the student, 200 and 160 for the references.
Weights of other shapes are made up.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

import torch

from dail.synth.schema.models import ModelIdentity, identify
from dail.synth.schema.shards import TraceRow
from dail.train import loop, step
from dail.train.config import TrainConfig
from dail.train.loop import run
from dail.train.model import Roles
from tests.bench.clock import Clock
from tests.bench.shapes import SHAPES, machine, model_of
from tests.train.conftest import trace_row, write_manifest

LABELS = (
    "student's forward pass",
    "references' forward pass",
    "loss",
    "backward pass",
    "optimizer",
    "rest of the steps",
)
_IDS = 1000  # all vocabularies here have as many


def row(number: int, model: ModelIdentity, tokens: int) -> TraceRow:
    draw = random.Random(number)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(_IDS) for _ in range(draw.randint(low, high)))

    trace = ids(tokens * 5 // 6, tokens * 7 // 6)
    nothing = (None,) * len(trace)
    return trace_row(
        f"{number:032x}",
        model,
        student_prompt_ids=ids(90, 110),
        privileged_prompt_ids=ids(180, 220),
        negative_prompt_ids=ids(140, 180),
        trace_ids=trace,
        trace_source=nothing,
        rejected_ids=nothing,
        student_logprob=nothing,
        privileged_logprob=nothing,
    )


def make_weights(folder: Path, dtype: torch.dtype) -> None:
    """vLLM makes weights up by itself; transformers wants a file."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    model.save_pretrained(folder)


def watch(clock: Clock) -> None:
    clock.put(loop, "optimise", "rest of the steps")
    clock.put(Roles, "student", "student's forward pass")
    clock.put(Roles, "reference", "references' forward pass")
    clock.put(step, "folded_kl_loss", "loss")
    clock.put(step, "kl_loss", "loss")
    clock.put(torch.Tensor, "backward", "backward pass")
    clock.put(loop, "update", "optimizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--traces", type=int, default=100)
    parser.add_argument("--trace-tokens", type=int, default=120)
    parser.add_argument("--microbatch-tokens", type=int, default=4096)
    options = parser.parse_args()
    folder = model_of(options.shape).folder
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    if options.shape != "demo":
        make_weights(folder, getattr(torch, dtype))
    model = identify(folder)
    seconds, first = dict[str, float](), dict[str, float]()
    settings = {"epochs": 2, "dtype": dtype, "microbatch_tokens": options.microbatch_tokens}
    clock, spent = Clock(), {}
    watch(clock)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [row(number, model, options.trace_tokens) for number in range(options.traces)]
        manifest, shared = write_manifest(Path(scratch) / "shards", model, rows), Path(scratch) / "shared"
        for name, references in (("warm-up", "live"), ("live", "live"), ("filling", "cached"), ("cached", "cached")):
            config = TrainConfig.model_validate({**settings, "references": references})
            started = time.perf_counter()
            clock.seconds.clear()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            result = run(folder, manifest, Path(scratch) / name, config, shared)
            whole = time.perf_counter() - started
            steps = [json.loads(line) for line in result.metrics.read_text().splitlines()]
            tokens = sum(len(one.trace_ids) for one in rows)
            first[name] = tokens / steps[len(steps) // 2 - 1]["tokens_s"]
            seconds[name] = 2 * tokens / steps[-1]["tokens_s"] - first[name]
            spent[name] = {label: round(clock.seconds[label], 2) for label in LABELS}
            if name == "filling":
                seconds["all of the first cached run, both epochs"] = whole
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "bench": "train",
                "shape": options.shape,
                "traces": options.traces,
                "microbatch tokens": options.microbatch_tokens,
                "trace tokens": tokens,
                "seconds, second epoch": {
                    name: round(value, 2) for name, value in seconds.items() if name != "warm-up"
                },
                "cached ÷ live, epochs/s": round(seconds["live"] / seconds["cached"], 3),
                "seconds, first epoch": {name: round(first[name], 2) for name in ("live", "cached")},
                "first cached ÷ first live epoch, epochs/s": round(first["live"] / first["cached"], 3),
                "seconds inside": {} if torch.cuda.is_available() else {way: spent[way] for way in ("live", "cached")},
                "trace tokens/s, cached": round(tokens / seconds["cached"]),
                "peak MiB, with a cache on a GPU, of all ways on a CPU": round((peak or resident) / 2**20),
                "dtype": dtype,
                "machine": machine(),
            },
            ensure_ascii=False,
        )
    )


if __name__ == "__main__":
    main()
