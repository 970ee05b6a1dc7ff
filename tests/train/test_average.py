"""`dail average`: the mean's numbers, what it says of itself, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dail.serve.cli import dail
from dail.synth.core.errors import UsageError
from dail.synth.schema.adapters import adapter_digest, check_fits
from dail.train.average import average


@pytest.fixture
def adapters(tiny_model: Path, tmp_path: Path) -> list[Path]:
    return [made(tiny_model, tmp_path / f"adapter-{seed}", seed) for seed in range(2)]


def made(model: Path, folder: Path, seed: int, **settings: object) -> Path:
    torch.manual_seed(seed)
    wanted = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], **settings}
    lora = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **wanted)  # type: ignore[arg-type]
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora).save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_the_first_mean_has_the_bare_model_before_it(adapters, tmp_path, tiny_model):
    mean = average(adapters[0], None, 0.75, tmp_path / "mean")
    for name, one in weights(adapters[0]).items():
        wanted = one * 0.25 if "lora_B" in name else one
        torch.testing.assert_close(weights(mean)[name], wanted)
    check_fits(mean, tiny_model)


def test_a_later_one_keeps_of_the_mean_before_what_decay_says(adapters, tmp_path):
    mean = average(adapters[1], adapters[0], 0.75, tmp_path / "mean")
    for name, one in weights(adapters[1]).items():
        torch.testing.assert_close(weights(mean)[name], 0.75 * weights(adapters[0])[name] + 0.25 * one)
    said = json.loads((mean / "average.json").read_text())
    assert said == {"adapter": adapter_digest(adapters[1]), "before": adapter_digest(adapters[0]), "decay": 0.75}


def test_peft_reads_it_and_its_model_says_otherwise(adapters, tmp_path, tiny_model):
    ids = torch.tensor([[1, 2, 3]])
    said = []
    for folder in (*adapters, average(adapters[1], adapters[0], 0.5, tmp_path / "mean")):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder).eval()
        said.append(model(ids).logits.detach())
    assert not any(torch.allclose(said[2], other) for other in said[:2])


def test_without_decay_it_is_the_adapter(adapters, tmp_path):
    mean = average(adapters[1], adapters[0], 0.0, tmp_path / "mean")
    assert adapter_digest(mean) == adapter_digest(average(adapters[1], None, 0.0, tmp_path / "alone"))
    assert all(torch.equal(one, weights(adapters[1])[name]) for name, one in weights(mean).items())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"r": 8}, "r=8"),
        ({"lora_alpha": 4}, "lora_alpha=4"),
        ({"target_modules": ["q_proj"]}, "different layers"),
        ({"use_rslora": True}, "use_rslora=True"),
    ],
)
def test_adapters_of_another_kind_are_refused(adapters, tmp_path, tiny_model, settings, why):
    other = made(tiny_model, tmp_path / "other", 3, **settings)
    with pytest.raises(UsageError, match=why):
        average(adapters[0], other, 0.5, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_what_is_no_adapter_and_a_folder_that_is_there_are_refused(adapters, tmp_path):
    with pytest.raises(UsageError, match="is no adapter that can be read"):
        average(tmp_path, None, 0.5, tmp_path / "mean")
    with pytest.raises(UsageError, match="is there already"):
        average(adapters[0], None, 0.5, adapters[1])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "holds a list, wanted an object"),
        (lambda folder: save_file({}, folder / "adapter_model.safetensors"), "holds no layers"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b""), "is no adapter that can be read"),
        (
            lambda folder: save_file(
                {name: one * torch.nan for name, one in weights(folder).items()}, folder / "adapter_model.safetensors"
            ),
            "holds NaN or infinity",
        ),
    ],
    ids=["list", "empty", "cut", "nan"],
)
def test_a_damaged_adapter_makes_no_mean(adapters, tmp_path, damage, why):
    damage(adapters[1])
    for adapter, before in ((adapters[1], None), (adapters[0], adapters[1])):
        with pytest.raises(UsageError, match=why):
            average(adapter, before, 0.5, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_a_run_s_folder_is_its_adapter(adapters, tmp_path):
    (tmp_path / "run").mkdir()
    adapters[1].rename(tmp_path / "run" / "adapter")
    mean = average(tmp_path / "run", tmp_path / "run", 0.5, tmp_path / "mean")
    for name, one in weights(tmp_path / "run" / "adapter").items():
        torch.testing.assert_close(weights(mean)[name], one)


def test_the_verb_writes_it(adapters, tmp_path):
    mean = tmp_path / "mean"
    words = ["average", str(adapters[1]), "--before", str(adapters[0]), "--decay", "0.5", "--out", str(mean), "--json"]
    result = CliRunner().invoke(dail, words)
    assert result.exit_code == 0 and json.loads(result.stdout) == {"mean": str(mean)}
    assert adapter_digest(mean) == adapter_digest(average(adapters[1], adapters[0], 0.5, tmp_path / "same"))


def test_its_files_are_as_readable_as_other_new_files(adapters, tmp_path):
    """safetensors keeps its own to their owner; on a cluster another user's engine may read them."""
    (tmp_path / "other").touch()
    mean = average(adapters[0], None, 0.5, tmp_path / "mean")
    assert {file.stat().st_mode for file in mean.iterdir()} == {(tmp_path / "other").stat().st_mode}
