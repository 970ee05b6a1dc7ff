"""Every named run in deploy/configs loads, and the paper's two hold the paper's numbers."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import UsageError
from dail.synth.core.settings import presets, read
from dail.synth.schema.synthesis import Synthesis
from dail.train.config import TrainConfig
from dail.train.evals.config import EvalConfig
from tests.conftest import ROOT

CONFIGS = ROOT / "deploy" / "configs"
QWEN25, QWEN3 = CONFIGS / "qwen2.5-7b-verifiable.toml", CONFIGS / "qwen3-8b-proof.toml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_table_of_every_named_run_loads(path: Path):
    engine = read("worker", path).told("engine", model="folder").load(EngineConfig, "engine")
    read("worker", path).load(SynthConfig, "worker", engine=engine)
    read("submit", path).load(Synthesis, "synthesis")
    read("train", path).load(TrainConfig, "train")
    read("eval", path).load(EvalConfig, "eval", engine=engine)


def test_every_named_run_is_installed_under_its_name():
    assert {name: path.resolve() for name, path in presets().items()} == {
        path.stem: path for path in CONFIGS.glob("*.toml")
    }


@pytest.mark.parametrize(("path", "epochs"), [(QWEN25, 5), (QWEN3, 3)])
def test_the_paper_s_runs_train_with_table_2(path: Path, epochs: int):
    config = read("train", path).load(TrainConfig, "train")
    assert (config.warmup_steps, config.lr, config.weight_decay, config.batch_size) == (5, 2e-4, 0.01, 4)
    assert (config.lora_rank, config.lora_alpha, config.gamma, config.epochs) == (32, 32, 0.1, epochs)
    assert config == TrainConfig(epochs=epochs, dtype="bfloat16")


def test_the_paper_s_rollouts_are_direct_for_qwen25_and_mixed_and_cut_for_qwen3():
    direct, mixed = (Synthesis.model_validate(tomllib.loads(path.read_text())["synthesis"]) for path in (QWEN25, QWEN3))
    assert (direct.method, direct.thinking) == ("direct", None)
    assert (mixed.method, mixed.tau, mixed.max_tokens, mixed.thinking) == ("mixed", 0.8, 256, True)


def test_an_unknown_setting_in_a_file_is_refused(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text("[train]\nlearning_rate = 1e-4\n")
    with pytest.raises(UsageError, match=r"\[train\]: there is no setting 'learning_rate'; did you mean train\.lr\?"):
        read("train", path)
