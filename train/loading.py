"""The frozen weights, from a model folder: whole and as they are, or refused by name.

transformers makes up at random what a checkpoint lacks, leaves out what it does not know, and asks on standard input
whether a folder's own code may run. Each is a run that trains something else than the model that wrote the traces.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils import logging as transformers_logging

from dail.synth.core.errors import UsageError, few
from dail.synth.schema.tensors import tensors_of

_log = logging.getLogger(__name__)

_SHOWN = 5  # names in a message
# Types of tensors that are numbers by themselves, or indices; weights of others need a scale.
_PLAIN = {"F64", "F32", "F16", "BF16", "I64", "BOOL"}
_EXPERT = re.compile(r"(?P<layer>.*experts\.)(?P<number>\d+)\.(?P<rest>.+)")
_INDEX = re.compile(r"\.\d+\.")  # the number of a layer or of an expert


def load_base(folder: Path, dtype: str, in_4_bits: dict[str, Any] | None = None) -> Any:
    """The causal model in a folder, every weight of it read from the folder's files.

    Args:
        dtype: the name of a type of torch's, which the weights are turned into.
        in_4_bits: how transformers is to quantise them on the way (`loading_in_4_bits`).

    Raises:
        UsageError: a weight is missing, of another shape, not finite or quantised; there are weights that the model
            described by config.json does not have; or the folder needs code of its own.
    """
    config = read_config(folder)
    _check_plain(folder, config)
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what its report says is refused here, by name
    try:
        base, found = AutoModelForCausalLM.from_pretrained(
            folder.resolve(),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="eager",  # the one that drops nothing; `choose_packing` tries faster ones
            ignore_mismatched_sizes=True,  # so that they are named, and refused here
            output_loading_info=True,
            **(in_4_bits or {}),
        )
    except torch.OutOfMemoryError:
        raise
    except (KeyError, AssertionError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise UsageError(
            f"a setting in {folder}/config.json, or the index beside it, is none that a {config.model_type} model can "
            f"be made with: {type(error).__name__} {_first_lines(error)}; restore both from where the model came from"
        ) from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        _check_experts(folder)
        raise UsageError(
            f"the weights in {folder} cannot be read: {_first_lines(error)}; copy the model again, whole"
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    _check_complete(folder, base, found)
    _check_finite(folder, base)
    return base


def read_config(folder: Path) -> PretrainedConfig:
    """config.json as transformers has it; no code of the folder's own is run.

    Raises:
        UsageError: it is of no architecture that transformers has.
    """
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"{folder} brings code of its own (auto_map in its config.json), which is never run; wanted an "
                "architecture that transformers has; give the folder of a converted model"
            ) from None
        raise UsageError(
            f"{folder}/config.json is of no model that can be trained here: {_first_lines(error)}"
        ) from None


def _check_plain(folder: Path, config: PretrainedConfig) -> None:
    """Refuses weights that are numbers only together with scales. LoRA on them would be trained on something else."""
    quantised = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if quantised:
        settings = quantised if isinstance(quantised, dict) else quantised.to_dict()
        raise UsageError(
            f"the weights in {folder} are quantised ({settings.get('quant_method', 'by an unnamed method')}); wanted "
            "float32, float16 or bfloat16; give the folder of the model before it was quantised"
        )
    coded = [name for name, kind in _types(folder) if kind not in _PLAIN]
    if coded:
        raise UsageError(
            f"weights in {folder} are stored in a type that is no number by itself: {_some(coded)}; wanted float32, "
            "float16 or bfloat16; give the folder of the model before it was quantised"
        )


def _types(folder: Path) -> list[tuple[str, str]]:
    """Of each matrix in the folder its name and its type, from the files' headers. Small buffers may be of any type,
    and so may masks of attention [1, 1, positions, positions], which GPT-2 and others once saved."""
    try:
        tensors = [one for path in sorted(folder.glob("*.safetensors")) for one in tensors_of(path).items()]
    except (OSError, UsageError) as error:
        raise UsageError(f"the weights in {folder} cannot be read: {error}") from None
    return [(name, one.dtype) for name, one in tensors if len(one.shape) > 1 and one.shape[:2] != (1, 1)]


def _check_experts(folder: Path) -> None:
    """Names the experts' matrices that a layer lacks, which transformers, joining them, only says in a report."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for name, _ in _types(folder):
        if expert := _EXPERT.fullmatch(name):
            found[expert["layer"]].add((expert["number"], expert["rest"]))
    lacking = [
        f"{layer}{number}.{rest}"
        for layer, there in found.items()
        for number, rest in product({number for number, _ in there}, {rest for _, rest in there})
        if (number, rest) not in there
    ]
    if lacking:
        raise UsageError(
            f"{folder} lacks weights of experts: {_some(lacking)}; they would be made up at random; copy the model "
            "again, whole"
        )


def _check_complete(folder: Path, base: Any, found: dict[str, Any]) -> None:
    """Holds what was in the files against what the model has."""
    if other := found["mismatched_keys"]:
        shown = (f"{name} {list(got)} instead of {list(wanted)}" for name, got, wanted in other)
        raise UsageError(
            f"weights in {folder} have other shapes than its config.json says: {_some(shown)}; restore one of the two "
            "from where the model came from"
        )
    if found["error_msgs"]:
        raise UsageError(f"the weights in {folder} cannot be read: {_some(found['error_msgs'])}")
    if missing := found["missing_keys"]:
        raise UsageError(
            f"{folder} lacks weights that a {base.config.model_type} model has: {_some(missing)}; they would be made "
            "up at random; copy the model again, whole"
        )
    unknown = found["unexpected_keys"]
    has = {name for name, _ in base.named_parameters()}
    if left := _of_the_model(unknown, has):
        raise UsageError(
            f"{folder} holds weights that its config.json has no place for: {_some(left)}; the model would be another "
            "one without them (fewer layers, no biases); restore config.json from where the model came from"
        )
    if unknown:
        _log.warning(f"weights in {folder} that the model makes no use of: {_some(unknown)}")


def _of_the_model(unknown: Collection[str], has: Collection[str]) -> list[str]:
    """Those that continue what the model has: one more layer or expert, or another part of a module it has.

    Others are parts beside it, as heads for several tokens at once, which our roles do not use either.
    """
    numbered = {_INDEX.sub(".#.", name) for name in has}
    modules = {name.rpartition(".")[0] for name in has}
    return [name for name in unknown if _INDEX.sub(".#.", name) in numbered or name.rpartition(".")[0] in modules]


def _check_finite(folder: Path, base: Any) -> None:
    wrong = [name for name, weight in base.named_parameters() if not torch.isfinite(weight).all()]
    if wrong:
        raise UsageError(
            f"weights in {folder} are not finite as {str(base.dtype).removeprefix('torch.')}: {_some(wrong)}; copy the "
            "model again, or set dtype=float32 if they only overflow"
        )


def _some(names: Iterable[str]) -> str:
    return few(sorted(names), _SHOWN)


def _first_lines(error: BaseException) -> str:
    """Of a message that may go on for a page."""
    return " ".join(str(error).split())[:500] or type(error).__name__
