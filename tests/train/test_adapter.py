"""The adapter folder: what PEFT reads, what a hub reads, and where it says it came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dail.synth.core.errors import IntegrityError, StorageError
from dail.synth.schema.manifest import read_manifest
from dail.synth.schema.models import identify
from dail.train.adapter import finished, save_adapter
from dail.train.checkpoint import find_run
from dail.train.config import TrainConfig
from dail.train.data import pad
from dail.train.loop import Result, run
from dail.train.model import load_roles
from dail.train.record import Provenance
from tests.train.conftest import MakeManifest

CPU = torch.device("cpu")
SETTINGS = TrainConfig(epochs=1, lora_rank=4, lr=3e-3, dtype="float32")


@pytest.fixture
def result(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path) -> Result:
    return run(tiny_model, make_manifest(10), tmp_path / "run", SETTINGS)


def test_peft_loads_the_adapter_and_gives_the_student_as_trained(result: Result, tiny_model: Path):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = base(ids).logits
        loaded = PeftModel.from_pretrained(base, result.adapter).eval()(ids).logits
    roles = load_roles(tiny_model, SETTINGS, CPU)
    trained = load_file(result.adapter.parent / "checkpoint.safetensors")
    with torch.no_grad():
        for name, weight in roles.adapter().items():
            weight.copy_(trained[f"adapter.{name}"])
        student = roles.student(pad([[5]], [[6, 7, 8]], CPU)) @ roles.head.matrix_VD.t()
    assert torch.allclose(loaded[0, :3], student, atol=1e-5)
    assert not torch.allclose(loaded, before, atol=1e-3)


def test_the_keys_are_the_ones_other_tools_expect(result: Result):
    names = load_file(result.adapter / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in names
    assert len(names) == 2 * 7 * 2
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["bias"]) == ("LORA", 4, 32, "none")
    assert not config["modules_to_save"] and not config["use_dora"]


def test_the_card_and_the_provenance_name_model_data_and_settings(
    result: Result, tiny_model: Path, make_manifest: MakeManifest
):
    manifest = read_manifest(make_manifest(10))
    provenance = Provenance.model_validate_json((result.adapter / "dail.json").read_bytes())
    assert provenance.run.model == identify(tiny_model)
    assert provenance.run.manifest_digest == manifest.digest and provenance.run.batch_id == "batch-1"
    assert provenance.run.config == SETTINGS and provenance.steps == 3
    assert (result.adapter / provenance.metrics).resolve() == result.metrics.resolve()
    assert provenance.run.started_at < provenance.finished_at
    _, header, text = (result.adapter / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header) == {"base_model": "tiny", "library_name": "peft", "tags": ["dail", "lora"]}
    assert manifest.digest in text and "| gamma | 0.1 |" in text and identify(tiny_model).revision in text


def test_an_adapter_folder_without_its_provenance_is_refused(result: Result):
    (result.adapter / "dail.json").unlink()
    with pytest.raises(IntegrityError, match=r"no readable dail\.json"):
        finished(result.adapter.parent)


def test_a_disk_that_refuses_leaves_no_adapter_folder(
    result: Result, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    out = result.adapter.parent
    record = finished(out)
    assert record is not None and find_run(out, record.run) is not None
    result.adapter.rename(out / "elsewhere")
    roles = load_roles(tiny_model, SETTINGS, CPU)

    def full(self: Path, *args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="nothing was written; free some space"):
        save_adapter(out, roles, record.run, 3)
    assert finished(out) is None
