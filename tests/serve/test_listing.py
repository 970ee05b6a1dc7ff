"""`dail settings`."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from dail.serve.cli import dail
from dail.serve.listing import environment
from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import UsageError
from dail.synth.core.settings import TABLES, read, settings_of
from dail.synth.schema.synthesis import Synthesis
from dail.train.config import TrainConfig
from dail.train.evals.config import EvalConfig
from tests.conftest import ROOT


def said(*arguments: str) -> str:
    result = CliRunner().invoke(dail, ["settings", *arguments], standalone_mode=False, env={"COLUMNS": "120"})
    if result.exception:
        raise result.exception
    return result.output


def test_all_settings_variables_and_presets_are_listed():
    text = said()
    for table in TABLES:
        assert f"[{table}] {TABLES[table].about}" in text
        assert all(one.name in text for one in settings_of(table).values())
    assert all(name in text for name in (*environment(), "cpu-tiny", "qwen3-8b-paper-v1"))


def test_one_table_is_listed_alone():
    assert "train.gamma" in said("train") and "engine.rows" not in said("train") and "DAIL_" not in said("train")
    assert "DAIL_TOKEN" in said("environment") and "train.gamma" not in said("environment")
    with pytest.raises(UsageError, match=r"no table 'trian'; did you mean train\?; they are engine, "):
        said("trian")


def test_as_toml_it_is_a_file_of_the_defaults(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text(said("--toml"))
    assert tomllib.loads(path.read_text()).keys() == TABLES.keys()
    assert {"# model =", "# rows ="} <= set(path.read_text().splitlines())
    engine = read("synth", path).told("engine", model=tmp_path).load(EngineConfig, "engine")
    assert engine == EngineConfig(model=tmp_path)
    assert read("synth", path).load(SynthConfig, "worker", engine=engine) == SynthConfig(engine=engine)
    assert read("synth", path).load(Synthesis, "synthesis") == Synthesis()
    assert read("train", path).load(TrainConfig, "train") == TrainConfig()
    assert read("eval", path).load(EvalConfig, "eval", engine=engine) == EvalConfig(engine=engine)
    assert tomllib.loads(said("train", "--toml")).keys() == {"train"}


def test_as_json_it_holds_all_of_a_setting():
    found = json.loads(said("--json"))
    gamma = next(one for one in found["settings"] if one["name"] == "train.gamma")
    assert (gamma["default"], gamma["takes"], gamma["verbs"]) == (
        0.1,
        "number >= 0, < 1",
        ["train", "cache", "loop", "paper"],
    )
    assert found["environment"].keys() == environment().keys() and "cpu-tiny" in found["presets"]
    assert json.loads(said("train", "--json")).keys() == {"settings"}


def test_every_variable_of_ours_that_the_code_names_is_listed():
    named = {
        node.value
        for room in ("synth", "train", "serve")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()
    }
    assert {name for name in named if name.startswith("DAIL_") and name != "DAIL_"} <= environment().keys()
