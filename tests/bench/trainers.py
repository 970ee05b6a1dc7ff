"""Our trainer beside TRL's nearest one, on the same traces. Prints one JSON line; says so where TRL is not installed.

    OMP_NUM_THREADS=1 python -m tests.bench.trainers [--shape tiny] [--traces 24] [--trace-tokens 200]
    python -m tests.bench.trainers --shape qwen2.5-7b --traces 64 --trace-tokens 1500         (one GPU)

TRL's DistillationTrainer draws its own completions, so the nearest that learns from given ones is GKDTrainer with
`lmbda=0`, reverse KL (`beta=1`) and the same LoRA: one teacher pass a step over the student's own prompt, whole logits,
padded batches of four, or of one, four times a step, where four do not fit. It does less than ours: no privileged
prompt, no negative reference. One epoch each, in processes of their own, trace tokens a second without loading, and
peak memory with it. `pip install --no-deps trl datasets dill multiprocess xxhash` beside this package is enough.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dail.synth.schema.manifest import read_rows
from dail.synth.schema.models import identify
from dail.train.config import TrainConfig
from tests.bench.shapes import SHAPES, machine
from tests.bench.train import row, weights_of
from tests.train.conftest import write_manifest

BATCH = 4
OUT_OF_MEMORY = "out of memory"


class Epoch(NamedTuple):
    tokens_s: float
    peak_mib: float


def dtype() -> str:
    return "bfloat16" if torch.cuda.is_available() else "float32"


def peak_mib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def ours(folder: Path, manifest: Path, out: Path, references: str) -> Epoch:
    from dail.train.loop import run

    config = TrainConfig.model_validate({"epochs": 1, "dtype": dtype(), "reference_states": references})
    result = run(folder, manifest, out / references, config, out / "shared")
    last = json.loads(result.metrics.read_text().splitlines()[-1])
    return Epoch(last["tokens_s"], peak_mib())


def trl(folder: Path, manifest: Path, out: Path, num_at_a_time: int) -> Epoch:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = time.perf_counter() - self.started

    rows = [
        {"input_ids": [*r.student_prompt_ids, *r.trace_ids], "prompt": len(r.student_prompt_ids)}
        for r in read_rows(manifest)
    ]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(one["input_ids"]) for one in batch)
        ids, mask, labels = torch.zeros(3, len(batch), width, dtype=torch.long)
        for place, one in enumerate(batch):
            length = len(one["input_ids"])
            ids[place, :length] = torch.tensor(one["input_ids"])
            mask[place, :length] = 1
            labels[place] = -100
            labels[place, one["prompt"] : length] = ids[place, one["prompt"] : length]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    student, teacher = (AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype())) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    clock = Clock()
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=GKDConfig(
            output_dir=str(out / "trl"), per_device_train_batch_size=num_at_a_time,
            gradient_accumulation_steps=BATCH // num_at_a_time, num_train_epochs=1, lmbda=0.0, beta=1.0,
            temperature=1.0, learning_rate=2e-4, warmup_steps=5, weight_decay=0.01, report_to=[], logging_steps=1000,
            save_strategy="no", gradient_checkpointing=False, bf16=False, use_cpu=not torch.cuda.is_available(),
            dataset_kwargs={"skip_prepare_dataset": True}, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        data_collator=collate,
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=32, lora_alpha=32, target_modules="all-linear"),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    return Epoch(sum(len(one["input_ids"]) - one["prompt"] for one in rows) / clock.seconds, peak_mib())


def measured(way: Callable[..., Epoch], *given: Any) -> Epoch | str:
    """In a process of its own; in place of figures, why there are none."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(way, *given).result()
        except ImportError as error:
            return f"{type(error).__name__}: {error}"
        except torch.OutOfMemoryError:
            return OUT_OF_MEMORY
        except BrokenProcessPool:  # of a process that takes too much, Linux says no more
            return "killed, probably for memory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="tiny")
    parser.add_argument("--traces", type=int, default=24)
    parser.add_argument("--trace-tokens", type=int, default=200)
    options = parser.parse_args()
    folder = weights_of(options.shape, dtype())
    model = identify(folder)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        rows = [row(number, model, options.trace_tokens) for number in range(options.traces)]
        manifest = write_manifest(out / "shards", model, rows)
        found = {
            "ours, live": measured(ours, folder, manifest, out, "live"),
            "ours, cached": measured(ours, folder, manifest, out, "cached"),
            "TRL GKDTrainer": (theirs := measured(trl, folder, manifest, out, BATCH)),
        }
        if theirs == OUT_OF_MEMORY:
            found["TRL GKDTrainer, one at a time"] = theirs = measured(trl, folder, manifest, out, 1)
    figures: dict[str, Any] = {
        name: one if isinstance(one, str) else {"trace tokens/s": round(one.tokens_s), "peak MiB": round(one.peak_mib)}
        for name, one in found.items()
    }
    for name in ("ours, cached", "ours, live"):
        if isinstance(mine := found[name], Epoch) and isinstance(theirs, Epoch):
            figures[f"{name} ÷ TRL, tokens/s"] = round(mine.tokens_s / theirs.tokens_s, 2)
            figures[f"TRL ÷ {name}, peak memory"] = round(theirs.peak_mib / mine.peak_mib, 2)
    known = {"bench": "trainers", **vars(options), "dtype": dtype()}
    print(json.dumps({**known, **figures, "machine": machine()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
