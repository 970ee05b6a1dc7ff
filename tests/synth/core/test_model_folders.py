"""Whoever names a hub's model instead of a folder is told the command that makes the folder, and how to use it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dail.serve.cli import dail
from dail.synth.core.errors import UsageError
from dail.synth.core.model_folders import hub_id, no_model_folder
from dail.synth.schema.models import identify

DEMO = Path(__file__).parents[3] / "deploy" / "demo"
INTO = "models/Qwen2.5-7B-Instruct"
WAY = f"run `hf download Qwen/Qwen2.5-7B-Instruct --local-dir {INTO}`, then give --model {INTO}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("absolute", [False, True])
def test_a_hub_s_name_is_refused_with_the_download_the_folder_and_the_preset(absolute: bool):
    folder = Path("Qwen/Qwen2.5-7B-Instruct")
    with pytest.raises(UsageError) as refused:
        identify(folder.absolute() if absolute else folder)
    assert WAY in str(refused.value) and "--config qwen2.5-7b-paper-v1" in str(refused.value)


def test_a_model_without_a_preset_has_none_named():
    assert "--config" not in no_model_folder(Path("meta-llama/Llama-3.1-8B"))


@pytest.mark.parametrize(
    "folder", ["/models/a", "models/qwen", "runs/x", "a", "a/b/c", "../a", "here/b", "a b/c", "Qwen/"]
)
def test_what_is_no_hub_s_name_is_a_folder_that_is_not_there(folder: str, elsewhere: Path):
    (elsewhere / "here").mkdir()
    assert hub_id(Path(folder)) is None
    assert "is no model folder: there is no such folder" in no_model_folder(Path(folder))


@pytest.mark.parametrize(
    "verb",
    [
        ("synth", DEMO / "expert_solutions.jsonl", "--out", "out"),
        ("doctor",),
        ("eval", "--problems", DEMO / "eval_problems.jsonl", "--out", "out"),
        ("curate", DEMO / "expert_solutions.jsonl", "--out", "out"),
        ("serve", "--port", "0", "--data-dir", "api"),
    ],
)
def test_every_verb_that_takes_a_model_says_so(verb: tuple[object, ...]):
    model = "x=Qwen/Qwen2.5-7B-Instruct" if verb[0] == "serve" else "Qwen/Qwen2.5-7B-Instruct"
    result = CliRunner().invoke(dail, [*map(str, verb), "--model", model], standalone_mode=False)
    assert WAY in str(result.exception)
