"""A PEFT LoRA adapter's folder: its rank, its digest, and whether it fits a base model.

vLLM copies of an adapter what fits and says nothing of the rest, so an adapter of another model gives numbers that look
like any others. Names and shapes are held against the headers of the base model's files before an engine starts.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dail.synth.core.config import canonical
from dail.synth.core.errors import UsageError, few
from dail.synth.schema.tensors import FLOATS, TensorEntry, is_finite, tensors_of

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# What PEFT can do to a layer and vLLM does not: by the name of its setting.
_NOT_SERVED = (
    "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora",
    "modules_to_save", "trainable_token_indices",
)  # fmt: skip
# First weights that leave the base as it is; the others (pissa, olora, corda, loftq) change it when PEFT loads them.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_HALF = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<table>[AB]))"
)
_BLOCK = re.compile(r"(?P<stem>(?:.*\.)?)(?P<number>[0-9]+)\.(?P<rest>.+)")
_EXPERTS = re.compile(r"(?:^|\.)([0-9]+)\.(?:[^.0-9]+\.)*experts(?=\.|$)")
_HEADS, _TABLES = ("lm_head", "embed_out"), ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")


@dataclass(frozen=True)
class _Low:
    """One half of a module's low-rank product."""

    name: str
    module: str
    is_a: bool
    is_table: bool
    entry: TensorEntry

    @property
    def rank(self) -> int:
        return self.entry.shape[0 if self.is_a else 1]

    @property
    def size(self) -> int:
        """What it takes in (A) or gives out (B)."""
        return self.entry.shape[1 if self.is_a else 0]


def adapter_rank(folder: Path) -> int:
    """The largest rank of a PEFT LoRA adapter. Raises UsageError if the folder holds none."""
    settings = _settings(folder)
    return max([_rank(folder, settings), *_pattern(folder, settings).values()])


def adapter_digest(folder: Path) -> str:
    """Of a LoRA adapter's weights and of what its settings say, however they are written."""
    digest = hashlib.sha256()
    with open(folder / ADAPTER_WEIGHTS, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    digest.update(canonical(in_order(_settings(folder))))
    return "sha256:" + digest.hexdigest()


def in_order(config: dict[str, Any]) -> dict[str, Any]:
    """An adapter's settings with names and lists of names sorted: PEFT has them as sets, whose order means nothing."""
    return {
        name: sorted(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value
        for name, value in sorted(config.items())
    }


def check_fits(folder: Path, base: Path) -> None:
    """Holds an adapter's names, shapes and numbers against a base model's. Reads headers, and the adapter's weights.

    Raises:
        UsageError: it is of another model, or damaged, or does what the engine leaves out; says what.
    """
    settings = _settings(folder)
    _check_served(folder, settings)
    _check_scale(folder, settings)
    file = folder / ADAPTER_WEIGHTS
    found = tensors_of(file)
    halves = _halves(file, found, base)
    _check_ranks(folder, settings, halves)
    base_tensors = {
        name: entry for part in sorted(base.glob("*.safetensors")) for name, entry in tensors_of(part).items()
    }
    matched = _check_shapes(folder, base, halves, _Base(base_tensors), bool(settings.get("fan_in_fan_out")))
    if _covers_all_layers(settings):
        _check_layers(folder, base, matched, base_tensors)
        _check_targets(folder, base, settings["target_modules"], matched, base_tensors)
    for name, entry in found.items():
        if not is_finite(file, entry):
            raise UsageError(
                f"adapter {folder}: {name} holds NaN or infinity; wanted finite numbers; take it from an earlier "
                "checkpoint, or train it again with a smaller lr"
            )


def _settings(folder: Path) -> dict[str, Any]:
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} is no adapter folder: it has no {name}; give the folder that `dail train` made")
    path = folder / ADAPTER_CONFIG
    try:
        settings = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}; restore it from the training run") from None
    if not isinstance(settings, dict):
        raise UsageError(
            f"{path} holds a {type(settings).__name__}; wanted an object; restore it from the training run"
        )
    return settings


def _rank(folder: Path, settings: dict[str, Any]) -> int:
    rank = settings.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UsageError(f"{folder / ADAPTER_CONFIG}: r is {rank!r}; wanted the rank of a LoRA adapter, a whole number")
    return rank


def _pattern(folder: Path, settings: dict[str, Any]) -> dict[str, int]:
    """Ranks of single modules, by a pattern of their names."""
    pattern = settings.get("rank_pattern") or {}
    if not isinstance(pattern, dict) or not all(isinstance(rank, int) and rank > 0 for rank in pattern.values()):
        raise UsageError(
            f"{folder / ADAPTER_CONFIG}: rank_pattern is {pattern!r}; wanted a rank, a whole number, by modules' names"
        )
    for name in pattern:
        try:
            re.compile(name)
        except re.error as error:
            raise UsageError(
                f"{folder / ADAPTER_CONFIG}: rank_pattern has {name!r}, which is no pattern of names ({error}); "
                "restore the file from the training run"
            ) from None
    return pattern


def _check_served(folder: Path, settings: dict[str, Any]) -> None:
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise UsageError(f"adapter {folder} is of the kind {kind}; wanted LORA, the one that the engine can apply")
    used = [f"{name}={settings[name]!r:.80}" for name in _NOT_SERVED if settings.get(name)]
    if settings.get("bias", "none") != "none":
        used.append(f"bias={settings['bias']!r}")
    start = settings.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        used.append(f"init_lora_weights={start!r}")
    if used:
        raise UsageError(
            f"adapter {folder} has {', '.join(used)}, which the engine does not apply; wanted plain LoRA layers; merge "
            "it into the base model with PEFT's merge_and_unload, and give the merged folder as the model"
        )


def _check_scale(folder: Path, settings: dict[str, Any]) -> None:
    """Left out is PEFT's default; anything but a number would fail far away, or make all layers NaN."""
    pattern = settings.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise UsageError(
            f"{folder / ADAPTER_CONFIG}: alpha_pattern is {pattern!r:.80}; wanted a number by modules' names; restore "
            "the file from the training run"
        )
    for name, alpha in {"lora_alpha": settings.get("lora_alpha", 8), **pattern}.items():
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < math.inf:
            raise UsageError(
                f"{folder / ADAPTER_CONFIG}: {name} is {alpha!r:.80}; wanted a finite number, by which the layers are "
                "scaled; restore the file from the training run"
            )


def _halves(file: Path, found: Mapping[str, TensorEntry], base: Path) -> list[_Low]:
    halves = []
    for name, entry in found.items():
        match = _HALF.fullmatch(name)
        if match is None:
            raise UsageError(
                f"{file}: {name} is no half of a LoRA layer, and the engine leaves it out; wanted "
                "MODULE.lora_A.weight and MODULE.lora_B.weight alone; save the adapter with "
                "save_embedding_layers=False, or merge it into the base model with PEFT's merge_and_unload"
            )
        if entry.dtype not in FLOATS or len(entry.shape) != 2 or 0 in entry.shape:
            raise UsageError(
                f"{file}: {name} is {entry.dtype} of shape {list(entry.shape)}; wanted a matrix of "
                f"{', '.join(FLOATS)}; save the adapter again with PEFT"
            )
        half = match["linear"] or match["table"]
        halves.append(_Low(name, match["module"], half == "A", match["table"] is not None, entry))
    sides = {True: {half.module for half in halves if half.is_a}, False: {h.module for h in halves if not h.is_a}}
    if lone := sorted(sides[True] ^ sides[False]):
        missing = "lora_B" if lone[0] in sides[True] else "lora_A"
        raise UsageError(
            f"{file}: {few(lone)} has no {missing}; wanted both halves of every LoRA layer; copy the adapter again, "
            "or take it from the training run"
        )
    return halves


def _check_ranks(folder: Path, settings: dict[str, Any], halves: Iterable[_Low]) -> None:
    rank, pattern = _rank(folder, settings), _pattern(folder, settings)
    for half in halves:
        if half.module.removesuffix(".base_layer").endswith("experts"):  # those of all experts, one below the other
            continue
        named = next((one for key, one in pattern.items() if re.match(rf"(.*\.)?({key})$", half.module)), rank)
        if half.rank != named:
            raise UsageError(
                f"adapter {folder}: {half.name} has rank {half.rank} (shape {list(half.entry.shape)}), and "
                f"{ADAPTER_CONFIG} says {named}; the two files are of different runs; restore both from one"
            )


class _Base:
    """A base model's modules, found by the names that an adapter has for them.

    A checkpoint may name them otherwise than the running model, and so than an adapter: with more or fewer prefixes
    (`h.0` for `transformer.h.0`, `language_model.model` for `model.language_model`), in other groups of a block.
    """

    def __init__(self, tensors: Mapping[str, TensorEntry]) -> None:
        self._of_module: dict[str, TensorEntry | None] = {}
        self._by_tail: dict[tuple[str, str], set[str]] = {}
        for name, entry in tensors.items():
            module, _, kind = name.rpartition(".")
            if kind == "weight":
                self._of_module[module] = entry
            else:  # of a quantised layer, whose shapes say little; or a parameter with no module of its own
                self._of_module.setdefault(module, None)
                self._of_module.setdefault(name, None)
        for module in self._of_module:
            for tail in _tails(module):
                self._by_tail.setdefault(tail, set()).add(module)

    def find(self, module: str) -> dict[str, TensorEntry | None]:
        """What it may be here, by name: exactly it, else what ends alike, else the same name in the same block."""
        if module in self._of_module:
            return {module: self._of_module[module]}
        for tail in _tails(module):
            if names := self._by_tail.get(tail):
                return {name: self._of_module[name] for name in sorted(names)}
        if module.rpartition(".")[2] in _HEADS:  # tied: the table is the head too
            tables = [name for name in self._of_module if name.rpartition(".")[2] in _TABLES]
            return {name: self._of_module[name] for name in tables}
        return {}


def _tails(module: str) -> list[tuple[str, str]]:
    """What a module is found by where prefixes differ: its block's number, with all or the last of what follows."""
    if experts := _EXPERTS.search(module):  # one tensor of all in the running model, one each in many checkpoints
        return [(experts[1], "experts")]
    block = _BLOCK.fullmatch(module)
    if block is None:
        return [("", module.rpartition(".")[2])]
    return [(block["number"], block["rest"]), (block["number"], "." + block["rest"].rpartition(".")[2])]


def _check_shapes(
    folder: Path, base: Path, halves: Iterable[_Low], modules: _Base, is_transposed: bool
) -> dict[str, set[str]]:
    """The base's names of what each module may be."""
    matched: dict[str, set[str]] = {}
    unknown: list[str] = []
    for half in halves:
        found = modules.find(half.module)
        matched[half.module] = set(found)
        if not found:
            unknown.append(half.module)
            continue
        if half.module not in found and _EXPERTS.search(half.module):
            continue
        sizes = {name: size for name, entry in found.items() if (size := _size(half, entry, is_transposed))}
        if sizes and len(sizes) == len(found) and half.size not in sizes.values():
            name, size = next(iter(sizes.items()))
            side = "takes in" if half.is_a else "gives out"
            raise UsageError(
                f"adapter {folder} was trained on another model than {base}: {half.name} has shape "
                f"{list(half.entry.shape)}, so its layer {side} {half.size}, and {name} {side} {size}; give the base "
                "model that it was trained on"
            )
    if unknown:
        raise UsageError(
            f"adapter {folder} was trained on another model than {base}, which has no {few(sorted(set(unknown)))}; "
            "give the base model that it was trained on"
        )
    return matched


def _size(half: _Low, entry: TensorEntry | None, is_transposed: bool) -> int | None:
    """What the base's weight takes in or gives out; none if that cannot be read off its shape (quantised)."""
    if entry is None or len(entry.shape) != 2 or not entry.dtype.startswith(("F", "BF")):
        return None
    gives, takes = entry.shape
    if is_transposed or half.is_table:  # a table's rows are what it takes in
        gives, takes = takes, gives
    return takes if half.is_a else gives


def _covers_all_layers(settings: dict[str, Any]) -> bool:
    """Whether its settings say that no layer was left out on purpose."""
    targets = settings.get("target_modules")
    chosen = any(settings.get(name) is not None for name in ("layers_to_transform", "exclude_modules"))
    return isinstance(targets, list) and not chosen and not any(re.search("[0-9]", str(name)) for name in targets)


def _check_layers(
    folder: Path, base: Path, matched: Mapping[str, set[str]], tensors: Mapping[str, TensorEntry]
) -> None:
    """Names that all fit may still be of a model with fewer layers, or of a file that lost some."""
    num_layers = _num_layers(base)
    found = [_BLOCK.fullmatch(name) for names in matched.values() for name in names if not _EXPERTS.search(name)]
    covered = {int(block["number"]) for block in found if block}
    wanted = {(block["stem"], block["rest"]) for block in found if block}
    there = {
        int(block["number"])
        for name in tensors
        if (block := _BLOCK.fullmatch(name.rpartition(".")[0])) and (block["stem"], block["rest"]) in wanted
    }
    # a checkpoint may hold more: layers that predict further tokens, which neither trainer nor engine has
    missing = sorted(number for number in there - covered if num_layers is not None and number < num_layers)
    if missing:
        raise UsageError(
            f"adapter {folder} has nothing for {len(missing)} of the {num_layers} layers of {base} "
            f"({few([str(number) for number in missing])}), and {ADAPTER_CONFIG} leaves none out; it is of a model "
            "with fewer layers, or lost some; give the base model that it was trained on, or copy it again"
        )


def _check_targets(
    folder: Path,
    base: Path,
    targets: Iterable[str],
    matched: Mapping[str, set[str]],
    tensors: Mapping[str, TensorEntry],
) -> None:
    """A file may have lost one kind of layer in every block. A target that this base does not have is no fault: lists
    of targets are shared among architectures."""

    def has(modules: Iterable[str], target: str) -> bool:
        return any(f".{module}".endswith(f".{target}") for module in modules)

    # experts may be one parameter in the running model, which a target by their old names does not reach
    there = {
        name.rpartition(".")[0] for name, entry in tensors.items() if name.endswith(".weight") and len(entry.shape) > 1
    }
    in_experts = {name for name in there if _EXPERTS.search(name)}
    lost = [
        target
        for target in targets
        if has(there, target)
        and not has(in_experts, target)
        and not has([*matched, *(name for names in matched.values() for name in names)], target)
    ]
    if lost:
        raise UsageError(
            f"adapter {folder} has nothing for {few(lost)}, which {ADAPTER_CONFIG} says that it adapts and {base} "
            "has; its weights lost some layers, or the two files are of different runs; restore both from one"
        )


def _num_layers(base: Path) -> int | None:
    try:
        config = json.loads((base / "config.json").read_text("utf-8"))
        for part in (config, config.get("text_config") or {}):
            for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
                if isinstance(number := part.get(name), int):
                    return number
    except (OSError, ValueError, AttributeError):
        pass
    return None
