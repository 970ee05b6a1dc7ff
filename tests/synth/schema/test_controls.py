"""Control runs by one flag: what each sets, in one table for synthesis and training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from dail.serve.commands import submit
from dail.synth.commands import doctor, synth
from dail.synth.core.errors import UsageError
from dail.synth.core.options import verb
from dail.synth.core.settings import Chosen, read
from dail.synth.data import options
from dail.synth.schema.controls import CONTROLS, check_drawn, control_of, controlled, told
from dail.synth.schema.synthesis import Synthesis
from dail.train import commands
from dail.train.commands import train
from dail.train.config import TrainConfig


def settings(control: str, *overrides: str, config: str | None = None) -> Synthesis:
    return controlled(read("synth", config, overrides), "synthesis", control).load(Synthesis, "synthesis")


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_changes_what_its_table_says_and_nothing_else(name: str):
    changed = settings(name, config="cpu-tiny")
    plain = read("synth", "cpu-tiny").load(Synthesis, "synthesis")
    assert changed == plain.model_copy(update=dict(CONTROLS[name].synthesis)) != plain
    config = controlled(read("train", "cpu-tiny"), "train", name).load(TrainConfig, "train")
    assert config == read("train", "cpu-tiny").load(TrainConfig, "train").model_copy(update=dict(CONTROLS[name].train))
    assert control_of(changed, config.model_dump()) == name and control_of(plain, config.model_dump()) is None


def test_the_student_s_own_samples_are_a_control_where_they_are_fine_tuned_on_alone():
    own = Synthesis(method="student")
    assert control_of(own, {"objective": "contrastive"}) is None
    assert control_of(own, {"objective": "nll"}) == "self"


def test_a_set_that_says_otherwise_is_refused_and_one_that_agrees_is_not():
    with pytest.raises(
        UsageError, match=r"--control no_solution sets synthesis\.shown=nothing, and --set synthesis\.sho"
    ):
        settings("no_solution", "shown=solution")
    assert settings("no_solution", "shown=nothing", "tau=0.9") == Synthesis(shown="nothing", tau=0.9)
    with pytest.raises(UsageError, match="a share of a solution, and shown=nothing"):
        settings("no_solution", "exposure=0.5")
    with pytest.raises(UsageError, match=r"--control self sets train\.objective=nll"):
        controlled(read("train", None, ["objective=contrastive"]), "train", "self")


def test_a_file_is_outvoted(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text('[synthesis]\nmethod = "direct"\ntau = 0.9\n')
    assert settings("self", config=str(file)) == Synthesis(method="student", tau=0.9)


@pytest.mark.parametrize("name", CONTROLS)
def test_traces_that_were_not_drawn_as_a_control_are_not_trained_on_as_one(name: str):
    check_drawn(name, settings(name))
    with pytest.raises(UsageError, match=f"--control {name} is trained on traces of .*`dail synth --control {name}`"):
        check_drawn(name, Synthesis())


def test_it_is_told_what_a_control_sets():
    assert told("self", "train").endswith(': objective="nll"')
    assert told("no_solution", "train").endswith(": nothing in [train]")


def test_the_flag_reaches_the_verb_and_is_told(caplog: pytest.LogCaptureFixture):
    @options.control()
    def show(chosen: Chosen) -> None:
        print(chosen.load(Synthesis, "synthesis").model_dump_json())

    caplog.set_level(logging.INFO, "dail")
    result = CliRunner().invoke(verb("waypoints")(show), ["--control", "shuffled_waypoints", "--set", "tau=0.5"])
    said = json.loads(result.stdout.splitlines()[-1])
    assert (said["waypoints_from"], said["tau"], result.exit_code) == ("other", 0.5, 0)
    assert 'waypoints_from="other"' in caplog.text


@pytest.mark.parametrize("command", [synth, doctor, submit, train], ids=lambda command: command.name)
def test_every_verb_that_draws_or_trains_has_it(command: click.Command):
    (option,) = [one for one in command.params if one.name == "control"]
    assert isinstance(option.type, click.Choice) and list(option.type.choices) == list(CONTROLS)


def test_training_refuses_traces_of_another_kind_before_a_model_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(commands, "read_manifest", lambda path: SimpleNamespace(synthesis=Synthesis(method="student")))
    monkeypatch.setattr(commands, "_room", lambda name: pytest.fail("the trainer was loaded"))
    arguments = ["--model", "m", "--manifest", "v1.json", "--out", str(tmp_path)]
    refused = CliRunner().invoke(train, [*arguments, "--control", "no_solution"]).exception
    assert isinstance(refused, UsageError) and "these have solution" in str(refused)
    refused = CliRunner().invoke(train, [*arguments, "--control", "self", "--set", "objective=contrastive"]).exception
    assert isinstance(refused, UsageError) and "leave one of them out" in str(refused)
