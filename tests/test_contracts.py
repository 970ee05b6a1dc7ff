"""The walls between rooms: a new file in the wrong place breaks a contract the day it is born."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LINT = Path(sys.executable).parent / "lint-imports"
ROOMS = "the rooms of synth"
SIDES = "serve and train stand beside each other"
SERVE = "serve sees data, view, schema and core alone"
RULES = "in serve the rules stand above the store"
HTTP = "rules and store know no HTTP"
SQL = "the rules know no SQL"
TRAIN = "train sees data, view, schema and core alone"
LIGHT = "the API, the data, the view, the schema and the core start without"
VLLM = "one file knows vLLM"
RAY = "actor, pool and the trainer's cluster know Ray"
PEFT = "only the trainer knows PEFT"
EVALS = "evals judge; they do not import torch"
STUDIES = "studies are made of training and of evals"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as they are, to put files into."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("synth", "train", "serve"):
        shutil.copytree(ROOT / name, folder / "dail" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def broken(folder: Path) -> str:
    """What import-linter says of the contracts that do not hold."""
    done = subprocess.run(
        [LINT, "--no-cache", "--no-logo"], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
    )  # fmt: skip
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    return "\n".join(line for line in done.stdout.splitlines() if line.endswith("BROKEN") or " BROKEN " in line)


def test_the_walls_hold_as_it_is(copy: Path) -> None:
    assert broken(copy) == ""


@pytest.mark.parametrize(
    ("file", "imported", "contract"),
    [
        ("synth/calibrate.py", "dail.synth.core.errors", ROOMS),
        ("synth/attic/__init__.py", "dail.synth.core.errors", ROOMS),
        ("synth/core/new.py", "dail.synth.schema.items", ROOMS),
        ("synth/schema/new.py", "dail.synth.method.waypoints", ROOMS),
        ("synth/schema/new.py", "dail.synth.data.reader", ROOMS),
        ("synth/data/new.py", "dail.synth.method.prompts", ROOMS),
        ("synth/view/new.py", "dail.synth.method.prompts", ROOMS),
        ("synth/view/new.py", "transformers", LIGHT),
        ("synth/method/new.py", "dail.synth.engine.base", ROOMS),
        ("synth/method/new.py", "dail.synth.config", ROOMS),
        ("synth/engine/new.py", "dail.synth.rollout.base", ROOMS),
        ("synth/rollout/new.py", "dail.synth.run.trace_rows", ROOMS),
        ("synth/run/new.py", "dail.synth.commands", ROOMS),
        ("synth/run/new.py", "dail.train.config", SIDES),
        ("train/new.py", "dail.serve.bodies", SIDES),
        ("serve/new.py", "dail.train.record", SIDES),
        ("serve/new.py", "dail.synth.method.prompts", SERVE),
        ("serve/store/new.py", "dail.synth.config", SERVE),
        ("serve/new.py", "dail.synth.run.local", SERVE),
        ("serve/store/new.py", "dail.serve.rules.errors", RULES),
        ("serve/store/new.py", "fastapi", HTTP),
        ("serve/rules/new.py", "dail.serve.errors", HTTP),
        ("serve/rules/new.py", "sqlalchemy", SQL),
        ("train/new.py", "dail.synth.method.prompts", TRAIN),
        ("train/new.py", "dail.synth.engine.base", TRAIN),
        ("train/new.py", "dail.synth.run.pool", TRAIN),
        ("train/evals/new.py", "dail.synth.rollout.pair", TRAIN),
        ("train/evals/new.py", "dail.synth.run.local", TRAIN),
        ("serve/new.py", "torch", LIGHT),
        ("synth/schema/new.py", "transformers", LIGHT),
        ("synth/data/new.py", "transformers", LIGHT),
        ("synth/core/new.py", "numpy", LIGHT),
        ("synth/engine/new.py", "vllm", VLLM),
        ("train/evals/new.py", "vllm", VLLM),
        ("synth/rollout/new.py", "ray", RAY),
        ("synth/run/new.py", "ray", RAY),
        ("train/new.py", "ray", RAY),
        ("synth/engine/new.py", "peft", PEFT),
        ("train/evals/new.py", "torch", EVALS),
        ("train/evals/new.py", "dail.train.studies.years", STUDIES),
        ("train/studies/new.py", "vllm", VLLM),
    ],
)
def test_a_file_in_the_wrong_place_breaks_a_wall(copy: Path, file: str, imported: str, contract: str) -> None:
    path = copy / "dail" / file
    is_new = not path.parent.exists()
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"import {imported}\n")
    try:
        assert contract in broken(copy)
    finally:
        shutil.rmtree(path.parent) if is_new else path.unlink()
