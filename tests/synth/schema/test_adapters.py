"""Adapters held against base models: what fits, what is of another model, and what the engine would leave out."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.schema.adapters import adapter_rank, check_fits
from tests.conftest import demo_lora, zeros

ADAPTER = "base_model.model."
Shapes = dict[str, tuple[int, ...]]


def base_shapes(layers: int = 3, hidden: int = 16, inner: int = 40, prefix: str = "model.") -> Shapes:
    shapes: Shapes = {f"{prefix}embed_tokens.weight": (50, hidden)}
    for layer in range(layers):
        shapes[f"{prefix}layers.{layer}.self_attn.q_proj.weight"] = (24, hidden)
        shapes[f"{prefix}layers.{layer}.mlp.down_proj.weight"] = (hidden, inner)
    return shapes


def lora_shapes(base: Shapes, rank: int = 4) -> Shapes:
    shapes: Shapes = {}
    for name, shape in base.items():
        if "embed" not in name:
            module = ADAPTER + name.removesuffix(".weight")
            shapes |= {f"{module}.lora_A.weight": (rank, shape[1]), f"{module}.lora_B.weight": (shape[0], rank)}
    return shapes


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., None]:
    def check(lora: Shapes, base: Shapes | None = None, config: dict[str, Any] | None = None, **settings: Any) -> None:
        model, folder = tmp_path / "model", tmp_path / "adapter"
        for one in (model, folder):
            one.mkdir(exist_ok=True)
        (model / "model.safetensors").write_bytes(zeros(**(base_shapes() if base is None else base)))
        (model / "config.json").write_text(json.dumps({"num_hidden_layers": 3} | (config or {})))
        said = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "down_proj"], **settings}
        (folder / "adapter_config.json").write_text(json.dumps(said))
        (folder / "adapter_model.safetensors").write_bytes(zeros(**lora))
        check_fits(folder, model)

    return check


def test_an_adapter_of_this_model_fits(check: Callable[..., None]):
    check(lora_shapes(base_shapes()))
    check({name.removeprefix(ADAPTER): shape for name, shape in lora_shapes(base_shapes()).items()})


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            base_shapes(hidden=20),
            r"q_proj.lora_A.weight has shape \[4, 20\], so its layer takes in 20, and .* 16; give",
        ),
        (base_shapes(inner=44), r"down_proj.lora_A.weight has shape \[4, 44\], so its layer takes in 44, and .* 40"),
        (base_shapes(layers=4), r"which has no model.layers.3.mlp.down_proj, model.layers.3.self_attn.q_proj; give"),
        (base_shapes(layers=2), r"has nothing for 1 of the 3 layers of .* \(2\), and adapter_config.json leaves none"),
        ({"model.layers.0.self_attn.qkv_proj.weight": (24, 16)}, "which has no model.layers.0.self_attn.qkv_proj"),
        ({"score.weight": (2, 16)}, "which has no score"),
    ],
)
def test_one_of_another_model_is_refused(check: Callable[..., None], lora: Shapes, message: str):
    with pytest.raises(UsageError, match=message):
        check(lora_shapes(lora))


def test_what_a_layer_gives_out_counts_too(check: Callable[..., None]):
    lora = lora_shapes(base_shapes())
    lora[ADAPTER + "model.layers.1.self_attn.q_proj.lora_B.weight"] = (48, 4)
    with pytest.raises(
        UsageError, match=r"so its layer gives out 48, and model.layers.1.self_attn.q_proj gives out 24"
    ):
        check(lora)


def test_another_rank_than_the_settings_say_is_refused(check: Callable[..., None]):
    with pytest.raises(UsageError, match=r"q_proj.lora_A.weight has rank 8 .* and adapter_config.json says 4"):
        check(lora_shapes(base_shapes(), rank=8))
    with pytest.raises(UsageError, match=r"lora_B.weight has rank 8 \(shape \[24, 8\]\)"):
        check(lora_shapes(base_shapes()) | {ADAPTER + "model.layers.0.self_attn.q_proj.lora_B.weight": (24, 8)})


def test_ranks_of_single_modules_are_those_of_the_pattern(check: Callable[..., None], tmp_path: Path):
    of_q = {name: s for name, s in lora_shapes(base_shapes(), rank=8).items() if "q_proj" in name}
    check(lora_shapes(base_shapes()) | of_q, rank_pattern={"q_proj": 8})
    assert adapter_rank(tmp_path / "adapter") == 8
    with pytest.raises(UsageError, match="has rank 4"):
        check(lora_shapes(base_shapes()), rank_pattern={"q_proj": 8})


def test_a_kind_of_layer_that_its_settings_name_and_its_weights_lack_is_refused(check: Callable[..., None]):
    of_q = {name: shape for name, shape in lora_shapes(base_shapes()).items() if "q_proj" in name}
    with pytest.raises(UsageError, match=r"has nothing for down_proj, which adapter_config.json says"):
        check(of_q)
    check(of_q, target_modules=["q_proj"])
    check(of_q, target_modules=["self_attn.q_proj", "c_attn", "query_key_value"])  # of other architectures


def test_a_pattern_of_ranks_that_is_no_pattern_is_refused(check: Callable[..., None]):
    with pytest.raises(UsageError, match=r"rank_pattern has 'q_proj\(', which is no pattern"):
        check(lora_shapes(base_shapes()), rank_pattern={"q_proj(": 8})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"lora_alpha": None}, "lora_alpha is None; wanted a finite number"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'; wanted"),
        ({"lora_alpha": True}, "lora_alpha is True; wanted"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan; wanted"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf; wanted"),
        ({"alpha_pattern": {"q_proj": [8]}}, r"q_proj is \[8\]; wanted"),
        ({"alpha_pattern": ["q_proj"]}, r"alpha_pattern is \['q_proj'\]; wanted"),
    ],
)
def test_a_scale_that_is_no_number_is_refused(check: Callable[..., None], settings: dict[str, Any], why: str):
    check(lora_shapes(base_shapes()), lora_alpha=8, alpha_pattern={"q_proj": 4.5})
    with pytest.raises(UsageError, match=why):
        check(lora_shapes(base_shapes()), **settings)


def test_layers_left_out_on_purpose_are_no_fault(check: Callable[..., None]):
    check(lora_shapes(base_shapes(layers=2)), layers_to_transform=[0, 1])
    check(lora_shapes(base_shapes(layers=2)), target_modules=r".*layers\.[01]\..*_proj")
    check(lora_shapes(base_shapes()), base_shapes(layers=4))  # the fourth predicts a second token


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_a_missing_half_is_refused(check: Callable[..., None], half: str):
    lora = lora_shapes(base_shapes())
    del lora[f"{ADAPTER}model.layers.1.mlp.down_proj.{half}.weight"]
    with pytest.raises(UsageError, match=rf"model.layers.1.mlp.down_proj has no {half}; wanted both halves"):
        check(lora)


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "lm_head.modules_to_save.weight", "model.layers.0.self_attn.q_proj.lora_B.bias",
     "model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight",
     "model.layers.0.self_attn.q_proj.lora_A.default.weight"],
)  # fmt: skip
def test_what_the_engine_would_leave_out_is_refused(check: Callable[..., None], name: str):
    with pytest.raises(UsageError, match=rf"{name} is no half of a LoRA layer"):
        check(lora_shapes(base_shapes()) | {ADAPTER + name: (4, 4)})


@pytest.mark.parametrize(
    "setting",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"init_lora_weights": "pissa"},
     {"lora_bias": True}, {"peft_type": "IA3"}, {"layer_replication": [[0, 2]]}],
)  # fmt: skip
def test_settings_that_the_engine_does_not_apply_are_refused(check: Callable[..., None], setting: dict[str, Any]):
    with pytest.raises(UsageError, match=f"{next(iter(setting))}=|is of the kind IA3"):
        check(lora_shapes(base_shapes()), **setting)


def test_scales_and_first_weights_that_change_no_base_are_taken(check: Callable[..., None]):
    check(lora_shapes(base_shapes()), use_rslora=True, init_lora_weights="gaussian", alpha_pattern={"q_proj": 2})


def test_prefixes_of_the_running_model_need_not_be_those_of_the_checkpoint(check: Callable[..., None]):
    lora = lora_shapes(base_shapes(prefix="model.language_model."))
    check(lora, base_shapes(prefix="language_model.model."))
    check(lora_shapes({"transformer.h.0.attn.c_attn.weight": (48, 16)}), {"h.0.attn.c_attn.weight": (16, 48)},
          fan_in_fan_out=True, target_modules=["c_attn"])  # fmt: skip
    vision = {f"vision.layers.{n}.self_attn.q_proj.weight": (9, 9) for n in range(3)}
    check(lora_shapes(base_shapes()), base_shapes(prefix="language_model.model.") | vision)


def test_embeddings_and_a_tied_head_are_held_against_the_table(check: Callable[..., None]):
    table = ADAPTER + "model.embed_tokens.lora_embedding_"
    head = ADAPTER + "lm_head.lora_"
    good = {table + "A": (4, 50), table + "B": (16, 4), head + "A.weight": (4, 16), head + "B.weight": (50, 4)}
    check(lora_shapes(base_shapes()) | good)
    for wrong in ({table + "A": (4, 51)}, {head + "B.weight": (51, 4)}):
        with pytest.raises(UsageError, match=r"has shape .*51"):
            check(lora_shapes(base_shapes()) | good | wrong)


def test_experts_may_be_one_tensor_here_and_many_there(check: Callable[..., None]):
    many = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": (40, 16) for n in range(2)}
    one = {ADAPTER + "model.layers.0.mlp.experts.lora_A.weight": (8, 16),
           ADAPTER + "model.layers.0.mlp.experts.lora_B.weight": (40, 8)}  # fmt: skip
    check(one, many, config={"num_hidden_layers": 1})
    check(lora_shapes(many), {"model.layers.0.mlp.experts.gate_up_proj": (2, 16, 80)}, config={"num_hidden_layers": 1})
    elsewhere = {name.replace("layers.0", "layers.1"): shape for name, shape in one.items()}
    with pytest.raises(UsageError, match=r"has no model.layers.1.mlp.experts"):
        check(elsewhere, many)


def test_a_quantised_base_is_held_by_its_names(check: Callable[..., None]):
    packed = {name.replace(".weight", ".qweight"): (2, 3) for name in base_shapes()}
    check(lora_shapes(base_shapes()), packed)
    with pytest.raises(UsageError, match=r"which has no model.layers.3"):
        check(lora_shapes(base_shapes(layers=4)), packed)


def test_an_empty_adapter_or_one_of_whole_numbers_is_refused(check: Callable[..., None], tmp_path: Path):
    with pytest.raises(UsageError, match="is no safetensors file"):
        check({})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(zeros(**lora_shapes(base_shapes())).replace(b"F32", b"I32"))
    with pytest.raises(UsageError, match=r"is I32 of shape \[4, 16\]; wanted a matrix of BF16"):
        check_fits(tmp_path / "adapter", tmp_path / "model")


@pytest.mark.parametrize(
    ("dtype", "number", "is_fine"),
    [
        ("F32", struct.pack("<f", float("nan")), False),
        ("F32", struct.pack("<f", float("-inf")), False),
        ("F32", struct.pack("<f", 3.0e38), True),
        ("F32", b"\x7f\x7f\x00\x00", True),
        ("BF16", b"\x80\x7f\x00\x00", False),
        ("BF16", b"\x00\x00\xc0\xff", False),
        ("BF16", b"\x7f\x7f\x7f\xff", True),
        ("F16", struct.pack("<ee", 1.0, float("inf")), False),
        ("F16", struct.pack("<ee", 65504.0, -65504.0), True),
    ],
)
def test_numbers_that_are_none_are_found(
    check: Callable[..., None], tmp_path: Path, dtype: str, number: bytes, is_fine: bool
):
    check(lora_shapes(base_shapes()))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    data = file.read_bytes()
    if dtype != "F32":
        half = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        for entry in half.values():
            entry["dtype"], entry["data_offsets"] = dtype, [place // 2 for place in entry["data_offsets"]]
        header = json.dumps(half).encode()
        most = max(entry["data_offsets"][1] for entry in half.values())
        data = len(header).to_bytes(8, "little") + header + bytes(most)
    file.write_bytes(data[:-8] + number + bytes(4))
    if is_fine:
        check_fits(tmp_path / "adapter", tmp_path / "model")
    else:
        with pytest.raises(UsageError, match=r"lora_B.weight holds NaN or infinity; wanted finite numbers"):
            check_fits(tmp_path / "adapter", tmp_path / "model")


@pytest.mark.parametrize("config", ["no json", '{"r": 0}', "[]", '{"r": true}', '{"r": 4, "rank_pattern": {"q": 0}}'])
def test_a_folder_that_holds_no_lora_adapter_is_refused(tmp_path: Path, config: str):
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(UsageError, match="no adapter folder: it has no adapter_model"):
        adapter_rank(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(demo_lora())
    with pytest.raises(UsageError, match=r"not JSON|wanted the rank|wanted an object|wanted a rank"):
        adapter_rank(tmp_path)
