"""`dail average`: the running mean of adapters, a reference that follows the student slowly.

    mean = decay · mean before + (1 - decay) · adapter

of the two matrices of each layer by themselves, as training averages parameters: the rank stays, and the mean of the
products B·A, which would need the sum of all ranks, is not taken. The first mean has the bare model before it: the
adapter's own A, and a B of zeros.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dail.synth.core.errors import UsageError
from dail.synth.core.files import new_folder
from dail.synth.schema.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_digest
from dail.train.checkpoint import save_tensors
from dail.train.given_adapters import adapter_folder

AVERAGE_FILE = "average.json"  # which adapters the mean is of
_SCALES = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")


def average(adapter: Path, before: Path | None, decay: float, out: Path) -> Path:
    """Writes the folder of the mean, whole or not at all.

    Args:
        adapter: its folder, or that of the run that trained it; so may `before` be.
        before: the mean so far, on the same layers; the bare model if none.
        decay: what is kept of it, from 0 up to, not including, 1.

    Raises:
        UsageError: no adapter, two that do not fit each other, or `out` is there.
        StorageError: the disk refused.
    """
    if out.exists():
        raise UsageError(f"{out} is there already; give another --out")
    adapter, before = adapter_folder(adapter), before and adapter_folder(before)
    new, settings = _read(adapter)
    old = {name: torch.zeros_like(one) if ".lora_B." in name else one for name, one in new.items()}
    if before is not None:
        old, other = _read(before)
        _check_alike(adapter, settings, new, before, other, old)
    mean = {name: torch.lerp(new[name].float(), old[name].float(), decay) for name in sorted(new)}
    made_of = {
        "adapter": adapter_digest(adapter),
        "before": adapter_digest(before) if before else None,
        "decay": decay,
    }
    with new_folder(out) as staged:
        save_tensors(staged / ADAPTER_WEIGHTS, mean)
        shutil.copyfile(adapter / ADAPTER_CONFIG, staged / ADAPTER_CONFIG)
        (staged / AVERAGE_FILE).write_text(json.dumps(made_of, indent=1) + "\n", "utf-8")
    return out


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        settings, tensors = (
            json.loads((folder / ADAPTER_CONFIG).read_text("utf-8")),
            load_file(folder / ADAPTER_WEIGHTS),
        )
    except (OSError, SafetensorError, ValueError) as error:
        raise UsageError(f"{folder} is no adapter that can be read: {error}; give what `dail train` made") from None
    if not isinstance(settings, dict):
        fault = f"{ADAPTER_CONFIG} holds a {type(settings).__name__}, wanted an object"
    elif not tensors:
        fault = f"{ADAPTER_WEIGHTS} holds no layers"
    elif broken := [name for name, one in tensors.items() if not one.isfinite().all()]:
        fault = f"{broken[0]} holds NaN or infinity, wanted finite numbers"
    else:
        return tensors, settings
    raise UsageError(f"{folder} is no adapter that can be averaged: {fault}; give what `dail train` made")


def _check_alike(
    adapter: Path,
    settings: dict[str, Any],
    new: dict[str, Tensor],
    before: Path,
    other: dict[str, Any],
    old: dict[str, Tensor],
) -> None:
    for name in _SCALES:
        if settings.get(name) != other.get(name):
            raise UsageError(
                f"{adapter} has {name}={settings.get(name)}, {before} {name}={other.get(name)}; wanted two adapters of "
                "one kind"
            )
    shapes, others = ({name: tuple(one.shape) for name, one in each.items()} for each in (new, old))
    if wrong := sorted(name for name in {**shapes, **others} if shapes.get(name) != others.get(name)):
        raise UsageError(
            f"{adapter} and {before} are of different layers: {wrong[0]} is {shapes.get(wrong[0])} and "
            f"{others.get(wrong[0])}; wanted two adapters of one model and one lora_targets"
        )
