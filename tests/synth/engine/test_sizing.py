"""Sizes of an engine from shape and device: what is reserved fits, what was set stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.engine.sizing import GIB, Device, Shape, fit, fitted, shape_of, this_device
from tests.conftest import DEMO_MODEL

H100 = Device("cuda", "H100", 80 * GIB, 79 * GIB)
RTX = Device("cuda", "RTX 4090", 24 * GIB, 23 * GIB)
CPU = Device("cpu", "this machine's CPU", 24 * GIB, 16 * GIB)
QWEN_7B = {
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
SHAPE_7B = Shape(15 * GIB, 57_344, 152_064, 32_768)


def model(folder: Path, **changes: object) -> Path:
    settings = {name: value for name, value in (QWEN_7B | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


def config(**sizes: object) -> EngineConfig:
    return EngineConfig(model=Path("m"), **sizes)


def test_shape_of_a_model_with_grouped_heads(tmp_path: Path) -> None:
    assert shape_of(model(tmp_path)) == Shape(1000, 2 * 28 * 4 * 128 * 2, 152_064, 32_768)


def test_float32_doubles_weights_and_cache(tmp_path: Path) -> None:
    shape = shape_of(model(tmp_path), "float32")
    assert (shape.weights_bytes, shape.kv_token_bytes) == (2000, 2 * 28 * 4 * 128 * 4)


def test_quantised_weights_stay_as_large_as_they_are(tmp_path: Path) -> None:
    folder = model(tmp_path, quantization_config={"quant_method": "fp8"}, torch_dtype="float32")
    assert shape_of(folder, "bfloat16").weights_bytes == 1000


def test_latent_attention_keeps_one_vector_a_layer(tmp_path: Path) -> None:
    assert shape_of(model(tmp_path, kv_lora_rank=512, qk_rope_head_dim=64)).kv_token_bytes == 28 * 576 * 2


def test_nested_text_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": QWEN_7B}))
    assert shape_of(tmp_path).vocab_size == 152_064


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no model configuration"),
        ("[]", "is no model configuration"),
        ("{}", "does not say 'num_hidden_layers'"),
    ],
)
def test_a_config_without_a_shape_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        shape_of(tmp_path)


@pytest.mark.parametrize("device", [H100, RTX, CPU])
@pytest.mark.parametrize("num_engines", [1, 2])
@pytest.mark.parametrize("weights_gib", [1, 6])
def test_everything_reserved_fits_the_device(device: Device, num_engines: int, weights_gib: int) -> None:
    shape = Shape(weights_gib * GIB, 57_344, 152_064, 32_768)
    sizes = fit(config(), shape, device, num_engines)
    held = num_engines * (sizes.weights_bytes + sizes.kv_bytes) + sizes.set_aside_bytes
    assert held <= min(device.free_bytes, 0.93 * device.total_bytes)
    assert sizes.kv_tokens * shape.kv_token_bytes <= sizes.kv_bytes
    assert sizes.rows < sizes.step_tokens


def test_a_7b_model_on_an_h100() -> None:
    sizes = fit(config(), SHAPE_7B, H100)
    assert (sizes.rows, sizes.step_tokens, sizes.model_tokens) == (512, 5120, 32_768)
    assert 0.80 < (sizes.memory_share or 0) < 0.92
    assert sizes.kv_tokens > 800_000


def test_one_engine_on_a_gpu_leaves_its_cache_to_vllm_and_two_do_not() -> None:
    one = fit(config(), SHAPE_7B, H100).put_into(config(), 1)
    two = fit(config(), SHAPE_7B, H100, 2).put_into(config(), 2)
    assert one.kv_cache_gib is None
    assert two.kv_cache_gib and two.memory_share and two.memory_share < 0.46


def test_tensor_parallel_engines_hold_a_part_on_each_gpu() -> None:
    whole, half = fit(config(), SHAPE_7B, H100), fit(config(tensor_parallel=2), SHAPE_7B, H100)
    assert half.weights_bytes * 2 == whole.weights_bytes
    assert half.kv_tokens > 2 * whole.kv_tokens


def test_long_items_get_fewer_rows() -> None:
    assert fit(config(model_tokens=16_384), SHAPE_7B, H100).rows < 64


def test_a_context_that_the_cache_cannot_hold_is_shortened() -> None:
    sizes = fit(config(), Shape(15 * GIB, 57_344, 152_064, 131_072), RTX)
    assert sizes.model_tokens < sizes.kv_tokens < 131_072


def test_what_was_set_stays() -> None:
    chosen = config(rows=7, step_tokens=999, model_tokens=555, kv_cache_gib=0.125)
    assert fit(chosen, SHAPE_7B, CPU).put_into(chosen, 1) == chosen
    shared = config(memory_share=0.3)
    assert fit(shared, Shape(GIB, 57_344, 152_064, 32_768), H100).put_into(shared, 1).memory_share == 0.3


def test_weights_that_leave_no_room_are_refused() -> None:
    with pytest.raises(UsageError, match=r"2 × 15\.0 GiB of weights leave no room .* RTX 4090 with 24\.0 GiB"):
        fit(config(), SHAPE_7B, RTX, 2)


def test_this_device_has_memory() -> None:
    device = this_device()
    assert 0 < device.free_bytes <= device.total_bytes


def test_the_demo_model_on_this_machine() -> None:
    chosen = fitted(EngineConfig(model=DEMO_MODEL, dtype="float32"))
    assert None not in (chosen.rows, chosen.step_tokens, chosen.model_tokens)
