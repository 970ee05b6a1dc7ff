"""Sizes that fit themselves: rows, token budget and KV cache of an engine, from its model's shape and its device.

Arithmetic over config.json and the device's memory; nothing is loaded. What vLLM's passes need, vLLM measures. What it
does not see is ours, and is set aside here: the float32 passes over the logits of the sequences that are sampled
(`BatchSampler`), and the logits of every token of a scoring pass, which vLLM computes for a whole step at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.core.machine import main_memory

GIB = 2**30
_MOST_ROWS = {"cuda": 512, "cpu": 256}
_LEAST_ROWS = 8
_MOST_STEP_TOKENS, _LEAST_STEP_TOKENS = 16384, 2048
_TYPICAL_TOKENS = 1024  # of a prompt and its trace, where nobody said how long the longest is
_SHARE = 0.92  # of a GPU's memory that vLLM takes by itself
_CPU_SHARE = 0.25  # of the memory that is free: other programs live there, and other engines
_READING_SHARE = 0.06  # of the device's memory, for the logits of a reading
_READING_BYTES = 6  # of one logit of a reading: as the model gave it, and as float32 log-probability
_DRAW_BYTES = 20  # of one logit of a drawn row: float32, five times
_PASS_BYTES = 2 * GIB  # of a GPU: CUDA graphs and the activations of a step; vLLM measures, this is for forecasts
_BLOCK = 128  # tokens of a KV block, at most


@dataclass(frozen=True)
class Device:
    """Where an engine runs. `kind`: cuda or cpu. Of a CPU, what is free is what this program may take."""

    kind: str
    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Shape:
    """What a model costs. An upper bound for models that keep a window of the past only."""

    weights_bytes: int
    kv_token_bytes: int
    vocab_size: int
    model_tokens: int


@dataclass(frozen=True)
class Sizes:
    """What one engine will hold, on each of its GPUs. `kv_tokens` is a forecast; the engine's limits say the truth.

    `set_aside_bytes` are for readings and draws; `memory_share` is the part of a GPU that vLLM is given.
    """

    rows: int
    step_tokens: int
    model_tokens: int
    weights_bytes: int
    kv_bytes: int
    kv_tokens: int
    set_aside_bytes: int
    memory_share: float | None

    def put_into(self, config: EngineConfig, num_engines: int) -> EngineConfig:
        """The config with what it left out. One engine on a GPU leaves its KV cache to vLLM, which measures."""
        fitted: dict[str, Any] = {
            "rows": self.rows,
            "step_tokens": self.step_tokens,
            "model_tokens": self.model_tokens,
            "memory_share": self.memory_share,
        }
        if self.memory_share is None or num_engines > 1:
            fitted["kv_cache_gib"] = self.kv_bytes / GIB
        left_out = {name: value for name, value in fitted.items() if getattr(config, name) is None}
        return config.model_copy(update=left_out)


def fit(config: EngineConfig, shape: Shape, device: Device, num_engines: int = 1) -> Sizes:
    """Sizes for one of `num_engines` alike on this device; what the config says is taken as it is.

    Raises:
        UsageError: the weights leave no room for a KV cache, or the KV cache none for one trace.
    """
    is_gpu = device.kind == "cuda"
    longest = min(config.model_tokens or shape.model_tokens, shape.model_tokens)
    step_tokens = config.step_tokens or _step_tokens(shape, device)
    rows = config.rows or min(_MOST_ROWS[device.kind], step_tokens // 2)
    aside = (min(step_tokens, longest) * _READING_BYTES + rows * _DRAW_BYTES) * shape.vocab_size
    weights = shape.weights_bytes // config.tensor_parallel
    kv_token = -(-shape.kv_token_bytes // config.tensor_parallel)
    share = None
    if is_gpu:
        share = config.memory_share or (_SHARE - aside / device.total_bytes) / num_engines
        free = int(share * device.total_bytes) - weights - _PASS_BYTES
    else:
        free = int(_CPU_SHARE * (device.free_bytes - num_engines * weights) / num_engines)
    kv_bytes = int(config.kv_cache_gib * GIB) if config.kv_cache_gib else free
    if kv_bytes < _BLOCK * kv_token:
        raise UsageError(_no_room(config, device, weights, num_engines))
    typical = longest if config.model_tokens else min(longest, _TYPICAL_TOKENS)
    if config.rows is None:
        rows = max(_LEAST_ROWS, min(rows, kv_bytes // kv_token // typical // 8 * 8))
    if not is_gpu and config.kv_cache_gib is None:  # no more than the rows can fill
        kv_bytes = min(kv_bytes, max(rows * typical, longest) * kv_token + 2 * rows * _BLOCK * kv_token)
    kv_tokens = kv_bytes // kv_token // _BLOCK * _BLOCK
    if config.model_tokens is None:  # vLLM starts only if its cache holds one row of full length
        longest = min(longest, int(0.95 * kv_tokens) if is_gpu else kv_tokens - _BLOCK)
    return Sizes(rows, step_tokens, longest, weights, kv_bytes, kv_tokens, aside, share)


def fitted(config: EngineConfig, num_engines: int = 1) -> EngineConfig:
    """The config with every size set, for the device of this process. Raises UsageError as `fit` does."""
    return fit(config, shape_of(config.model, config.dtype), this_device(), num_engines).put_into(config, num_engines)


def _step_tokens(shape: Shape, device: Device) -> int:
    by_memory = int(_READING_SHARE * device.total_bytes) // (_READING_BYTES * shape.vocab_size)
    return max(_LEAST_STEP_TOKENS, min(_MOST_STEP_TOKENS, by_memory // 1024 * 1024))


def _no_room(config: EngineConfig, device: Device, weights: int, num_engines: int) -> str:
    return (
        f"{config.model}: {num_engines} × {weights / GIB:.1f} GiB of weights leave no room for a KV cache on "
        f"{device.name} with {device.total_bytes / GIB:.1f} GiB ({device.free_bytes / GIB:.1f} free); "
        f"{'set engine.tensor_parallel higher, ' if device.kind == 'cuda' else ''}use a smaller model, or free memory"
    )


def shape_of(folder: Path, dtype: str = "auto") -> Shape:
    """Reads config.json and the sizes of the weight files. Raises UsageError if the model's shape is not in there."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
        text = config.get("text_config") or config  # models that also see or hear nest it
        own = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
        kv_values = _kv_values(text)
        vocab_size, model_tokens = int(text["vocab_size"]), int(text["max_position_embeddings"])
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give a model folder") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no model configuration: {error}; restore the file") from None
    except KeyError as error:
        raise UsageError(
            f"{path} does not say {error}, so memory cannot be forecast; set engine.rows, engine.step_tokens, "
            f"engine.model_tokens and engine.kv_cache_gib yourself"
        ) from None
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    width = _width(dtype if dtype != "auto" else own)
    is_quantised = "quantization_config" in config
    weights = stored if is_quantised or not own else stored * width // _width(own)
    return Shape(weights, kv_values * width, vocab_size, model_tokens)


def _kv_values(text: dict[str, Any]) -> int:
    """How many numbers a token leaves in the KV cache."""
    num_layers = int(text["num_hidden_layers"])
    if text.get("kv_lora_rank"):  # latent attention keeps one compressed vector a layer
        return num_layers * (int(text["kv_lora_rank"]) + int(text["qk_rope_head_dim"]))
    num_heads = int(text["num_attention_heads"])
    head_dim = int(text.get("head_dim") or int(text["hidden_size"]) // num_heads)
    return 2 * num_layers * int(text.get("num_key_value_heads") or num_heads) * head_dim


def _width(dtype: str | None) -> int:
    """Bytes of one number."""
    return 4 if dtype == "float32" else 2


def this_device() -> Device:
    """The GPU of this process, or its CPU."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Device("cuda", torch.cuda.get_device_name(), total, free)
    total, free = main_memory()
    return Device("cpu", "this machine's CPU", total, free)
