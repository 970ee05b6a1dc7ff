"""Adapter folders: whole, foreign, broken, and of another base model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.lineage import read_adapter
from tests.conftest import DEMO_MODEL, Told, demo_lora
from tests.train.evals.conftest import write_adapter


def test_a_trained_adapter_knows_its_run(trained: Path, model: ModelIdentity) -> None:
    adapter = read_adapter(trained, DEMO_MODEL, model)
    assert (adapter.rank, [step["step"] for step in adapter.metrics()]) == (4, [1, 2, 3])
    assert adapter.manifest() is not None


def test_a_moved_run_still_finds_its_metrics(trained: Path, model: ModelIdentity, tmp_path: Path) -> None:
    shutil.move(trained.parent, tmp_path / "elsewhere")
    assert len(read_adapter(tmp_path / "elsewhere" / "adapter", DEMO_MODEL, model).metrics()) == 3


def test_a_foreign_adapter_is_taken_without_provenance(tmp_path: Path, model: ModelIdentity) -> None:
    adapter = read_adapter(write_adapter(tmp_path / "foreign", None), DEMO_MODEL, model)
    assert (adapter.metrics(), adapter.manifest(), adapter.provenance) == ([], None, None)
    assert "no dail.json" in adapter.note


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_an_adapter_is_refused(tmp_path: Path, model: ModelIdentity, missing: str) -> None:
    folder = write_adapter(tmp_path / "adapter", None)
    (folder / missing).unlink()
    with pytest.raises(UsageError, match=missing):
        read_adapter(folder, DEMO_MODEL, model)


@pytest.mark.parametrize("config", ["{}", '{"r": "many"}', "[]", "{"])
def test_an_adapter_without_a_rank_is_refused(tmp_path: Path, model: ModelIdentity, config: str) -> None:
    folder = write_adapter(tmp_path / "adapter", None)
    (folder / "adapter_config.json").write_text(config)
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        read_adapter(folder, DEMO_MODEL, model)


@pytest.mark.parametrize("key", ["revision", "tokenizer_hash"])
def test_an_adapter_of_another_base_model_is_refused(trained: Path, model: ModelIdentity, key: str) -> None:
    provenance = json.loads((trained / "dail.json").read_text())
    provenance["run"]["model"][key] = "sha256:other"
    (trained / "dail.json").write_text(json.dumps(provenance))
    with pytest.raises(IntegrityError, match=f"{key} sha256:other"):
        read_adapter(trained, DEMO_MODEL, model)


def test_other_bytes_are_another_adapter(trained: Path, model: ModelIdentity) -> None:
    before = read_adapter(trained, DEMO_MODEL, model).digest
    (trained / "adapter_model.safetensors").write_bytes(demo_lora()[:-4] + b"\1\0\0\0")
    assert read_adapter(trained, DEMO_MODEL, model).digest != before


def test_provenance_without_a_base_model_is_refused(tmp_path: Path, model: ModelIdentity) -> None:
    with pytest.raises(UsageError, match="names no base model"):
        read_adapter(write_adapter(tmp_path / "adapter", {"steps": 3}), DEMO_MODEL, model)


def test_provenance_of_another_version_is_named_and_costs_only_itself(trained: Path, model: ModelIdentity) -> None:
    written = json.loads((trained / "dail.json").read_text())
    written["run"]["tool_version"] = "9.9"
    written["run"]["config"]["hologram"] = True
    (trained / "dail.json").write_text(json.dumps(written))
    adapter = read_adapter(trained, DEMO_MODEL, model)
    assert adapter.provenance is None and adapter.rank == 4
    assert "was written by dail 9.9, and dail" in adapter.note
    assert "/run/config/hologram: there is no such name" in adapter.note


def test_another_version_s_adapter_of_another_base_model_is_refused_all_the_same(
    trained: Path, model: ModelIdentity
) -> None:
    written = json.loads((trained / "dail.json").read_text())
    written["run"]["model"]["revision"], written["hologram"] = "sha256:other", True
    (trained / "dail.json").write_text(json.dumps(written))
    with pytest.raises(IntegrityError, match="revision sha256:other"):
        read_adapter(trained, DEMO_MODEL, model)


def test_prompts_other_than_those_of_the_traces_are_told(trained: Path, model: ModelIdentity, told: Told) -> None:
    read_adapter(trained, DEMO_MODEL, model)
    assert "prompts" not in told()
    read_adapter(trained, DEMO_MODEL, model, prompts="/somewhere/law#0123456789abcdef")
    assert "whose prompts were paper, and is asked with law#0123456789abcdef" in told()


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path, model: ModelIdentity) -> None:
    folder = write_adapter(tmp_path / "foreign", None)
    (folder / "adapter_model.safetensors").write_bytes(demo_lora(layers=5))
    with pytest.raises(UsageError, match="was trained on another model than"):
        read_adapter(folder, DEMO_MODEL, model)
