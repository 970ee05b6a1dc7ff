"""Seconds and memory of training epochs by the project's own trainer, on made-up weights of a shape. JSON lines as soon
as there is something to say.

    python -m tests.gpu.epoch --shape qwen2.5-7b --traces 96 [--trace-tokens 1500] [--references cached] [--profile]

Beside tests/bench/train.py: every stage as it ends, so that a run that is killed has said something; arithmetic
reached; and with `--profile` where the time of two steps goes.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dail.synth.schema.models import identify
from dail.synth.schema.shards import TraceRow
from dail.train import loop
from dail.train.config import TrainConfig
from tests.bench.shapes import SHAPES, machine
from tests.bench.train import row, weights_of
from tests.train.conftest import write_manifest

IS_GPU = torch.cuda.is_available()
DTYPE = "bfloat16" if IS_GPU else "float32"
STAGES = ("identify", "start_scorer", "fill", "optimise")
PAPER_TRACES = 417


def put(**figures: Any) -> None:
    print(json.dumps(figures, ensure_ascii=False), flush=True)


def time_stages(spent: dict[str, float]) -> None:
    """Each says its seconds and the memory so far when it ends."""

    def timed(name: str, stage: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return stage(*args, **kwargs)
            finally:
                if IS_GPU:
                    torch.cuda.synchronize()
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
                put(stage=name, seconds=round(spent[name], 2), **memory())

        return call

    for name in STAGES:
        setattr(loop, name, timed(name, getattr(loop, name)))


def memory() -> dict[str, float]:
    if IS_GPU:
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"peak GiB": round(peak / 2**30, 2), "reserved GiB": round(reserved / 2**30, 2)}
    return {"peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}


def profiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """Where the time of two steps goes, before the run itself. Gradients are thrown away."""

    def call(scorer: Any, optimizer: Any, data: Any, *args: Any) -> Any:
        from torch.profiler import ProfilerActivity, profile

        def steps(*numbers: int) -> None:
            for step in numbers:
                scorer.gradients(data.batch(scorer.config.seed, step, scorer.config.batch_size), step)
            if IS_GPU:
                torch.cuda.synchronize()

        steps(0, 1)  # they warm up
        with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * IS_GPU) as profiler:
            started = time.perf_counter()
            steps(2, 3)
            seconds = time.perf_counter() - started
        optimizer.zero_grad()
        put(
            profile="two steps",
            seconds=round(seconds, 3),
            packed=scorer.roles.packs,
            **busiest(profiler.key_averages()),
        )
        return run(scorer, optimizer, data, *args)

    return call


def busiest(events: Any) -> dict[str, Any]:
    key = "self_device_time_total" if IS_GPU else "self_cpu_time_total"
    top = sorted(events, key=lambda event: -getattr(event, key))[:24]
    waits = [event for event in events if "Synchronize" in event.key or event.key == "aten::item"]
    return {
        "busy_s": round(sum(getattr(event, key) for event in events) / 1e6, 3),
        "top": [[event.key[:90], round(getattr(event, key) / 1e3, 2), event.count] for event in top],
        "waits": [[event.key, event.count] for event in waits],
    }


def flops(shape: dict[str, Any], student_tokens: int, trace_tokens: int) -> float:
    """Of an epoch with cached references, without attention's products: forward, and backward by activations alone."""
    wide, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    head = shape.get("head_dim", wide // shape["num_attention_heads"])
    rows = (shape["num_attention_heads"] * 2 + shape["num_key_value_heads"] * 2) * head
    return 4 * student_tokens * layers * wide * (rows + 3 * inner) + 6 * trace_tokens * wide * shape["vocab_size"]


def train(folder: Path, rows: list[TraceRow], options: argparse.Namespace) -> tuple[list[dict[str, Any]], float]:
    """What is said of each step, and the seconds of the whole run."""
    config = TrainConfig.model_validate(
        {
            "epochs": options.epochs,
            "dtype": DTYPE,
            "microbatch_tokens": options.microbatch_tokens,
            "trackers": [],
            "token_chunk": options.token_chunk,
            "reference_states": options.references,
        }
    )
    if IS_GPU:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as scratch:
        manifest = write_manifest(Path(scratch) / "shards", identify(folder), rows)
        started = time.perf_counter()
        result = loop.run(folder, manifest, Path(scratch) / "run", config)
        seconds = time.perf_counter() - started
        return [json.loads(line) for line in result.metrics.read_text().splitlines()], seconds


def figures_of(
    steps: list[dict[str, Any]], rows: list[TraceRow], spent: dict[str, float], options: argparse.Namespace
) -> dict[str, Any]:
    tokens, each = sum(len(one.trace_ids) for one in rows), len(steps) // options.epochs
    student = tokens + sum(len(one.student_prompt_ids) for one in rows)
    ends = [(number + 1) * tokens / steps[(number + 1) * each - 1]["tokens_s"] for number in range(options.epochs)]
    epochs = [end - before for end, before in zip(ends, [0.0, *ends[:-1]], strict=True)]
    work = flops(SHAPES[options.shape], student, tokens)
    return {
        "trace_tokens_in_all": tokens,
        "steps_an_epoch": each,
        "seconds_of_epochs": [round(one, 2) for one in epochs],
        f"as_{PAPER_TRACES}_traces": [round(one * PAPER_TRACES / options.traces, 1) for one in epochs],
        "filling_s": round(spent.get("fill", 0.0), 1),
        "tflop_an_epoch": round(work / 1e12),
        "tflops_reached": round(work / epochs[-1] / 1e12, 1),
        "loss": [steps[0]["loss"], steps[-1]["loss"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b")
    parser.add_argument("--traces", type=int, default=96)
    parser.add_argument("--trace-tokens", type=int, default=1500)
    parser.add_argument("--microbatch-tokens", type=int, default=4096)
    parser.add_argument("--token-chunk", type=int, default=512)
    parser.add_argument("--references", choices=["cached", "live"], default="cached")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    spent, started = dict[str, float](), time.perf_counter()
    folder = weights_of(options.shape, DTYPE)
    put(stage="weights made, or found", seconds=round(time.perf_counter() - started, 1))
    if options.profile:
        loop.optimise = profiled(loop.optimise)
    model = identify(folder)
    time_stages(spent)
    rows = [row(number, model, options.trace_tokens) for number in range(options.traces)]
    steps, whole = train(folder, rows, options)
    figures = figures_of(steps, rows, spent, options)
    put(bench="epoch", **vars(options), **figures, whole_run_s=round(whole, 1), machine=machine(), **memory())


if __name__ == "__main__":
    main()
