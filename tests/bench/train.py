"""Training steps with the references computed once and in every step, side by side. Prints one JSON line.

    OMP_NUM_THREADS=1 python -m tests.bench.train [--shape demo] [--traces 100] [--trace-tokens 120]
    python -m tests.bench.train --shape qwen2.5-7b --traces 417 --trace-tokens 1500 --references cached      (one GPU)
    python -m tests.bench.train --shape qwen2.5-7b --traces 417 --trace-tokens 1500 --references live

Two epochs each way, and the pass that fills the cache. The first epoch with a cache also finds each token's floor.
With `--references`, that way alone, run once: the second epoch is the figure, and ratios are left to the reader.
Contexts are as long as the demo's: about 100 tokens for the student, 200 and 160 for the references.
Weights of other shapes are made up, and kept in runs/bench-models for the next command.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
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
from tests.bench.shapes import DEMO, SHAPES, machine, model_of
from tests.train.conftest import trace_row, write_manifest

LABELS = (
    "student's forward pass",
    "references' forward pass",
    "loss",
    "backward pass",
    "optimizer",
    "rest of the steps",
)
RUNS = {  # by what is asked for, the references of each run
    "both": {"warm-up": "live", "live": "live", "filling": "cached", "cached": "cached"},
    "cached": {"cached": "cached"},
    "live": {"live": "live"},
}
_IDS = 1000  # all vocabularies here have as many
_KEPT = Path(__file__).parents[2] / "runs" / "bench-models"


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
        student_prob=nothing,
        rejected_ids=nothing,
        student_logprob=nothing,
        privileged_logprob=nothing,
    )


def weights_of(shape: str, dtype: str) -> Path:
    """The demo model, or a folder with this shape and a file of made-up weights. 7B take 15 GB, so they are kept."""
    if shape == "demo":
        return DEMO / "model"
    kept = _KEPT / f"{shape}-{dtype}"
    made_of, wanted = kept / "made-of.json", json.dumps(SHAPES[shape])
    if not made_of.exists() or made_of.read_text() != wanted:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(model_of(shape).folder, kept)
        make_weights(kept, getattr(torch, dtype))
        made_of.write_text(wanted)
    return kept


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
    parser.add_argument("--references", choices=RUNS, default="both")
    options = parser.parse_args()
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    folder = weights_of(options.shape, dtype)
    model, runs = identify(folder), RUNS[options.references]
    rows = [row(number, model, options.trace_tokens) for number in range(options.traces)]
    tokens = sum(len(one.trace_ids) for one in rows)
    settings = {"epochs": 2, "dtype": dtype, "microbatch_tokens": options.microbatch_tokens}
    whole, first, second = dict[str, float](), dict[str, float](), dict[str, float]()
    clock, spent = Clock(), {}
    watch(clock)
    with tempfile.TemporaryDirectory() as scratch:
        manifest, shared = write_manifest(Path(scratch) / "shards", model, rows), Path(scratch) / "shared"
        for name, references in runs.items():
            config = TrainConfig.model_validate({**settings, "reference_states": references})
            started = time.perf_counter()
            clock.seconds.clear()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            result = run(folder, manifest, Path(scratch) / name, config, shared)
            whole[name] = time.perf_counter() - started
            steps = [json.loads(line) for line in result.metrics.read_text().splitlines()]
            first[name] = tokens / steps[len(steps) // 2 - 1]["tokens_s"]
            second[name] = 2 * tokens / steps[-1]["tokens_s"] - first[name]
            spent[name] = {label: round(clock.seconds[label], 2) for label in LABELS}
    measured = [name for name in ("live", "cached") if name in runs]
    figures = {
        "bench": "train",
        "shape": options.shape,
        "traces": options.traces,
        "microbatch tokens": options.microbatch_tokens,
        "trace tokens": tokens,
        "seconds, second epoch": {name: round(seconds, 2) for name, seconds in second.items() if name != "warm-up"},
        "seconds, first epoch": {name: round(first[name], 2) for name in measured},
        "seconds inside": {} if torch.cuda.is_available() else {name: spent[name] for name in measured},
        "trace tokens/s": {name: round(tokens / second[name]) for name in measured},
    }
    if "cached" in runs:
        figures["seconds, all of the first cached run, both epochs"] = round(whole.get("filling", whole["cached"]), 2)
    if len(measured) == 2:
        figures["cached ÷ live, epochs/s"] = round(second["live"] / second["cached"], 3)
        figures["first cached ÷ first live epoch, epochs/s"] = round(first["live"] / first["cached"], 3)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures["peak MiB, of the last run on a GPU, of all on a CPU"] = round((peak or resident) / 2**20)
    print(json.dumps({**figures, "dtype": dtype, "machine": machine()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
