"""An adapter put into the weights of its base model: a folder that needs no adapter, held against the two before it is.

    dail merge runs/train --model deploy/demo/model --out runs/merged

The sum W + scale · B A is made in float32 and stored in the type that the base's file has for W. All other files are
copied byte for byte. What is checked, by logits on made-up ids:

- the sum in float32 gives what base and adapter give, but for the order of additions, or nothing is written;
- the folder, read again, gives what the rounded sum gives: each weight stands where it belongs;
- what rounding did is told. bfloat16 has 8 bits, and most changes of a weight are smaller than its last one: the merged
  model is another one than base and adapter by that much. Serve the adapter by itself where that matters.

The model lies in main memory once, as float32.
"""

from __future__ import annotations

import datetime as dt
import gc
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dail.synth.core.config import TOOL_VERSION, Frozen
from dail.synth.core.errors import IntegrityError, StorageError, UsageError, few
from dail.synth.core.files import new_folder
from dail.synth.core.machine import main_memory
from dail.synth.core.progress import OnProgress, progress, told_to
from dail.synth.schema.adapters import ADAPTER_WEIGHTS
from dail.synth.schema.models import ModelIdentity, identify
from dail.synth.schema.tensors import TensorEntry, tensors_of
from dail.train.evals.lineage import Adapter, read_adapter
from dail.train.given_adapters import adapter_folder, copy_into, modules_of
from dail.train.loading import load_base
from dail.train.record import Provenance
from dail.train.targets import linear_layers

MERGED_FILE = "dail-merged.json"
GIB = 2**30
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Other files that hold weights, which would be the base's.
_OTHER_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot"}
_NUMBERED = re.compile(r"(?:^|\.)(?P<tail>\d+\..+)")  # of a layer's name, from its number on
_PREFIX = "base_model.model."
_PROBE = (48, 33, 17)  # tokens of the made-up sequences
_TOLERANCE = 1e-4  # of logits, relative to the largest: float32 sums in another order


class Merged(Frozen):
    """dail-merged.json: where a merged model came from, and how near it is to what it was made of.

    `float32_error`: of the sum's logits, relative to the largest. `rounding_error` and `rounding_kl`: of the stored
    weights' logits, and the mean KL (nats a token) from base and adapter to them. `unmoved`: of the weights that the
    adapter changes, the share whose change was lost in rounding.
    """

    base: ModelIdentity
    adapter: str
    provenance: Provenance | None
    merged_layers: int
    float32_error: float
    rounding_error: float
    rounding_kl: float
    unmoved: float
    not_copied: tuple[str, ...]
    made_at: dt.datetime
    tool_version: str = TOOL_VERSION


def merge(adapter: str | Path, model: str | Path, out: str | Path, *, on_progress: OnProgress | None = None) -> Merged:
    """Writes the merged model into a new folder, whole or not at all.

    Args:
        adapter: folder of the adapter, or of the run that trained it.
        model: folder of its base model.
        on_progress: called in the thread that does the work.

    Raises:
        UsageError: it is of another model, does more than plain LoRA on linear layers, or `out` is there already.
        IntegrityError: the merged weights do not give what base and adapter give.
        StorageError: there is no room, or the disk refused.
    """
    folder, base, target = adapter_folder(Path(adapter)), Path(model), Path(out)
    if target.exists():
        raise UsageError(f"{target} exists already, and nothing is written over; give another --out")
    identity = identify(base)
    found = read_adapter(folder, base, identity)
    files = _weight_files(base)
    _check_room(base, target, files)
    with new_folder(target, SafetensorError) as staged, told_to(on_progress), torch.no_grad():
        return _merge(found, base, identity, files, staged)


def _merge(found: Adapter, base: Path, identity: ModelIdentity, files: list[Path], staged: Path) -> Merged:
    with _Sum.of(found.folder, base) as sums:
        wanted = sums.logits()
        sums.merge()
        error = _difference(sums.logits(), wanted)
        if not error <= _TOLERANCE:
            raise IntegrityError(
                f"merged in float32 the logits are off by {error:.2g} of the largest from those of base and adapter; "
                f"wanted at most {_TOLERANCE:g}; this architecture computes its layers otherwise than as a matrix: "
                "serve the adapter as it is"
            )
        entries = {file: tensors_of(file) for file in files}
        places = _places(sums.layers, {name: one for named in entries.values() for name, one in named.items()})
        with progress("merging", sum(map(len, entries.values()))) as bar:
            for done, (file, named) in enumerate(entries.items()):
                sums.write(file, staged / file.name, {name: places[name] for name in named if name in places})
                bar.update(sum(len(one) for one in list(entries.values())[: done + 1]))
        rounded, layers, unmoved = sums.logits(), len(sums.layers), sums.unmoved
    not_copied = copy_others(base, staged, files)
    _check_read_again(staged, rounded)
    merged = Merged(
        base=identity,
        adapter=found.digest,
        provenance=found.provenance,
        merged_layers=layers,
        float32_error=error,
        rounding_error=_difference(rounded, wanted),
        rounding_kl=_kl(wanted, rounded),
        unmoved=unmoved,
        not_copied=not_copied,
        made_at=dt.datetime.now(dt.UTC),
    )
    (staged / MERGED_FILE).write_text(merged.model_dump_json(indent=1) + "\n", "utf-8")
    return merged


@dataclass
class _Sum:
    """The running base model with the adapter's layers, in float32, and what of it is written."""

    peft: Any
    layers: dict[str, LoraLayer]
    changed: int = 0
    lost: int = 0

    @classmethod
    @contextmanager
    def of(cls, folder: Path, model: Path) -> Iterator[_Sum]:
        base = load_base(model, "float32")
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        modules = {name.removeprefix(_PREFIX) for name in modules_of(tensors)}
        _refuse_unmergeable(folder, base, modules)
        settings = LoraConfig.from_pretrained(folder)
        settings.target_modules, settings.inference_mode, settings.lora_dropout = modules, True, 0.0
        settings.base_model_name_or_path = None  # or PEFT warns that the folder has another name by now
        peft = get_peft_model(base, settings).eval()
        copy_into(peft, "default", tensors)
        named = peft.get_base_model().named_modules()
        layers = {name: layer for name, layer in named if isinstance(layer, LoraLayer)}
        sums = cls(peft, layers)
        try:
            yield sums
        finally:
            sums.peft, sums.layers = None, {}
            gc.collect()  # the next model needs its place

    @property
    def unmoved(self) -> float:
        return self.lost / max(1, self.changed)

    def logits(self) -> Tensor:
        return _logits(self.peft)

    def merge(self) -> None:
        for layer in self.layers.values():
            layer.merge()

    def write(self, file: Path, to: Path, places: Mapping[str, str]) -> None:
        """One file of the base's, with the sums in place of what they are sums of. The running model gets them too, as
        they are rounded."""
        if not places:
            shutil.copyfile(file, to)
            return
        with safe_open(file, "pt") as source:
            header = source.metadata()
            tensors = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 — no iterator
        tensors |= {name: self._stored(module, name, tensors[name]) for name, module in places.items()}
        save_file(tensors, to, metadata=header)

    def _stored(self, module: str, name: str, weight: Tensor) -> Tensor:
        layer = self.layers[module]
        change, running = layer.get_delta_weight("default"), layer.get_base_layer().weight
        if not torch.equal(weight.float() + change, running):
            raise UsageError(
                f"{name} in the base's files is not what the running model has as {module}.weight, so it cannot be "
                "merged file by file; serve the adapter as it is"
            )
        rounded = running.to(weight.dtype)
        if not torch.isfinite(rounded).all():
            raise UsageError(f"{name}: the sum is more than {weight.dtype} can hold; serve the adapter as it is")
        self.changed += int((change != 0).sum())
        self.lost += int(((change != 0) & (rounded == weight)).sum())
        running.copy_(rounded)
        return rounded.contiguous()


def _places(layers: Mapping[str, LoraLayer], entries: Mapping[str, TensorEntry]) -> dict[str, str]:
    """Which module each matrix in the base's files is of. Files may name it with more or fewer prefixes than the
    running model; that it is the same matrix is checked when it is read."""
    found: dict[str, str] = {}
    missing = []
    for module, layer in layers.items():
        shape = tuple(layer.get_base_layer().weight.shape)
        numbered = _NUMBERED.search(module)
        tail = numbered["tail"] if numbered else module.rpartition(".")[2]
        named = [name for name in entries if f".{name}".endswith(f".{tail}.weight") and entries[name].shape == shape]
        exact = [name for name in named if name == f"{module}.weight"]
        if len(exact or named) == 1:
            found[(exact or named)[0]] = module
        else:
            missing.append(module)
    if missing:
        raise UsageError(
            f"the base's files hold no matrix of its own for {few(sorted(missing))}, which the adapter is on: there it "
            "is joined with others, or cut in another way; serve the adapter as it is"
        )
    return found


def _refuse_unmergeable(folder: Path, base: Any, modules: set[str]) -> None:
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    name_of = {module: name for name, module in base.named_modules()}
    possible = linear_layers(base) | {name_of[head]}
    if wrong := sorted(modules - possible):
        raise UsageError(
            f"adapter {folder} is on {few(wrong)}; wanted linear layers alone, whose sum is a matrix again: no "
            "embeddings, and no experts that are one parameter; serve the adapter as it is"
        )
    if head.weight is embedding.weight and name_of[head] in modules:
        raise UsageError(
            f"adapter {folder} is on {name_of[head]}, which in this model is the embedding too (tied): merged it would "
            "change what tokens are read as; serve the adapter as it is"
        )


def _weight_files(base: Path) -> list[Path]:
    """Those that transformers reads."""
    index = base / _INDEX
    if not index.is_file():
        return [base / _WEIGHTS]
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UsageError(f"{index} is no index of weights; restore it from where the model came from") from None
    return [base / name for name in names]


def _check_room(base: Path, target: Path, files: list[Path]) -> None:
    """On the disk for the folder, and in memory for the model as float32."""
    there = next(parent for parent in target.absolute().parents if parent.exists())
    wanted, free = sum(file.stat().st_size for file in files), shutil.disk_usage(there).free
    if wanted > free:
        raise StorageError(
            f"{target} needs {wanted / GIB:.3g} GiB, and {free / GIB:.3g} are free; free some space, or name another "
            "--out"
        )
    numbers = sum(math.prod(entry.shape) for file in files for entry in tensors_of(file).values())
    memory = main_memory()[1]
    if 4 * numbers > memory:
        raise UsageError(
            f"{base} has {numbers / 1e9:.3g} billion weights, which take {4 * numbers / GIB:.3g} GiB as float32, and "
            f"{memory / GIB:.3g} are free; merge on a machine with more main memory"
        )


def copy_others(base: Path, staged: Path, files: list[Path]) -> tuple[str, ...]:
    """All files but hidden ones and weights in other forms, which would be those of the base; which these are."""
    left = []
    for path in sorted(path for path in base.rglob("*") if path.is_file()):
        name = path.relative_to(base)
        if path in files or any(part.startswith(".") for part in name.parts):
            continue
        if path.suffix in _OTHER_WEIGHTS:
            left.append(name.as_posix())
            continue
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, staged / name)
    return tuple(left)


def _check_read_again(staged: Path, rounded: Tensor) -> None:
    error = _difference(_logits(load_base(staged, "float32")), rounded)
    if not error <= _TOLERANCE:
        raise IntegrityError(
            f"the merged folder's logits are off by {error:.2g} of the largest from those of the rounded sum; wanted "
            f"at most {_TOLERANCE:g}; the base's files name their weights otherwise than is known; serve the adapter "
            "as it is"
        )


def _logits(model: Any) -> Tensor:
    """On made-up ids, of all their tokens [R, V]."""
    vocabulary = min(1000, model.get_input_embeddings().weight.shape[0])
    draw = torch.Generator().manual_seed(0)
    probes = [torch.randint(vocabulary, (1, length), generator=draw) for length in _PROBE]
    return torch.cat([model(input_ids=ids_1T, use_cache=False).logits[0].float() for ids_1T in probes])


def _difference(ours_RV: Tensor, theirs_RV: Tensor) -> float:
    """The largest, relative to the largest of theirs."""
    return float((ours_RV - theirs_RV).abs().max() / theirs_RV.abs().max().clamp_min(1e-30))


def _kl(from_RV: Tensor, to_RV: Tensor) -> float:
    """Mean over positions, nats a token."""
    log_p, log_q = from_RV.log_softmax(-1), to_RV.log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
