"""What an adapter folder tells: its rank, its bytes, and where it came from (`dail.json`, metrics, manifest).

Only the rank is needed to evaluate one, so any PEFT LoRA adapter can be judged; what else is missing is left out
of the report.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dail.synth.core.config import TOOL_VERSION
from dail.synth.core.errors import IntegrityError, UsageError, describe
from dail.synth.core.extensions import label
from dail.synth.schema.adapters import adapter_digest, adapter_rank, check_fits
from dail.synth.schema.items import strict_json
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import PAPER, Synthesis
from dail.train.record import PROVENANCE_FILE, RUN_FILE, Provenance, RunRecord

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """`provenance` is its dail.json; none for one that others trained, or another version: `note` says why."""

    folder: Path
    rank: int
    digest: str
    provenance: Provenance | None = None
    note: str = ""

    def metrics(self) -> list[dict[str, Any]]:
        """The training run's metrics, one dict a step, in order; empty if there are none. A torn line is left out."""
        path = self._find(self.provenance.metrics if self.provenance else "metrics.jsonl")
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
        if self.provenance is None:
            return None
        return self._where_it_lay(self.provenance) or self._find(self.provenance.run.manifest)

    def _where_it_lay(self, provenance: Provenance) -> Path | None:
        """As run.json beside the adapter's folder says, which is not pushed with it, and so may name paths."""
        try:
            run = RunRecord.model_validate_json((self.folder.resolve().parent / RUN_FILE).read_bytes())
        except (OSError, ValidationError):
            return None
        is_ours = run.fingerprint == provenance.fingerprint
        return Path(run.manifest) if is_ours and Path(run.manifest).is_file() else None

    def _find(self, named: str) -> Path | None:
        """A relative path is relative to where the run was started or to the adapter; a folder may have moved."""
        places = (Path(named), self.folder / named, self.folder.parent / Path(named).name)
        return next((place for place in places if place.is_file()), None)


def read_adapter(folder: Path, base: Path, model: ModelIdentity, prompts: str = PAPER) -> Adapter:
    """Raises UsageError (no PEFT LoRA adapter, or none for this model) or IntegrityError (of another base model).

    Args:
        base: the model's folder, and `model` what it is.
        prompts: of the evaluation, which are compared with those of the traces.
    """
    rank = adapter_rank(folder)
    provenance, note = _provenance(folder, model)
    try:
        check_fits(folder, base)
    except OSError as error:
        raise UsageError(f"{error.filename or folder} cannot be read: {error.strerror}; restore the file") from None
    if note:
        _log.info(f"note: {note}")
    if provenance:
        _compare_prompts(folder, provenance.run.synthesis, prompts)
    return Adapter(folder, rank, adapter_digest(folder), provenance, note)


def _provenance(folder: Path, model: ModelIdentity) -> tuple[Provenance | None, str]:
    """Or why there is none. The base model is checked in any case: without it nobody can say if the adapter fits."""
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return None, f"The adapter has no {PROVENANCE_FILE}: what it was trained on is not known."
    written = _json(path)
    run = written.get("run")
    run = run if isinstance(run, dict) else {}
    _check_base(folder, _base(path, run), model)
    if run.get("method") == "grpo":
        return None, f"The adapter was trained by rewards (`dail grpo`), as {path} says."
    try:
        return Provenance.model_validate(written), ""
    except ValidationError as error:
        return None, (
            f"{path} was written by dail {run.get('tool_version', 'of unknown version')}, and dail {TOOL_VERSION} "
            f"cannot read it ({describe(error)}): what the adapter was trained on is not shown."
        )


def _base(path: Path, run: dict[str, Any]) -> ModelIdentity:
    try:
        return ModelIdentity.model_validate(run.get("model"))
    except ValidationError as error:
        raise UsageError(
            f"{path} names no base model under run.model ({describe(error)}); restore it, or remove it to evaluate "
            "without provenance"
        ) from None


def _check_base(folder: Path, trained_on: ModelIdentity, model: ModelIdentity) -> None:
    for key in ("revision", "tokenizer_hash"):
        if getattr(trained_on, key) != getattr(model, key):
            raise IntegrityError(
                f"adapter {folder} was trained on {trained_on.name} with {key} {getattr(trained_on, key)}, "
                f"--model {model.name} has {getattr(model, key)}; give the base model that it was trained on"
            )
    if trained_on.template_hash != model.template_hash:
        _log.info(f"note: adapter {folder} was trained with other prompt templates than these; its results may suffer")


def _compare_prompts(folder: Path, drawn: Synthesis, prompts: str) -> None:
    if label(drawn.prompts) != label(prompts):
        _log.info(
            f"note: adapter {folder} was trained on traces whose prompts were {label(drawn.prompts)}, and is asked "
            f"with {label(prompts)}; its results may suffer; set eval.prompts to the others"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = strict_json(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}; restore it from the training run") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds a {type(value).__name__}; wanted an object; restore it from the training run")
    return value
