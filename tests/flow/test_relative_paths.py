"""Every setting that is a path, given relative to the user's folder, in runs whose engines start in another."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dail.synth.core.settings import TABLES, settings_of
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS, safetensors_of

# The settings of each run; between them all that are paths.
RUNS = {
    "adapter": ["engine.model=model", "worker.student_adapter=adapter"],
    "weights": ["engine.model=model", "worker.strategy=draft_verify", "worker.student_model=./student"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model", "student"):
        shutil.copytree(DEMO_MODEL, tmp_path / name)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 4}')
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(safetensors_of(b"\0" * 8))
    (tmp_path / "one.jsonl").write_text(EXPERT_SOLUTIONS.read_text("utf-8").splitlines()[0] + "\n")
    return tmp_path


def test_the_runs_here_hold_every_setting_that_is_a_path():
    paths = {one.name for table in TABLES for one in settings_of(table).values() if "path" in one.kind}
    assert paths == {line.partition("=")[0] for lines in RUNS.values() for line in lines if "strategy" not in line}


def test_a_relative_path_of_a_file_elsewhere_is_found_by_engines(folder: Path):
    (folder / "configs").mkdir()
    tables: dict[str, list[str]] = {}
    for setting, _, value in (line.partition("=") for line in RUNS["adapter"]):
        table, _, key = setting.partition(".")
        tables.setdefault(table, []).append(f'{key} = "{value}"\n')
    text = "".join(f"[{table}]\n{''.join(lines)}" for table, lines in tables.items())
    (folder / "configs" / "run.toml").write_text(text)
    synthesise(folder, "--config", "configs/run.toml")


def test_a_relative_path_of_the_command_line_is_found_by_engines(folder: Path):
    synthesise(folder, *(word for line in RUNS["weights"] for word in ("--set", line)))


def synthesise(folder: Path, *arguments: str) -> None:
    command = [Path(sys.executable).with_name("dail"), "synth", "one.jsonl", "--out", "out", *arguments, "--set",
               "kind=fake", "--set", "max_tokens=8", "--set", "thinking=false"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0 and "1 traces" in done.stderr, done.stderr
