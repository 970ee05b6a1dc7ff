"""The finished adapter: a folder as PEFT and vLLM read it, with a model card and where it came from (dail.json)."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections import Counter
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from dail.synth.core.errors import IntegrityError
from dail.synth.core.files import new_folder, without_folders
from dail.synth.schema.adapters import ADAPTER_CONFIG, in_order
from dail.synth.schema.manifest import output_root
from dail.synth.schema.tensors import tensors_of
from dail.train.card import base_model, card
from dail.train.checkpoint import ADAPTER_FOLDER, MODEL_FOLDER
from dail.train.merging import copy_others
from dail.train.metrics import METRICS_FILE
from dail.train.model import STUDENT, Roles
from dail.train.record import PROVENANCE_FILE, Provenance, RunRecord

_TYPES = {"BF16": torch.bfloat16, "F16": torch.float16}  # by the names of safetensors


def finished(out: Path) -> Provenance | None:
    """Of the adapter in this run folder, if the run ended: the adapter appears whole, as its last act.

    Raises:
        IntegrityError: there is an adapter, but it does not say where it came from.
    """
    folder = next((path for name in (ADAPTER_FOLDER, MODEL_FOLDER) if (path := out / name).exists()), None)
    if folder is None:
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
    name = result_folder(record)
    folder = out / name
    provenance = Provenance(
        run=_portable(record),
        fingerprint=record.fingerprint,
        steps=steps,
        metrics=os.path.join("..", METRICS_FILE),
        finished_at=dt.datetime.now(dt.UTC),
    )
    with new_folder(folder, SafetensorError) as staged:
        if record.config.tune == "full":
            _write_model(staged, roles, Path(record.model_folder))
        else:
            # Head and embeddings are not trained; left to itself PEFT would compare them with the hub's.
            roles.peft.save_pretrained(staged, save_embedding_layers=False, selected_adapters=[STUDENT])
            _finish_config(staged / ADAPTER_CONFIG, record)
        (staged / "README.md").write_text(card(provenance, record), "utf-8")
        (staged / PROVENANCE_FILE).write_text(provenance.model_dump_json(indent=1) + "\n", "utf-8")


def result_folder(record: RunRecord) -> str:
    """What a run leaves: an adapter, or a model whose every weight it trained."""
    return MODEL_FOLDER if record.config.tune == "full" else ADAPTER_FOLDER


def _write_model(staged: Path, roles: Roles, model: Path) -> None:
    """In the type of the base's files, and with all its other files."""
    base, weights = roles.peft.get_base_model(), sorted(model.glob("*.safetensors"))
    types = Counter(entry.dtype for file in weights for entry in tensors_of(file).values())
    base.to(_TYPES.get(types.most_common(1)[0][0], torch.float32)).save_pretrained(staged)
    copy_others(model, staged, [*weights, *model.glob("*.safetensors.index.json")])


def _finish_config(path: Path, record: RunRecord) -> None:
    """PEFT writes sets in an order of its own, another one in each process: two equal runs would differ in bytes. And
    it names the base model by its folder on this machine."""
    config = json.loads(path.read_text("utf-8"))
    config["base_model_name_or_path"], config["revision"] = base_model(record)
    path.write_text(json.dumps(in_order(config), indent=2, ensure_ascii=False) + "\n", "utf-8")


def _portable(record: RunRecord) -> RunRecord:
    """Without paths of this machine: folders and files by their last names, the manifest as its output root knows it.

    Where they lie is in run.json, beside the adapter's folder.
    """
    manifest = Path(record.manifest)
    said = without_folders(record.model_dump(mode="json"))
    said["model_folder"] = base_model(record)[0]
    if manifest.is_absolute():
        said["manifest"] = manifest.relative_to(output_root(manifest)).as_posix()
    return RunRecord.model_validate(said)
