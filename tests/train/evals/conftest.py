"""An adapter folder with its run's metrics and a manifest of hand-made traces; engines that answer from a table."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.files import Objects
from dail.synth.engine.base import Limits, Sampled, SequenceKey, TokenSequence
from dail.synth.method.prompts import Prompts
from dail.synth.run.trace_rows import shard_of
from dail.synth.schema.manifest import build_manifest, encode_manifest, manifest_key
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import TraceRow
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens
from dail.train.config import TrainConfig
from dail.train.evals.results import ArmRef
from dail.train.record import Provenance, RunRecord
from tests.conftest import DEMO_MODEL, demo_lora

NOW = dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC)
HOSTILE = "<script>alert(1)</script>"


class TableEngine:
    """Answers each sequence at once with what a table says; keeps what it was asked."""

    name = "table 1"

    def __init__(
        self, answer: Callable[[TokenSequence], Sequence[int]], rows: int = 4, model_tokens: int = 640
    ) -> None:
        self.limits = Limits(model_tokens=model_tokens, rows=rows, step_tokens=4096, kv_tokens=1 << 20, kv_block=16)
        self.answer = answer
        self.asked: list[TokenSequence] = []
        self.most_inside = 0
        self.is_closed = False
        self._inside: list[TokenSequence] = []

    def add(self, row: TokenSequence) -> None:
        assert {other.adapter for other in self._inside} <= {row.adapter}, "base and adapter share a step"
        self.asked.append(row)
        self._inside.append(row)
        self.most_inside = max(self.most_inside, len(self._inside))

    def abort(self, keys: Sequence[SequenceKey]) -> None:
        raise AssertionError("evaluation aborts nothing")

    def step(self) -> list[Sampled]:
        row = self._inside.pop()
        return [Sampled(row.key, Tokens.of(list(self.answer(row))), "stop")]

    def written(self) -> list[Sampled]:
        raise AssertionError("evaluation draws no pairs")

    def close(self) -> None:
        self.is_closed = True


def arm_refs(*names: str, temperature: float = 0.6) -> tuple[ArmRef, ...]:
    """Arms of as many subjects, all held against the first."""
    return tuple(
        ArmRef(name=name, subject=name, temperature=temperature, against=names[0] if place else None)
        for place, name in enumerate(names)
    )


def write_adapter(folder: Path, provenance: dict[str, Any] | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(demo_lora())
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "peft_type": "LORA"}))
    if provenance is not None:
        (folder / "dail.json").write_text(json.dumps(provenance))
    return folder


def trace_row(prompts: Prompts, model: ModelIdentity, number: int, sources: Sequence[float | None]) -> TraceRow:
    text = f"417 A+293=600 B+118=718\n{HOSTILE} so \\boxed{{{number}}}."
    ids = prompts.tokenizer.encode(text, add_special_tokens=False)
    return TraceRow(
        unit_id=f"{number:032x}",
        batch_id="batch-1",
        item_id=f"lock-{number}",
        sample_index=0,
        problem=f"A lock shows 417 {HOSTILE}",
        solution="After C: 554. \\boxed{055}",
        answer="055",
        answer_found="answer",
        kind="verifiable",
        waypoints=("554",),
        privileged=None,
        dropped=(),
        source=None,
        license=None,
        metadata="{}",
        student_prompt_ids=(1,),
        privileged_prompt_ids=(1,),
        negative_prompt_ids=(1,),
        trace_ids=tuple(ids),
        student_prob=tuple(sources[i % len(sources)] for i in range(len(ids))),
        rejected_ids=(None,) * len(ids),
        student_logprob=tuple(-0.1 * (i % 9) for i in range(len(ids))),
        privileged_logprob=tuple(-0.05 * (i % 7) for i in range(len(ids))),
        trace_text=text,
        prompt=(),
        completion=(),
        finish_reason="stop",
        truncated=False,
        method="mixed",
        strategy="lockstep",
        tau=0.8,
        temperature=0.6,
        probability_space="raw",
        prompts="paper",
        extractor="paper",
        acceptance="absolute",
        acceptance_k=25,
        top_p=1.0,
        top_k=0,
        stop=(),
        max_tokens=256,
        thinking=None,
        template_args="{}",
        date=None,
        opening="",
        drop_empty_thought=False,
        probe_hash="",
        seed=0,
        model_name=model.name,
        model_revision=model.revision,
        student_revision=None,
        tokenizer_hash=model.tokenizer_hash,
        template_hash=model.template_hash,
        config_fingerprint="sha256:0",
        engine="fake",
        created_at=NOW,
    )


def write_manifest(root: Path, rows: Sequence[TraceRow], model: ModelIdentity) -> Path:
    objects, shards = Objects(root), []
    for row in rows:
        data, shard = shard_of(row)
        objects.put(shard.key, data)
        shards.append(shard)
    manifest = build_manifest("batch-1", 1, model, Synthesis(), shards, NOW)
    objects.put(manifest_key("batch-1", 1), encode_manifest(manifest))
    return root / manifest_key("batch-1", 1)


@pytest.fixture
def trained(tmp_path: Path, prompts: Prompts, model: ModelIdentity) -> Path:
    """The adapter folder of a finished run: adapter, metrics, and the manifest it was trained on."""
    rows = [trace_row(prompts, model, number, sources=(1.0, 0.0, 0.3, None)) for number in range(20)]
    manifest = write_manifest(tmp_path / "out", rows, model)
    run = tmp_path / "run"
    # written through the trainer's own classes, so that the two cannot drift apart
    record = RunRecord(
        config=TrainConfig(),
        model=model,
        model_folder=str(DEMO_MODEL),
        manifest=str(manifest),
        manifest_digest=json.loads(manifest.read_text())["digest"],
        batch_id="batch-1",
        synthesis=Synthesis(),
        started_at=NOW,
    )
    written = Provenance(
        run=record, fingerprint=record.fingerprint, steps=3, metrics="../metrics.jsonl", finished_at=NOW
    )
    provenance = written.model_dump(mode="json")
    folder = write_adapter(run / "adapter", provenance)
    metrics = [{"step": step, "loss": 1 / step, "gap": 2 / step, "tokens_per_s": 900.0} for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics) + '{"step": 4, "lo')
    return folder
