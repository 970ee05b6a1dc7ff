"""What an adapter folder tells: its rank, its bytes, and where it came from (`dail.json`, metrics, manifest).

Only the rank is needed to evaluate one, so any PEFT LoRA adapter can be judged; what else is missing is left out
of the report.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.schema.items import strict_json
from dail.synth.schema.models import ADAPTER_CONFIG, ADAPTER_WEIGHTS, ModelIdentity, adapter_rank
from dail.train.record import PROVENANCE_FILE

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """`provenance` is dail.json with its run's record unfolded, empty for an adapter that others trained."""

    folder: Path
    rank: int
    digest: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def metrics(self) -> list[dict[str, Any]]:
        """The training run's metrics, one dict a step, in order; empty if there are none. A torn line is left out."""
        named = self.provenance.get("metrics")
        path = self._find(named if isinstance(named, str) else "metrics.jsonl")
        if path is None:
            return []
        steps = []
        for line in path.read_text("utf-8", errors="replace").split("\n"):
            try:
                step = json.loads(line)
            except ValueError:
                continue
            if isinstance(step, dict) and isinstance(step.get("step"), int):
                steps.append(step)
        return sorted(steps, key=lambda step: step["step"])

    def manifest(self) -> Path | None:
        """The manifest it was trained on, if it still lies where it lay."""
        named = self.provenance.get("manifest")
        return self._find(named) if isinstance(named, str) else None

    def _find(self, named: str) -> Path | None:
        """A relative path is relative to where the run was started or to the adapter; a folder may have moved."""
        places = (Path(named), self.folder / named, self.folder.parent / Path(named).name)
        return next((place for place in places if place.is_file()), None)


def read_adapter(folder: Path, model: ModelIdentity) -> Adapter:
    """Raises UsageError (no PEFT LoRA adapter) or IntegrityError (of another base model)."""
    rank = adapter_rank(folder)
    provenance = _provenance(folder / PROVENANCE_FILE)
    if provenance:
        _check_base(folder, provenance["model"], model)
    with open(folder / ADAPTER_WEIGHTS, "rb") as weights:
        digest = hashlib.file_digest(weights, "sha256")
    digest.update((folder / ADAPTER_CONFIG).read_bytes())
    return Adapter(folder, rank, "sha256:" + digest.hexdigest(), provenance)


def _provenance(path: Path) -> dict[str, Any]:
    """Raises UsageError if it does not name the base model: then nobody can say whether the adapter fits."""
    if not path.is_file():
        return {}
    written = _json(path)
    run = written.get("run")
    provenance = {**written, **(run if isinstance(run, dict) else {})}
    if not isinstance(provenance.get("model"), dict):
        raise UsageError(f"{path} names no base model; restore it, or remove it to evaluate without provenance")
    return provenance


def _check_base(folder: Path, trained_on: dict[str, Any], model: ModelIdentity) -> None:
    for key in ("revision", "tokenizer_hash"):
        if trained_on.get(key) != getattr(model, key):
            raise IntegrityError(
                f"adapter {folder} was trained on {trained_on.get('name')} with {key} {trained_on.get(key)}, "
                f"--model {model.name} has {getattr(model, key)}; give the base model that it was trained on"
            )
    if trained_on.get("template_hash") != model.template_hash:
        _log.info(f"note: adapter {folder} was trained with other prompt templates than these; its results may suffer")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = strict_json(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}; restore it from the training run") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds a {type(value).__name__}; wanted an object; restore it from the training run")
    return value
