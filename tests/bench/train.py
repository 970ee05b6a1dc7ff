"""Seconds per step, trace tokens per second and peak memory of training on random traces. Prints one JSON line.

    OMP_WAIT_POLICY=PASSIVE python -m tests.bench.train [MODEL_FOLDER] [TRACES]

Contexts are as long as the demo's: about 100 tokens for the student, 200 and 160 for the references, traces of 120.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
from pathlib import Path

import torch

from synth.schema.models import ModelIdentity, identify
from synth.schema.shards import TraceRow
from tests.conftest import DEMO_MODEL
from tests.train.conftest import VOCABULARY, trace_row, write_manifest
from train.config import TrainConfig
from train.loop import run


def row(number: int, model: ModelIdentity) -> TraceRow:
    draw = random.Random(number)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(low, high)))

    trace = ids(100, 140)
    return trace_row(
        f"{number:032x}",
        model,
        student_prompt_ids=ids(90, 110),
        privileged_prompt_ids=ids(180, 220),
        negative_prompt_ids=ids(140, 180),
        trace_ids=trace,
        trace_source=(None,) * len(trace),
        rejected_ids=(None,) * len(trace),
        student_logprob=(None,) * len(trace),
        privileged_logprob=(None,) * len(trace),
    )


def main(model_folder: Path = DEMO_MODEL, traces: int = 100) -> None:
    model = identify(model_folder)
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(Path(folder) / "shards", model, [row(i, model) for i in range(traces)])
        result = run(model_folder, manifest, Path(folder) / "run", TrainConfig(epochs=1))
        figures = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    tokens_s = figures[-1]["tokens_s"]
    print(
        json.dumps(
            {
                "bench": "train",
                "model": model.name,
                "device": "cuda" if torch.cuda.is_available() else "cpu",
                "threads": torch.get_num_threads(),
                "load": os.getloadavg()[0],
                "torch": torch.__version__,
                "steps": result.steps,
                "trace_tokens_s": round(tokens_s, 1),
                "s_per_step": round(4 * 120 / tokens_s, 3),
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO_MODEL, int(sys.argv[2]) if len(sys.argv) > 2 else 100)
