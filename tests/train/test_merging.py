"""`dail merge`: the merged folder against PEFT's own sum, bit by bit, and what cannot be merged, refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dail.serve.cli import dail
from dail.synth.core.errors import IntegrityError, StorageError, UsageError
from dail.synth.core.progress import Progress
from dail.synth.schema.models import identify
from dail.train import merging
from dail.train.config import TrainConfig
from dail.train.loop import run
from dail.train.merging import merge
from tests.train.architectures import save_model
from tests.train.conftest import MakeManifest

TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]
Make = Callable[..., Path]


@pytest.fixture
def make_adapter(tmp_path: Path) -> Make:
    """`make_adapter(model, **LoRA settings)`, with weights that change the model much."""

    def make(model: Path, **settings: object) -> Path:
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        lora = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **settings})
        torch.manual_seed(3)
        peft = get_peft_model(base, lora)
        for weight in (weight for name, weight in peft.named_parameters() if "lora_" in name):
            torch.nn.init.normal_(weight, std=0.1)
        peft.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        return tmp_path / "adapter"

    return make


@pytest.fixture
def make_model(tiny_model: Path, tmp_path: Path) -> Make:
    """`make_model(kind)`: of any architecture, with the tiny model's tokenizer; `dtype` is that of its files."""

    def make(kind: str, dtype: torch.dtype = torch.float32, shard_size: str = "5GB", **settings: object) -> Path:
        folder = tmp_path / kind
        save_model(kind, folder, **settings)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        shutil.rmtree(folder)
        model.save_pretrained(folder, max_shard_size=shard_size)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(tiny_model / name, folder)
        return folder

    return make


def merged_by_peft(model: Path, adapter: Path) -> dict[str, torch.Tensor]:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    return merged.state_dict()


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("qwen2", TARGETS),
        ("qwen3_moe", ["q_proj", "v_proj", "o_proj"]),
        ("gpt2", ["c_attn", "c_proj"]),
        ("phi3", ["qkv_proj", "gate_up_proj"]),
        ("llama", [*TARGETS, "lm_head"]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_folder_holds_peft_s_sum_rounded_to_the_base_s_type_and_nothing_else_changed(
    make_model: Make, make_adapter: Make, tmp_path: Path, kind: str, targets: list[str], dtype: torch.dtype
):
    model = make_model(kind, dtype, shard_size="20KB")
    adapter = make_adapter(model, target_modules=targets, fan_in_fan_out=kind == "gpt2")
    told = merge(adapter, model, tmp_path / "out")
    wanted = merged_by_peft(model, adapter)
    found, before = loaded(tmp_path / "out"), loaded(model)
    assert found.keys() == before.keys() and all(weight.dtype == dtype for weight in found.values())
    assert all(torch.equal(weight, wanted[name].to(dtype)) for name, weight in found.items())
    changed = {name for name, weight in found.items() if not torch.equal(weight, before[name])}
    assert changed and all(any(f".{name}".endswith(f".{one}.weight") for one in targets) for name in changed)
    assert told.float32_error < 1e-5 and told.merged_layers == len(changed)
    if dtype == torch.float32:
        assert told.rounding_error < 1e-5 and told.unmoved < 1e-3
    else:
        assert 1e-4 < told.rounding_error < 0.1 and 0 < told.unmoved < 0.5 and told.rounding_kl > 0


@pytest.mark.parametrize(
    "settings", [{"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3}}]
)
def test_scales_that_are_not_alpha_over_rank_are_peft_s(
    tiny_model: Path, make_adapter: Make, tmp_path: Path, settings: dict[str, object]
):
    adapter = make_adapter(tiny_model, **settings)
    merge(adapter, tiny_model, tmp_path / "out")
    wanted = merged_by_peft(tiny_model, adapter)
    assert all(torch.equal(weight, wanted[name]) for name, weight in loaded(tmp_path / "out").items())


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_tied_model_stays_tied_and_every_other_file_is_the_base_s(
    tiny_model: Path, make_adapter: Make, tmp_path: Path
):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "pytorch_model.bin").write_bytes(b"the base's weights")
    (model / "original").mkdir()
    (model / "original" / "consolidated.safetensors").write_bytes(b"too")
    (model / "original" / "params.json").write_text("{}")
    adapter = make_adapter(model)
    told = merge(adapter, model, tmp_path / "out")
    written, given = files(tmp_path / "out"), files(model)
    assert set(told.not_copied) == {"pytorch_model.bin", "original/consolidated.safetensors"}
    assert written == given - set(told.not_copied) | {"dail-merged.json"}
    for name in written - {"model.safetensors", "dail-merged.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(model / "model.safetensors").keys()
    assert identify(tmp_path / "out").tokenizer_hash == identify(model).tokenizer_hash
    assert identify(tmp_path / "out").revision != identify(model).revision


def test_a_run_s_adapter_is_found_and_its_lineage_kept_and_the_merged_model_is_trained_on(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    settings = TrainConfig(epochs=1, lora_rank=4, lr=1e-2, dtype="float32")
    result = run(tiny_model, make_manifest(4), tmp_path / "run", settings)
    arguments = ["merge", tmp_path / "run", "--model", tiny_model, "--out", tmp_path / "out", "--json"]
    called = CliRunner().invoke(dail, [*map(str, arguments)], standalone_mode=False, catch_exceptions=False)
    printed = json.loads(next(line for line in called.output.splitlines() if line.startswith("{")))
    said = json.loads((tmp_path / "out" / "dail-merged.json").read_text())
    assert printed == {"out": str(tmp_path / "out"), **said}
    assert said["provenance"] == json.loads((result.adapter / "dail.json").read_text())
    assert said["base"]["revision"] == identify(tiny_model).revision and said["merged_layers"] == 14
    assert "merged 14 layers" in called.stderr and "KL" in called.stderr
    merged = merged_by_peft(tiny_model, result.adapter)
    assert all(torch.equal(weight, merged[name]) for name, weight in loaded(tmp_path / "out").items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "has use_dora=True"),
        ({"modules_to_save": ["norm"]}, "has modules_to_save"),
        ({"bias": "lora_only"}, "has bias='lora_only'"),
        ({"target_modules": ["embed_tokens"]}, "is on model.embed_tokens; wanted linear layers alone"),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            r"is on lm_head, which .* is the embedding too \(tied\)",
        ),
    ],
)
def test_what_is_no_sum_of_matrices_is_refused_by_name(
    tiny_model: Path, make_adapter: Make, tmp_path: Path, settings: dict[str, object], message: str
):
    with pytest.raises(UsageError, match=message):
        merge(make_adapter(tiny_model, **settings), tiny_model, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.new").exists()


def test_an_adapter_on_experts_that_are_one_parameter_is_refused_by_name(
    make_model: Make, make_adapter: Make, tmp_path: Path
):
    model = make_model("qwen3_moe")
    adapter = make_adapter(model, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    with pytest.raises(UsageError, match=r"is on .*experts.*; wanted linear layers alone"):
        merge(adapter, model, tmp_path / "out")


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_nothing_is_written_over(tiny_model: Path, make_adapter: Make, tmp_path: Path):
    adapter, before = make_adapter(tiny_model), digest(tiny_model)
    for there in (tiny_model, adapter):
        with pytest.raises(UsageError, match="exists already"):
            merge(adapter, tiny_model, there)
    assert digest(tiny_model) == before


def test_an_adapter_of_another_model_is_refused(
    tiny_model: Path, make_model: Make, make_adapter: Make, tmp_path: Path, make_manifest: MakeManifest
):
    with pytest.raises(UsageError, match="was trained on another model"):
        merge(make_adapter(make_model("qwen2", hidden_size=16)), tiny_model, tmp_path / "out")
    settings = TrainConfig(epochs=1, lora_rank=4, dtype="float32")
    result = run(tiny_model, make_manifest(4), tmp_path / "run", settings)
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: weight * 1.1 for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntegrityError, match="was trained on tiny with revision"):
        merge(result.adapter, other, tmp_path / "out")


def test_a_sum_that_gives_other_logits_is_not_written(
    tiny_model: Path, make_adapter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As a layer would be that its model does not use as a matrix."""
    real = merging._Sum.merge

    def wrong(sums: merging._Sum) -> None:
        real(sums)
        next(iter(sums.layers.values())).get_base_layer().weight.add_(0.01)

    monkeypatch.setattr(merging._Sum, "merge", wrong)
    with pytest.raises(IntegrityError, match=r"logits are off by .* of the largest from those of base and adapter"):
        merge(make_adapter(tiny_model), tiny_model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_reads_as_something_else_is_not_kept(
    tiny_model: Path, make_adapter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def lost(tensors: dict[str, torch.Tensor], path: Path, **more: object) -> None:
        name = "model.layers.0.self_attn.v_proj.weight"
        save_file({**tensors, name: tensors[name] * 1.5}, path, **more)

    monkeypatch.setattr(merging, "save_file", lost)
    with pytest.raises(IntegrityError, match="the merged folder's logits are off"):
        merge(make_adapter(tiny_model), tiny_model, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.new").exists()


def test_no_room_on_the_disk_or_in_memory_is_said_before_anything_is_read(
    tiny_model: Path, make_adapter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    adapter = make_adapter(tiny_model)
    with monkeypatch.context() as patch:
        patch.setattr(merging.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(StorageError, match="are free; free some space"):
            merge(adapter, tiny_model, tmp_path / "out")
    monkeypatch.setattr(merging, "main_memory", lambda: (1000.0, 1000.0))
    with pytest.raises(UsageError, match=r"GiB as float32, and .* are free"):
        merge(adapter, tiny_model, tmp_path / "out")


def test_progress_counts_the_base_s_tensors(make_model: Make, make_adapter: Make, tmp_path: Path):
    model, told = make_model("qwen2", shard_size="20KB"), list[Progress]()
    merge(make_adapter(model), model, tmp_path / "out", on_progress=told.append)
    total = len(json.loads((model / "model.safetensors.index.json").read_text())["weight_map"])
    assert told[-1].done == told[-1].total == total and len(told) > 2
