"""The adapters that a run is given: what training starts from, and the frozen one that the references have on.

The paper has neither: training starts from fresh LoRA layers, and the references are the bare model. Rounds have both:
a round goes on from the adapter of the one before, and its references may have that adapter on too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor, no_grad

from dail.synth.core.errors import UsageError, few
from dail.synth.schema.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_digest, check_fits
from dail.train.checkpoint import ADAPTER_FOLDER
from dail.train.config import TrainConfig
from dail.train.lora import make_lean
from dail.train.model import REFERENCE, STUDENT, Roles
from dail.train.record import GivenAdapter, RunRecord
from dail.train.targets import linear_layers


def adapter_folder(path: Path) -> Path:
    """Itself, or that of the run that trained it."""
    if not (path / ADAPTER_CONFIG).is_file() and (path / ADAPTER_FOLDER / ADAPTER_CONFIG).is_file():
        return path / ADAPTER_FOLDER
    return path


def read_given(folder: Path | None, base: Path) -> GivenAdapter | None:
    """Where an adapter lies and what it is, held against the model; none where no folder is given.

    Raises:
        UsageError: it is no adapter, of another model, damaged, or more than plain LoRA.
    """
    if folder is None:
        return None
    folder = adapter_folder(folder)
    try:
        check_fits(folder, base)
        return GivenAdapter(folder=str(folder.resolve()), digest=adapter_digest(folder))
    except OSError as error:
        raise UsageError(f"{error.filename or folder} cannot be read: {error.strerror}; restore the file") from None


def check_start(given: GivenAdapter | None, config: TrainConfig) -> None:
    """Refuses to start from an adapter whose weights mean something else under these settings. Reads no weights."""
    if given is None:
        return
    settings = LoraConfig.from_pretrained(given.folder)
    where = f"--init-adapter {given.folder}"
    for name, got, wanted in (
        ("rank", settings.r, config.lora_rank),
        ("alpha", settings.lora_alpha, config.lora_alpha),
    ):
        if got != wanted:
            raise UsageError(
                f"{where} has {name} {got}, lora_{name} is {wanted}; training goes on with the same; set "
                f"lora_{name}={got}"
            )
    for name in ("use_rslora", "rank_pattern", "alpha_pattern"):
        if value := getattr(settings, name):
            raise UsageError(
                f"{where} has {name}={value}, which scales its layers otherwise than training does; wanted one rank "
                "and alpha / rank for all; give an adapter that `dail train` made"
            )


def take_given(roles: Roles, record: RunRecord) -> Roles:
    """The roles with the adapters that the record names: the student starts from one, the references have the other on.

    Raises:
        UsageError: one is on other layers than it can be here.
    """
    names = {}
    if record.init_adapter:
        _start_from(roles, record.init_adapter, record.config)
        names[record.init_adapter.digest] = STUDENT
    if record.reference_adapter:
        _put_on_references(roles, record.reference_adapter, record.config)
        names[record.reference_adapter.digest] = REFERENCE
    return replace(roles, given=names)


def _start_from(roles: Roles, given: GivenAdapter, config: TrainConfig) -> None:
    tensors = load_file(Path(given.folder) / ADAPTER_WEIGHTS)
    theirs, ours = modules_of(tensors), modules_of(weights_of(roles.peft, STUDENT))
    if theirs != ours:
        more, less = theirs - ours, ours - theirs
        told = [f"it is on {_kinds(more)} as well"] if more else []
        told += [f"it is not on {_kinds(less)}"] if less else []
        wanted = sorted({name.rpartition(".")[2] for name in theirs})
        raise UsageError(
            f"--init-adapter {given.folder} is on other layers than lora_targets={config.lora_targets!r} means here: "
            f"{' and '.join(told)}; training goes on with the same layers; set lora_targets={','.join(wanted)}"
        )
    copy_into(roles.peft, STUDENT, tensors)


def _put_on_references(roles: Roles, given: GivenAdapter, config: TrainConfig) -> None:
    """Beside the student's adapter, with its own rank, scale and layers; never trained, nothing of it is dropped."""
    tensors = load_file(Path(given.folder) / ADAPTER_WEIGHTS)
    base = roles.peft.get_base_model()
    possible = {f"base_model.model.{name.removesuffix('.base_layer')}" for name in linear_layers(base)}
    if wrong := sorted(modules_of(tensors) - possible):
        raise UsageError(
            f"--reference-adapter {given.folder} adapts {few(wrong)}; wanted one on linear layers other than the head "
            "alone, which stays the same for all roles; merge it with `dail merge`, and give the merged folder as "
            "--model"
        )
    lora = LoraConfig.from_pretrained(given.folder)
    lora.inference_mode, lora.lora_dropout = True, 0.0
    # their full names, since what PEFT saves of a list of names may mean more layers here
    lora.target_modules = {name.removeprefix("base_model.model.") for name in modules_of(tensors)}
    if config.lora == "lean":
        make_lean(lora)
    roles.peft.add_adapter(REFERENCE, lora)
    for name, weight in roles.peft.named_parameters():
        weight.requires_grad_(f".{STUDENT}." in name and ".lora_" in name)
    for name, module in roles.peft.named_modules():
        module.training = name.endswith(f"lora_dropout.{STUDENT}")
    roles.peft.to(roles.device)
    copy_into(roles.peft, REFERENCE, tensors)


def weights_of(peft: Any, adapter: str) -> dict[str, Any]:
    """Of one adapter in the running model, by the names that its file has."""
    return {
        name.replace(f".{adapter}.", "."): weight
        for name, weight in peft.named_parameters()
        if ".lora_" in name and f".{adapter}." in name
    }


def copy_into(peft: Any, adapter: str, tensors: dict[str, Tensor]) -> None:
    weights = weights_of(peft, adapter)
    assert weights.keys() == tensors.keys(), f"names of {adapter} differ: {weights.keys() ^ tensors.keys()}"
    with no_grad():
        for name, tensor in tensors.items():
            weights[name].copy_(tensor)


def modules_of(names: Iterable[str]) -> set[str]:
    """What the tensors of an adapter's file are of, by PEFT's names of modules."""
    return {name.partition(".lora_")[0] for name in names}


def _kinds(modules: Iterable[str]) -> str:
    counts = Counter(name.rpartition(".")[2] for name in modules)
    return few([f"{kind} × {count}" for kind, count in sorted(counts.items())])
