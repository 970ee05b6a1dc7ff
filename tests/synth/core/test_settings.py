"""Settings by their names: what a file, a preset and `--set` say, and what is refused with which hint."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dail.synth.config import EngineConfig, SynthConfig, load_engine
from dail.synth.core.errors import UsageError
from dail.synth.core.settings import TABLES, full_name, read, settings_of, spelled, tables_of
from dail.synth.schema.synthesis import Synthesis
from dail.train.config import TrainConfig
from dail.train.evals.config import EvalConfig

EVERY = [setting for table in TABLES for setting in settings_of(table).values()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        '[engine]\nmodel = "m"\nrows = 4\n[worker]\nactors = 2\n[synthesis]\ntau = 0.5\n[eval]\nsamples = 7\n'
    )
    return path


def test_a_verb_takes_its_own_tables_of_a_file(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(file.parent)
    engine = load_engine(read("synth", file), None)
    assert (engine.rows, engine.model) == (4, file.parent / "m")
    assert read("synth", file).load(SynthConfig, "worker", engine=engine) == SynthConfig(engine=engine, actors=2)
    assert read("submit", file).load(Synthesis, "synthesis") == Synthesis(tau=0.5)
    assert read("eval", file).load(EvalConfig, "eval", engine=engine).samples == 7
    assert read("train", file).load(TrainConfig, "train") == TrainConfig() == read("train").load(TrainConfig, "train")


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("temperature=1e-4", {"temperature": 1e-4}),
        ("synthesis.temperature=2", {"temperature": 2.0}),
        ("method=direct", {"method": "direct"}),
        ("method='direct'", {"method": "direct"}),
        ("thinking=true", {"thinking": True}),
        ('stop=["a", "b=c"]', {"stop": ("a", "b=c")}),
    ],
)
def test_overrides_are_toml_values_or_bare_words_and_win(file: Path, override: str, wanted: dict[str, Any]):
    found = read("submit", file, [override]).load(Synthesis, "synthesis")
    assert found == Synthesis(tau=0.5).model_copy(update=wanted)


def test_a_flag_wins_over_an_override_and_the_override_over_the_file(file: Path):
    chosen = read("eval", file, ["samples=8", "seed=1"])
    assert chosen.values["eval"] == {"samples": 8, "seed": 1}
    assert chosen.told("eval", samples=9, seed=None).values["eval"] == {"samples": 9, "seed": 1}


@pytest.mark.parametrize(
    ("verb", "name"), [(verb, one.name) for one in EVERY for verb in TABLES[one.name.split(".")[0]].verbs]
)
def test_every_setting_is_known_by_its_full_name_to_its_verbs(verb: str, name: str):
    assert ".".join(full_name(verb, name)) == name


@pytest.mark.parametrize(
    ("verb", "name", "wanted"),
    [
        ("synth", "tau", "synthesis.tau"),
        ("synth", "rows", "engine.rows"),
        ("synth", "strategy", "worker.strategy"),
        ("submit", "seed", "synthesis.seed"),
        ("train", "seed", "train.seed"),
        ("train", "dtype", "train.dtype"),
        ("eval", "temperature", "eval.temperature"),
        ("eval", "dtype", "engine.dtype"),
    ],
)
def test_a_short_name_is_of_the_one_table_that_has_it(verb: str, name: str, wanted: str):
    assert ".".join(full_name(verb, name)) == wanted


def test_no_verb_but_loop_and_paper_has_two_settings_of_one_short_name_today():
    for verb in {verb for table in TABLES.values() for verb in table.verbs}:
        keys = Counter(key for table in tables_of(verb) for key in settings_of(table))
        several = {key for key, number in keys.items() if number > 1}
        # the verbs of several jobs: `--set dtype=float32` is answered with what may be meant
        if verb != "paper":
            assert several == ({"dtype", "seed", "too_long"} if verb == "loop" else set())


def test_a_short_name_of_two_tables_is_refused_with_both(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dail.synth.core.settings.tables_of", lambda verb: ("synthesis", "eval"))
    with pytest.raises(UsageError, match=r"write synthesis\.temperature or eval.temperature"):
        read("both", None, ["temperature=1"])


@pytest.mark.parametrize(
    ("verb", "override", "why"),
    [
        ("train", "gamma", "--set 'gamma' has no '='; write KEY=VALUE"),
        ("train", "gamme=1", "no setting 'gamme'; did you mean train.gamma?"),
        ("train", "learning_rate=1", "did you mean train.lr?"),
        ("synth", "engine.rowz=1", "no setting 'engine.rowz'; did you mean engine.rows?"),
        ("synth", "engin.rows=1", "did you mean engine.rows?"),
        ("synth", "worker.rows=1", "did you mean engine.rows?"),
        ("synth", "worker.engine=1", "no setting 'worker.engine'"),
        ("synth", "xyzzy=1", "no setting 'xyzzy'; `dail settings` lists all"),
        ("synth", "=1", "no setting ''"),
        ("worker", "tau=1", r"synthesis.tau is of .* which `dail worker` does not use; give it to `dail submit`"),
        ("worker", "synthesis.tau=1", "which `dail worker` does not use"),
        ("cache", "engine.rows=1", r"table \[engine\] \(what draws tokens\), which `dail cache` does not use"),
        ("train", "lr=fast", "the command line: train.lr: Input should be a valid number"),
        ("train", "lr=nan", "train.lr: Input should be a finite number"),
        ("submit", "method=1", "synthesis.method: Input should be 'mixed'"),
        ("submit", "stop=3", "synthesis.stop: "),
    ],
)
def test_an_override_that_cannot_be_used_is_refused_with_what_was_meant(verb: str, override: str, why: str):
    with pytest.raises(UsageError, match=why.replace("?", r"\?")):
        chosen = read(verb, None, [override])
        chosen.load(TrainConfig, "train") if verb == "train" else chosen.load(Synthesis, "synthesis")


@pytest.mark.parametrize("verb", ["worker", "train", "submit", "eval"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[train]\nlr = fast\n", "is not TOML: "),
        (b"[train]\nlr = 1\nlr = 2\n", "is not TOML: "),
        (b"\xff", "is not TOML: "),
        (b"train = 3\n", r"train is a int; wanted a table, \[train\]"),
        (
            b"[trian]\nlr = 1\n",
            "no table 'trian'; did you mean train.; the tables are engine, worker, synthesis, train",
        ),
        (b"[synth]\nactors = 1\n", r"no table 'synth'; `dail synth` reads \[engine\], \[worker\], \[synthesis\]"),
        (b"lr = 1\n", "no table 'lr'"),
        (b"[train]\nlrr = 1\n", r"\[train\]: there is no setting 'lrr'; did you mean train.lr."),
        (b"[worker]\n[worker.engine]\nrows = 2\n", r"no setting 'engine'.*; \[engine\] is a table of its own"),
        (b"[synthesis]\ntau = 7\n", r"\[synthesis\]: synthesis.tau: Input should be less than or equal to 1"),
        (b"[engine]\nrows = 0\n", r"\[engine\]: engine.rows: "),
        (b"[eval]\nsamples = 0\n", r"\[eval\]: eval.samples: "),
    ],
)
def test_a_file_is_checked_whole_by_every_verb(tmp_path: Path, verb: str, text: bytes, why: str):
    path = tmp_path / "run.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=rf"run\.toml.*{why}"):
        read(verb, path)


def test_what_fits_no_model_together_names_the_file_and_the_command_line(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text('[worker]\nstudent_model = "s"\n')
    engine = EngineConfig(model=tmp_path)
    with pytest.raises(UsageError, match=r"run\.toml \[worker\]: worker: student_model needs two engines"):
        read("synth", path).load(SynthConfig, "worker", engine=engine)
    with pytest.raises(UsageError, match=r"run\.toml \[worker\] and the command line: worker: student_model"):
        read("synth", path, ["strategy=lazy"]).load(SynthConfig, "worker", engine=engine)


def test_a_file_that_is_not_there_or_a_folder_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no\.toml is no file and no preset; the presets are cpu-tiny, "):
        read("train", tmp_path / "no.toml")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read("train", tmp_path)


def test_a_preset_is_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert read("train", "qwen3-8b-paper-v1").load(TrainConfig, "train").epochs == 3
    with pytest.raises(
        UsageError, match=r"config qwen3-8b is no file and no preset; did you mean qwen3-8b-paper-v1 or"
    ):
        read("train", "qwen3-8b")


def test_no_model_is_said_with_the_ways_to_name_one():
    with pytest.raises(UsageError, match=r"no model is named; give --model FOLDER, or engine\.model"):
        load_engine(read("synth"), None)


def test_a_refused_value_is_not_repeated():
    with pytest.raises(UsageError) as caught:
        read("train", None, ["lr=secret", "recompute=secret"]).load(TrainConfig, "train")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("one", EVERY, ids=[one.name for one in EVERY])
def test_every_setting_has_a_sentence_and_says_what_it_takes(one: Any):
    assert len(one.sentence.split()) > 1 and one.kind


def test_bounds_and_defaults_are_those_of_the_field():
    assert settings_of("train")["gamma"].about == "number >= 0, < 1; default 0.1"
    assert settings_of("train")["seed"].about == "whole number >= 0, < 2^63; default 0"
    assert settings_of("synthesis")["stop"].about == "list of text, length <= 16"
    assert settings_of("engine")["model"].about == "path; required"
    assert settings_of("engine")["rows"].about == "whole number >= 2"
    assert settings_of("synthesis")["method"].choices == ("mixed", "direct", "student", "expert")


def test_a_default_is_spelled_in_toml():
    assert [spelled(value) for value in ('a"b\\', True, 0.0002, ["x"], 3)] == [
        '"a\\"b\\\\"',
        "true",
        "0.0002",
        '["x"]',
        "3",
    ]
