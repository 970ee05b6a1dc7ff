"""The settings' defaults and bounds."""

from __future__ import annotations

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.core.settings import read
from dail.train.config import FREE_ON_RESUME, TrainConfig


def chosen(overrides: list[str]) -> TrainConfig:
    return read("train", None, overrides).load(TrainConfig, "train")


def test_the_defaults_are_the_paper_s():
    config = TrainConfig()
    assert (config.objective, config.gamma, config.lr, config.weight_decay) == ("contrastive", 0.1, 2e-4, 0.01)
    assert (config.warmup_steps, config.batch_size, config.epochs) == (5, 4, 5)
    assert (config.lora_rank, config.lora_alpha) == (32, 32)


def test_settings_that_may_change_on_resume_exist():
    assert TrainConfig.model_fields.keys() >= FREE_ON_RESUME


@pytest.mark.parametrize("override", ["gamma=1", "gamma=2", "lr=-1e-4", "batch_size=0", "epochs=0", "token_chunk=0"])
def test_values_out_of_range_are_refused_by_name(override: str):
    with pytest.raises(UsageError, match=rf"the command line: train\.{override.partition('=')[0]}: "):
        chosen([override])


def test_lists_may_be_written_with_commas():
    config = chosen(["trackers=wandb,tensorboard", "lora_targets=q_proj"])
    assert config.trackers == ("wandb", "tensorboard") and config.lora_targets == ("q_proj",)
    assert chosen(["lora_targets=all-linear"]).lora_targets == "all-linear"
    assert chosen(['lora_targets=["a", "b"]']).lora_targets == ("a", "b")
    assert chosen(["lora_targets=, v_proj ,q_proj,v_proj,"]).lora_targets == ("v_proj", "q_proj")
    for alone in (" all-linear", "all-linear,", '["all-linear"]'):
        assert chosen([f"lora_targets={alone}"]).lora_targets == "all-linear"
    for nothing in (" ", ",", "[]"):
        with pytest.raises(UsageError, match=r"train\.lora_targets"):
            chosen([f"lora_targets={nothing}"])
    with pytest.raises(UsageError, match=r"train\.lora_targets: .*wanted all-linear alone"):
        chosen(["lora_targets=all-linear,lm_head"])
    with pytest.raises(UsageError, match=r"train\.trackers\.0: Input should be 'tensorboard', 'wandb'"):
        chosen(["trackers=nothing"])
