"""The settings' defaults and bounds."""

from __future__ import annotations

import pytest

from dail.synth.core.errors import UsageError
from dail.train.config import FREE_ON_RESUME, TrainConfig


def test_the_defaults_are_the_paper_s():
    config = TrainConfig()
    assert (config.objective, config.gamma, config.lr, config.weight_decay) == ("contrastive", 0.1, 2e-4, 0.01)
    assert (config.warmup_steps, config.batch_size, config.epochs) == (5, 4, 5)
    assert (config.lora_rank, config.lora_alpha) == (32, 32)


def test_every_setting_says_what_it_is():
    assert all(field.description for field in TrainConfig.model_fields.values())


def test_settings_that_may_change_on_resume_exist():
    assert TrainConfig.model_fields.keys() >= FREE_ON_RESUME


@pytest.mark.parametrize("override", ["gamma=1", "gamma=2", "lr=-1e-4", "batch_size=0", "epochs=0", "token_chunk=0"])
def test_values_out_of_range_are_refused_by_name(override: str):
    with pytest.raises(UsageError, match=f"the command line: /{override.partition('=')[0]}: "):
        TrainConfig.load(None, "train", [override])


def test_lists_may_be_written_with_commas():
    config = TrainConfig.load(None, "train", ["trackers=wandb,tensorboard", "lora_targets=q_proj"])
    assert config.trackers == ("wandb", "tensorboard") and config.lora_targets == ("q_proj",)
    assert TrainConfig.load(None, "train", ["lora_targets=all-linear"]).lora_targets == "all-linear"
    assert TrainConfig.load(None, "train", ['lora_targets=["a", "b"]']).lora_targets == ("a", "b")
    with pytest.raises(UsageError, match="/trackers/0: Input should be 'tensorboard', 'wandb', 'mlflow' or 'trackio'"):
        TrainConfig.load(None, "train", ["trackers=nothing"])
