"""Every setting that is a path, given relative to the user's folder, and the engines started in another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dail.serve.cli import dail
from dail.synth.core.settings import TABLES, settings_of
from dail.synth.run import worker
from dail.synth.run.actor import make_pair
from tests.conftest import DEMO_MODEL, demo_lora

pytestmark = pytest.mark.usefixtures("greeted")

# The settings of each run; between them all that are paths.
RUNS = {
    "adapter": ["engine.model=model", "worker.student_adapter=adapter", "worker.privileged_adapter=adapter"],
    "weights": ["engine.model=model", "worker.strategy=draft_verify", "worker.student_model=./student"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, which is the current one."""
    for name in ("model", "student"):
        shutil.copytree(DEMO_MODEL, tmp_path / "home" / name)
    adapter = tmp_path / "home" / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    (adapter / "adapter_model.safetensors").write_bytes(demo_lora())
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def test_the_runs_here_hold_every_setting_that_is_a_path():
    paths = {one.name for table in TABLES for one in settings_of(table).values() if "path" in one.kind}
    assert paths == {line.partition("=")[0] for lines in RUNS.values() for line in lines if "strategy" not in line}


@pytest.mark.parametrize("run", RUNS)
def test_a_relative_path_of_the_command_line_is_found_by_engines_elsewhere(
    folder: Path, elsewhere: Path, run: str, monkeypatch: pytest.MonkeyPatch
):
    start(elsewhere, monkeypatch, *(word for line in RUNS[run] for word in ("--set", line)))


@pytest.mark.parametrize("run", RUNS)
def test_a_relative_path_of_a_file_is_relative_to_the_current_folder(
    folder: Path, elsewhere: Path, run: str, monkeypatch: pytest.MonkeyPatch
):
    tables: dict[str, list[str]] = {}
    for setting, _, value in (line.partition("=") for line in RUNS[run]):
        table, _, key = setting.partition(".")
        tables.setdefault(table, []).append(f'{key} = "{value}"\n')
    (folder / "configs").mkdir()
    text = "".join(f"[{table}]\n{''.join(lines)}" for table, lines in tables.items())
    (folder / "configs" / "run.toml").write_text(text)
    start(elsewhere, monkeypatch, "--config", "configs/run.toml")


def start(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`dail worker` here, up to its engines; those in another folder, as on another node."""
    found: list[Any] = []
    monkeypatch.setattr(worker, "run_worker", lambda settings, *_: found.append(settings))
    command = ["worker", *arguments, "--set", "kind=fake"]
    result = CliRunner().invoke(dail, command, standalone_mode=False, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(elsewhere)
    make_pair(found[0]).close()
