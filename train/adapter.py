"""The finished adapter: a folder as PEFT and vLLM read it, with a model card and where it came from (dail.json)."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError

from dail.synth.core.errors import IntegrityError
from dail.synth.core.extensions import label
from dail.synth.core.files import open_by_umask, refused, sync
from dail.synth.schema.adapters import ADAPTER_CONFIG, in_order
from dail.train.metrics import METRICS_FILE
from dail.train.model import Roles
from dail.train.objective import is_own
from dail.train.record import PROVENANCE_FILE, Provenance, RunRecord

ADAPTER_FOLDER = "adapter"


def finished(out: Path) -> Provenance | None:
    """Of the adapter in this run folder, if the run ended: the adapter appears whole, as its last act.

    Raises:
        IntegrityError: there is an adapter, but it does not say where it came from.
    """
    folder = out / ADAPTER_FOLDER
    if not folder.exists():
        return None
    try:
        return Provenance.model_validate_json((folder / PROVENANCE_FILE).read_bytes())
    except (OSError, ValidationError):
        raise IntegrityError(f"{folder} has no readable {PROVENANCE_FILE}; move it away and rerun") from None


def save_adapter(out: Path, roles: Roles, record: RunRecord, steps: int) -> None:
    """Writes the adapter folder, whole or not at all.

    Raises:
        StorageError: the disk refused.
    """
    folder, staged = out / ADAPTER_FOLDER, out / f".{ADAPTER_FOLDER}.new"
    provenance = Provenance(
        run=record,
        fingerprint=record.fingerprint,
        steps=steps,
        metrics=os.path.join("..", METRICS_FILE),
        finished_at=dt.datetime.now(dt.UTC),
    )
    try:
        shutil.rmtree(staged, ignore_errors=True)
        # Head and embeddings are not trained; left to itself PEFT would compare them with the hub's.
        roles.peft.save_pretrained(staged, save_embedding_layers=False)
        (staged / "README.md").write_text(_card(provenance), "utf-8")
        (staged / PROVENANCE_FILE).write_text(provenance.model_dump_json(indent=1) + "\n", "utf-8")
        _sort_config(staged / ADAPTER_CONFIG)
        for file in list(staged.iterdir()):
            open_by_umask(file)
            sync(file)
        os.rename(staged, folder)
        sync(out)
    except (OSError, SafetensorError) as error:
        raise refused(folder, error) from error


def _sort_config(path: Path) -> None:
    """PEFT writes sets in an order of its own, another one in each process: two equal runs would differ in bytes."""
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(in_order(config), indent=2, ensure_ascii=False) + "\n", "utf-8")


def _card(provenance: Provenance) -> str:
    """The model card; the block on top is what model hubs read."""
    run, config = provenance.run, provenance.run.config
    named = config.lora_targets
    targets = "all linear layers but the head" if isinstance(named, str) else ", ".join(named)
    facts = {
        "objective": label(config.objective),
        "gamma": config.gamma if config.objective == "contrastive" or is_own(config.objective) else "not used",
        "base model": f"{run.model.name}, revision {run.model.revision}",
        "tokenizer": run.model.tokenizer_hash,
        "traces": f"batch {run.batch_id}, manifest {run.manifest_digest}",
        "LoRA": f"rank {config.lora_rank}, alpha {config.lora_alpha}, dropout {config.lora_dropout}, on {targets}",
        "steps": f"{provenance.steps} of {config.batch_size} traces, {config.epochs} epochs",
        "made by": f"dail {run.tool_version}, {provenance.finished_at:%Y-%m-%d}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
base_model: {json.dumps(run.model.name)}
library_name: peft
tags: [dail, lora]
---

# A LoRA adapter trained by Distribution Aligned Imitation Learning

It was trained on reasoning traces grounded in expert solutions (DAIL, arXiv 2602.02405).

| | |
|---|---|
{table}

Use it with `PeftModel.from_pretrained(base, folder)`, or
`vllm serve BASE --enable-lora --max-lora-rank {max(config.lora_rank, 8)} --lora-modules dail=FOLDER`.
`{PROVENANCE_FILE}` holds every setting and sum.
"""
