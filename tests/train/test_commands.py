"""`dail train` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dail.serve.cli import dail
from dail.synth.core.errors import EXIT_USAGE, DailError, UsageError
from tests.train.conftest import MakeManifest


def invoke(*arguments: object) -> str:
    """Standard output of `dail train`; its errors are raised."""
    result = CliRunner().invoke(dail, ["train", *map(str, arguments)], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


def test_a_run_says_where_everything_lies_and_a_rerun_that_it_is_finished(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    toml = tmp_path / "run.toml"
    toml.write_text('[train]\nepochs = 4\nlora_rank = 4\n\n[worker]\nstrategy = "auto"\n')
    arguments = ("--model", tiny_model, "--manifest", make_manifest(6), "--out", tmp_path / "run", "--config", toml)
    first = invoke(*arguments, "--set", "epochs=1", "--set", "gamma=0.2", "--json")
    printed = json.loads(next(line for line in first.splitlines() if line.startswith("{")))
    assert printed["steps"] == 2 and printed["resumed_at"] == 0
    assert Path(printed["adapter"]).joinpath("adapter_model.safetensors").exists()
    saved = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (saved["epochs"], saved["gamma"], saved["lora_rank"], saved["lora_alpha"]) == (1, 0.2, 4, 32)
    again = invoke(*arguments, "--set", "epochs=1", "--set", "gamma=0.2")
    assert "this run is finished" in again


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("gamma=1.0", "train.gamma: .*got 1.0, wanted less than 1"),
        ("gamma=-0.1", "train.gamma: Input should be greater than or equal to 0"),
        ("lr=0", "train.lr: Input should be greater than 0"),
        ("lr=nan", "train.lr: Input should be a finite number"),
        ("learning_rate=1e-4", "--set learning_rate: there is no setting .*; did you mean train.lr?"),
        ("objective=sft", "train.objective: there is no objective .sft.; known are contrastive, privileged_kl"),
    ],
)
def test_a_setting_out_of_range_is_refused(tmp_path: Path, setting: str, says: str):
    with pytest.raises(UsageError, match=says):
        invoke("--model", tmp_path, "--manifest", tmp_path / "m", "--out", tmp_path / "o", "--set", setting)


def test_a_model_folder_without_safetensors_is_refused(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (model / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match=r"no \*\.safetensors"):
        invoke("--model", model, "--manifest", make_manifest(2), "--out", tmp_path / "run")


def test_bad_data_leaves_no_run_folder_behind(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path):
    manifest = make_manifest(2, tokenizer_hash="sha256:beef")
    with pytest.raises(DailError, match="tokenizer sha256:beef") as refusal:
        invoke("--model", tiny_model, "--manifest", manifest, "--out", tmp_path / "run")
    assert refusal.value.exit_code == EXIT_USAGE
    assert not (tmp_path / "run").exists()


def test_help_does_not_wait_for_torch():
    code = "import sys, dail.train.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
