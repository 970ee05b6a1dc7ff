"""The adapter folder: what PEFT reads, what a hub reads, and where it says it came from."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dail.synth.core.errors import IntegrityError, StorageError
from dail.synth.schema.manifest import read_manifest
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis
from dail.train.adapter import finished, save_adapter
from dail.train.card import base_model, card, served_rank
from dail.train.checkpoint import find_run
from dail.train.config import TrainConfig
from dail.train.data import pad
from dail.train.evals.lineage import read_adapter
from dail.train.loop import Result, run
from dail.train.model import load_roles
from dail.train.record import Provenance, RunRecord
from tests.train.conftest import NOW, MakeManifest, trace_row, write_manifest

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
    assert (provenance.run.manifest, provenance.run.model_folder) == ("manifests/batch-1/v1.json", "tiny")
    assert provenance.run.manifest_digest == manifest.digest and provenance.run.batch_id == "batch-1"
    assert provenance.run.config == SETTINGS and provenance.steps == 3
    assert (result.adapter / provenance.metrics).resolve() == result.metrics.resolve()
    assert provenance.run.started_at < provenance.finished_at
    _, header, text = (result.adapter / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header) == {
        "base_model": "tiny",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["dail", "lora"],
    }
    assert manifest.digest in text and "| gamma | 0.1 |" in text and identify(tiny_model).revision in text


def test_nothing_in_the_folder_names_a_place_on_this_machine_and_its_run_is_found_all_the_same(
    result: Result, tiny_model: Path
):
    for file in result.adapter.iterdir():
        text = file.read_bytes()
        assert not any(str(place).encode() in text for place in (result.adapter.parents[1], tiny_model, Path.home()))
    adapter = read_adapter(result.adapter, tiny_model, identify(tiny_model))
    manifest = adapter.manifest()
    assert manifest is not None and read_manifest(manifest).batch_id == "batch-1" and len(adapter.metrics()) == 3


def test_files_of_the_user_s_own_are_named_without_their_folders(record: RunRecord, tiny_model: Path, tmp_path: Path):
    config = SETTINGS.model_copy(update={"objective": "/home/me/mine.py:forward_kl#0123456789abcdef"})
    record = record.model_copy(update={"config": config})
    save_adapter(tmp_path, load_roles(tiny_model, SETTINGS, CPU), record, 3)
    written = Provenance.model_validate_json((tmp_path / "adapter" / "dail.json").read_bytes())
    assert written.run.config.objective == "forward_kl#0123456789abcdef"
    assert written.fingerprint == written.run.fingerprint == record.fingerprint


@pytest.fixture
def record(tiny_model: Path) -> RunRecord:
    """Of a run whose shards are gone."""
    return RunRecord(
        config=SETTINGS,
        model=identify(tiny_model),
        model_folder=str(tiny_model),
        manifest="/gone/out/manifests/batch-1/v1.json",
        manifest_digest="sha256:1",
        batch_id="batch-1",
        synthesis=Synthesis(),
        started_at=NOW,
    )


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("folder", "name", "setting", "wanted"),
    [
        (f"/cache/hub/models--Qwen--Qwen3-8B/snapshots/{COMMIT}", COMMIT, None, ("Qwen/Qwen3-8B", COMMIT)),
        (f"/cache/hub/models--gpt2/snapshots/{COMMIT}/", "m", None, ("gpt2", COMMIT)),
        (f"/cache/hub/models--a--b--c/snapshots/{COMMIT}", "m", None, ("a/b--c", COMMIT)),
        (f"/cache/hub/models--a--b/snapshots/{COMMIT}", "m", "me/mine", ("me/mine", COMMIT)),
        ("/home/me/models/qwen3-8b", "qwen3-8b", None, ("qwen3-8b", None)),
        ("/home/me/models/qwen3-8b", "qwen3-8b", "Qwen/Qwen3-8B", ("Qwen/Qwen3-8B", None)),
        ("/home/me/models/q", "/home/me/models/q", None, ("q", None)),
    ],
)
def test_the_base_model_is_called_what_others_know_it_by(
    record: RunRecord, folder: str, name: str, setting: str | None, wanted: tuple[str, str | None]
):
    model = record.model.model_copy(update={"name": name})
    config = record.config.model_copy(update={"base_model": setting})
    assert base_model(record.model_copy(update={"model_folder": folder, "model": model, "config": config})) == wanted


@pytest.mark.parametrize("name", ["/home/me/model", "a/b/c", "", "../model", "a b"])
def test_what_is_no_name_of_a_hub_is_refused(name: str):
    with pytest.raises(ValidationError, match="base_model"):
        TrainConfig(base_model=name)


def test_licence_language_and_data_sets_are_in_the_card(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path):
    model = shutil.copytree(tiny_model, tmp_path / "models--Own--Tiny" / "snapshots" / COMMIT)
    (model / "README.md").write_text(
        "---\nlicense: other\nlicense_name: own\nlicense_link: https://own/x\nlanguage: [en, de]\n"
        "pipeline_tag: any\n---\n# Tiny\n"
    )
    origins = [("ann/olympiad", "cc-by-4.0"), ("hf:bob/sums", None), ("a book", None)]
    rows = [
        trace_row(f"{i:032x}", identify(model), i, source=source, license=licence)
        for i, (source, licence) in enumerate(origins)
    ]
    done = run(model, write_manifest(tmp_path / "shards", identify(model), rows), tmp_path / "run", SETTINGS)
    card = ModelCard.load(done.adapter / "README.md")
    said = card.data.to_dict()
    assert said["base_model"] == "Own/Tiny" and said["datasets"] == ["ann/olympiad", "bob/sums"]
    assert (said["license"], said["license_name"], said["license_link"]) == ("other", "own", "https://own/x")
    assert said["language"] == ["en", "de"] and said["pipeline_tag"] == "text-generation"
    assert "| ann/olympiad | cc-by-4.0 | 1 |" in card.text and f"Own/Tiny, revision {COMMIT}" in card.text
    assert "vllm serve Own/Tiny --enable-lora --max-lora-rank 8 " in card.text
    settings = json.loads((done.adapter / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("Own/Tiny", COMMIT)


@pytest.mark.parametrize("text", ["no front matter", "---\n[\n---\n", "---\nlicense: [a\n---\n", "---\n- a\n---\n", ""])
def test_a_card_of_the_base_that_cannot_be_read_costs_its_licence_alone(record: RunRecord, tmp_path: Path, text: str):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(text)
    record = record.model_copy(update={"model_folder": str(tmp_path / "base")})
    provenance = Provenance(run=record, fingerprint="sha256:0", steps=3, metrics="m", finished_at=NOW)
    written = card(provenance, record)
    assert "license" not in ModelCard(written).data.to_dict() and "is not known" in written


def test_a_card_of_the_base_that_may_not_be_read_costs_its_licence_alone(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    record = record.model_copy(update={"model_folder": str(tmp_path)})
    provenance = Provenance(run=record, fingerprint="sha256:0", steps=3, metrics="m", finished_at=NOW)

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "license" not in ModelCard(card(provenance, record)).data.to_dict()


@pytest.mark.parametrize("name", ["my model", "it's", 'a "b"', "one\ntwo", "a: b # c", "$(x)"])
def test_a_card_stays_readable_whatever_the_folder_of_the_base_is_called(record: RunRecord, name: str):
    record = record.model_copy(update={"model": record.model.model_copy(update={"name": name})})
    provenance = Provenance(run=record, fingerprint="sha256:0", steps=3, metrics="m", finished_at=NOW)
    written = ModelCard(card(provenance, record))
    assert written.data.to_dict()["base_model"] == " ".join(name.split())
    command = next(line for line in written.text.splitlines() if "vllm serve" in line).strip("`.")
    assert shlex.split(command)[:4] == ["vllm", "serve", " ".join(name.split()), "--enable-lora"]


@pytest.mark.parametrize(
    ("rank", "wanted"), [(1, 1), (2, 8), (8, 8), (9, 16), (48, 64), (200, 256), (257, 320), (512, 512)]
)
def test_the_rank_to_serve_with_is_one_that_vllm_takes(rank: int, wanted: int):
    assert served_rank(rank) == wanted


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
