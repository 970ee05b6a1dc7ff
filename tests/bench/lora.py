"""What autograd keeps of a token in one decoder layer, and the layer's time, under lean LoRA and under PEFT's own.

    OMP_NUM_THREADS=1 python -m tests.bench.lora [--shape qwen2.5-7b] [--tokens 64] [--repeats 3]

One layer of the shape's true size, in bfloat16, with made-up weights and a small vocabulary; forward and backward of
one sequence, each way in turn. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from dail.train.config import TrainConfig
from dail.train.data import Example, student_input
from dail.train.memory import count
from dail.train.model import Roles, load_roles
from dail.train.packing import choose_packing
from dail.train.step import GradientStep
from tests.bench.shapes import SHAPES, machine, write_config
from tests.bench.train import make_weights

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(roles: Roles, example: Example) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    roles.student(student_input([example], DEVICE)).float().sum().backward()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    example = Example("u", (1, 2), (1,), (1,), tuple(n % 1000 for n in range(options.tokens)))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_config(folder, options.shape, num_hidden_layers=1, vocab_size=1024)
        make_weights(folder, torch.bfloat16)
        scorers = {
            lora: GradientStep(choose_packing(load_roles(folder, config, DEVICE), [example]), config, 1.0)
            for lora in ("lean", "peft")
            for config in [TrainConfig.model_validate({"dtype": "bfloat16", "lora": lora})]
        }
    kept = {lora: count(scorer, [example]).per_token / 1024 for lora, scorer in scorers.items()}
    runs = [
        {lora: seconds(scorer.roles, example) for lora, scorer in scorers.items()} for _ in range(options.repeats + 1)
    ][1:]
    ratios = sorted(run["peft"] / run["lean"] for run in runs)
    figures = {
        "KiB kept of a token": {lora: round(value, 1) for lora, value in kept.items()},
        "kept, PEFT ÷ lean": round(kept["peft"] / kept["lean"], 3),
        "speed, lean ÷ PEFT": [round(value, 3) for value in (statistics.median(ratios), ratios[0], ratios[-1])],
    }
    print(json.dumps({"bench": "lora", **vars(options), **figures, "machine": machine()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
