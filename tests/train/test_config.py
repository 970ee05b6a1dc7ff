"""The settings' defaults and bounds."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.core.settings import read
from dail.train.comparison import Comparison, comparison_of, emphasis_names, leaning, reference_names
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


PAPER = {"privileged": 1.0, "negative": -0.1}


@pytest.mark.parametrize(
    "spelled",
    [
        "privileged=1,negative=-0.1",
        " negative = -1e-1 , privileged = 1.0, ",
        "{privileged = 1.0, negative = -0.1}",
        json.dumps(PAPER),
        '{"negative": -0.1, "privileged": 1}',
    ],
)
def test_references_may_be_spelled_as_toml_json_or_pairs_in_any_order(spelled: str):
    config = chosen([f"references={spelled}"])
    assert list(config.references.items()) == list(PAPER.items())
    assert comparison_of(config) == comparison_of(TrainConfig()) == Comparison(PAPER)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_other_names_come_after_the_three_by_alphabet():
    config = chosen(["references=wrong_hint=-0.1,student=0.2,answer_only=0.3,privileged=1"])
    assert reference_names(config) == ("privileged", "student", "answer_only", "wrong_hint")


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, PAPER),
        ({"gamma": 0.0}, {"privileged": 1.0}),
        ({"gamma": 0.3}, {"privileged": 1.0, "negative": -0.3}),
        ({"objective": "privileged_kl", "gamma": 0.3}, {"privileged": 1.0}),
        ({"objective": "negative_kl"}, {"negative": 1.0}),
        ({"objective": "nll"}, {}),
        ({"objective": "mine.py:own"}, {"privileged": 1.0, "negative": 1.0}),
    ],
)
def test_left_out_references_are_those_of_the_objective(settings: dict[str, Any], weights: dict[str, float]):
    config = TrainConfig.model_validate(settings)
    assert comparison_of(config).weights == weights and reference_names(config) == tuple(weights)


REFUSED = [
    (["references=cached"], r"references: got cached, .* set reference_states=cached"),
    (["references=live"], r"references: got live, .* set reference_states=live"),
    (["references="], r"references: got ''; wanted NAME=WEIGHT"),
    (["references= , "], r"references: got .*; wanted NAME=WEIGHT"),
    (["references=[1]"], "references: wanted an object with names and values"),
    (["references=1"], "references: wanted an object with names and values"),
    (["references=privileged"], r"references: got 'privileged'; wanted NAME=WEIGHT,NAME=WEIGHT"),
    (["references=privileged=much"], r"references: got 'privileged=much'; wanted NAME=WEIGHT"),
    (['references={"privileged": 1'], "which is no JSON"),
    (["references=privileged=1,privileged=2"], "privileged has two weights"),
    (['references={"privileged": 1, "privileged": 2}'], "privileged has two weights"),
    (['references={"privileged": true}'], "privileged has the weight True; wanted a number"),
    (["references=privileged=nan"], "privileged.*finite number"),
    (['references={"privileged": NaN}'], "privileged.*finite number"),
    (["references=privileged=1,negative=-inf"], "negative.*finite number"),
    (["references=privileged=1,negative=0"], "negative has the weight 0 .* leave it out"),
    (["references==1"], "a reference named ''"),
    (["references=privileged=1,negative=-1"], "unbounded: their sum is 0"),
    (["references=privileged=1,negative=-1.5"], r"unbounded: their sum is -0\.5 \(privileged 1, negative -1\.5\)"),
    (["references=privileged=0.1,student=0.2,negative=-0.3"], "unbounded: their sum is"),  # 5.6e-17 in floats
    (["references=negative=-0.1"], "no weight is positive .*unbounded"),
    (["references=negative=-0.1,student=-1"], "no weight is positive"),
    (["references=privileged=1,negative=-0.1", "gamma=0.2"], r"write references=privileged=1,negative=-0\.2, or leave"),
    (["references=privileged=1", "objective=nll"], "objective=nll says which ones; leave one out"),
    (["references=privileged=1", "objective=privileged_kl"], "objective=privileged_kl says which ones"),
    (["references=privileged=1", "objective=mine.py:own"], "mine.py:own says which ones"),
    (["divergence=forward"], r"forward with the negative weight of negative .* unbounded: where .* \(gamma=0\)"),
    (["divergence=forward", "references=privileged=1,wrong=-0.1"], "where wrong is likelier than the others"),
    (["divergence=jsd", "references=privileged=1,wrong=-1.1"], "unbounded: their sum"),
    (["divergence=forward", "objective=nll"], "divergence=forward has no effect: nll compares with no reference"),
    (["divergence=jsd", "objective=mine.py:own"], "has no effect: an objective of your own compares by itself"),
    (["jsd_beta=0.1"], r"jsd_beta=0\.1 is of divergence=jsd, and divergence=reverse"),
    (["divergence=jsd", "jsd_beta=1"], "jsd_beta: Input should be less than or equal to 0.99"),
    (["divergence=jsd", "jsd_beta=0"], "jsd_beta: Input should be greater than or equal to 0.01"),
    (["reference_temperature=0.6", "objective=nll"], r"reference_temperature=0\.6 has no effect: nll"),
    (["student_temperature=0.6", "objective=mine.py:own"], r"student_temperature=0\.6 has no effect"),
    (["reference_temperature=0"], "reference_temperature: Input should be greater than 0"),
    (["student_temperature=11"], "student_temperature: Input should be less than or equal to 10"),
    (["student_temperature=nan"], "student_temperature: .*finite"),
    (["token_weights=entropy", "objective=nll"], "made of a reference, and nll has none; take position or none"),
    (["token_weights=disagreement", "references=student=1"], "disagreement is between the base model .* same one here"),
    (["token_weights=length"], "Input should be 'none', 'entropy', 'disagreement' or 'position'"),
]


@pytest.mark.parametrize(("overrides", "says"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_what_contradicts_itself_or_has_no_minimum_is_refused_with_the_reason(overrides: list[str], says: str):
    with pytest.raises(UsageError, match=f"the command line: train.*{says}"):
        chosen(overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["divergence=forward", "gamma=0"],
        ["divergence=forward", "references=privileged=1,student=0.5"],
        ["divergence=jsd"],
        ["divergence=jsd", "jsd_beta=0.01", "references=privileged=1,negative=-0.9"],
        ["student_temperature=0.6", "objective=nll"],
        ["references=privileged=1,negative=-0.1", "gamma=0.1"],
        ["token_weights=position", "objective=nll"],
        ["token_weights=disagreement", "references=privileged=0.2,student=1"],
    ],
)
def test_what_has_a_minimum_is_taken(overrides: list[str]):
    assert math.isfinite(comparison_of(chosen(overrides)).share)


def test_token_weights_name_the_references_that_they_are_made_of():
    assert emphasis_names(TrainConfig(token_weights="position")) == ()
    assert emphasis_names(TrainConfig(token_weights="entropy")) == ("privileged",)
    disagreement = TrainConfig(token_weights="disagreement", references={"hint": 1.0, "negative": -0.1})
    assert emphasis_names(disagreement) == ("hint", "student")
    assert reference_names(disagreement) == ("negative", "hint", "student")


def test_weights_near_the_edge_are_warned_of():
    assert leaning(TrainConfig()) is None and leaning(TrainConfig(objective="nll", gamma=0.9)) is None
    assert leaning(TrainConfig(objective="mine.py:own", gamma=0.9)) is None
    assert (leaning(TrainConfig(gamma=0.6)) or "").startswith("gamma 0.6 is above 0.5; from there on the optimum")
    said = leaning(TrainConfig(references={"privileged": 1.0, "student": 0.5, "negative": -1.2})) or ""
    assert said.startswith("the negative weights, 0.8 of the positive ones, are above 0.5")
