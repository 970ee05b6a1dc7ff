"""A user's own `train.py`, `synth/` and `serve.py`: nothing of ours is taken for them, nor they for ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dail.synth.schema.manifest import read_rows
from tests.conftest import DEMO_MODEL
from tests.flow.conftest import BIN

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1000)]

# Ray puts the folder of this script first on the path of its workers.
STUDY = """
import sys
from pathlib import Path

import serve
import synth
import train

import dail.serve.app
import dail.train.loop
from dail.synth.config import SynthConfig
from dail.synth.method.grading import Grader
from dail.synth.run.local import synthesise
from dail.synth.schema.synthesis import Synthesis

if __name__ == "__main__":
    assert (train.MINE, synth.MINE, serve.MINE) == (True, True, True)
    assert Path(dail.train.loop.__file__) != Path(train.__file__)
    config = SynthConfig.model_validate(
        {"engine": {"model": sys.argv[1], "dtype": "float32", "rows": 8, "kv_cache_gib": 0.25}}
    )
    summary = synthesise(Path("one.jsonl"), Path("out"), config, Synthesis(max_tokens=16, thinking=False))
    with Grader() as grader:
        assert grader.grade(r"\\\\boxed{1/2}", "0.5").correct
    assert Path.cwd() == Path(__file__).parent
    print("manifest", summary.manifest)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "synth").mkdir()
    for name in ("train.py", "serve.py", "synth/__init__.py"):
        (tmp_path / name).write_text("MINE = True\n")
    (tmp_path / "one.jsonl").write_text('{"problem": "1 + 1?", "solution": "It is \\\\boxed{2}.", "answer": "2"}\n')
    (tmp_path / "study.py").write_text(STUDY)
    return tmp_path


def test_imports_a_ray_actor_and_a_real_engine_work_beside_a_users_own_files(folder: Path) -> None:
    command = [sys.executable, "study.py", str(DEMO_MODEL)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (path,) = [line.removeprefix("manifest ") for line in done.stdout.splitlines() if line.startswith("manifest ")]
    (row,) = read_rows(folder / path)
    assert len(row.trace_ids) <= 16


def test_a_verb_imports_none_of_a_users_own_files(folder: Path) -> None:
    for name in ("train.py", "serve.py", "synth/__init__.py"):
        (folder / name).write_text("raise SystemExit('the user s own file was imported')\n")
    command = [BIN / "dail", "synth", "one.jsonl", "--out", "out", "--model", DEMO_MODEL, "--set", "engine.kind=fake",
               "--set", "synthesis.max_tokens=16", "--set", "synthesis.thinking=false"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "1 traces" in done.stderr
