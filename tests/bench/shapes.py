"""Models to measure on: the demo model, and folders with the shapes of others, whose weights vLLM makes up.

Speed and memory do not depend on the weights' values. What does, how often the student is asked, is printed beside them
and is set by the temperature (see tests/bench/rollout.py).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dail.synth.config import EngineConfig
from dail.synth.engine.sizing import fit, shape_of, this_device

DEMO = Path(__file__).parents[2] / "deploy" / "demo"
_QWEN = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "eos_token_id": 1021,
    "dtype": "bfloat16",
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 32000,
    },
    "qwen2.5-7b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "qwen3-8b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
}


class Model(NamedTuple):
    """`vllm_args` are to go to the engine beside its config; `dtype` into it."""

    folder: Path
    dtype: str
    vllm_args: dict[str, Any]


def model_of(shape: str) -> Model:
    """The demo model, or a folder with this shape and the demo model's tokenizer. Not removed: the system's temp."""
    if shape == "demo":
        return Model(DEMO / "model", "float32", {})
    folder = Path(tempfile.mkdtemp(prefix=f"dail-shape-{shape}-")) / shape
    shutil.copytree(DEMO / "model", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "README.md"))
    write_config(folder, shape)
    return Model(folder, "bfloat16", {"load_format": "dummy"})


def write_config(folder: Path, shape: str, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(_QWEN | SHAPES[shape] | changes, indent=1))


def fitted(config: EngineConfig, model: Model, num_engines: int = 1) -> EngineConfig:
    """As the program fits it, but the bytes of weights that vLLM will make up, and that lie in no file, are counted."""
    shape = shape_of(model.folder, model.dtype)
    if model.vllm_args:
        shape = replace(shape, weights_bytes=2 * num_weights(model.folder))  # bfloat16
    return fit(config, shape, this_device(), num_engines).put_into(config, num_engines)


def num_weights(folder: Path) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return sum(weight.numel() for weight in model.parameters())


def machine() -> str:
    """The card, or the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = {
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    }
    return f"{torch.get_num_threads()} threads of {', '.join(sorted(names)) or 'a CPU'}"
