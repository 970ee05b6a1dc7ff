"""The scripts in deploy/examples, as a user runs them one after the other, and as the pages show them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dail.synth import read_traces
from dail.train import TrainConfig, train
from tests.conftest import DEMO_MODEL, ROOT

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

EXAMPLES = ROOT / "deploy" / "examples"
NAMES = [path.name for path in sorted(EXAMPLES.glob("*.py"))]


def run(name: str, *args: Path) -> list[str]:
    command = [sys.executable, EXAMPLES / name, *args]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return run("synthesise.py", tmp_path_factory.mktemp("shards"))


def test_the_pages_show_the_examples_as_they_are():
    texts = [(ROOT / name).read_text("utf-8") for name in ("synth/from-python.md", "synth/method/parts-of-your-own.md")]
    blocks = re.findall(r"```python\n(.*?)```", "".join(texts), re.DOTALL)
    assert sorted(blocks) == sorted((EXAMPLES / name).read_text("utf-8") for name in NAMES)


def test_synthesise_shows_progress_and_both_traces(said: list[str]):
    assert "units: 2 of 2" in said and Path(said[-1]).is_file()
    assert sum(line.startswith("item-00000 ") for line in said) == 2


def test_read_shards_says_who_wrote_each_trace(said: list[str]):
    lines = run("read_shards.py", Path(said[-1]))
    assert [line.partition(":")[0] for line in lines[::2]] == ["item-00000 sample 0", "item-00000 sample 1"]
    assert all(re.search(r": \d+ tokens, by the student: \d+%$", line) for line in lines[::2])


def test_own_objective_trains_with_its_own_function_and_the_verb_takes_it_too(said: list[str], tmp_path: Path):
    manifest, out = Path(said[-1]), tmp_path / "train"
    *lines, adapter = run("own_objective.py", manifest, out)
    losses = [float(re.fullmatch(r"step \d+: forward KL ([\d.]+), reverse KL [\d.]+", line)[1]) for line in lines]
    assert len(losses) == 2 and losses[-1] < losses[0], "of three steps the first and the last have both KLs"
    assert re.search(r"\| objective \| forward_kl#[0-9a-f]{16} \|", (Path(adapter) / "README.md").read_text("utf-8"))
    command = [Path(sys.executable).with_name("dail"), "train", "--model", DEMO_MODEL, "--manifest", manifest]
    command += ["--out", out, "--set", "objective=deploy/examples/own_objective.py:forward_kl"]
    command += ["--set", "epochs=3", "--set", "lr=1e-3"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "this run is finished" in done.stdout + done.stderr, done.stderr


def test_score_adapter_compares_it_with_the_base_model(said: list[str], tmp_path: Path):
    config = TrainConfig(epochs=1, dtype="float32", trackers=())
    adapter = train(DEMO_MODEL, said[-1], tmp_path / "train", config).adapter
    lines = run("score_adapter.py", adapter, tmp_path / "scored")
    subjects = {line.partition(":")[0] for line in lines}
    assert {"all problems, base", "all problems, adapter"} <= subjects
    assert (tmp_path / "scored" / "report.html").is_file()


def test_own_waypoints_and_prompts_are_in_the_shard(tmp_path: Path):
    shown, manifest = run("own_waypoints.py", tmp_path / "law")
    assert re.fullmatch(r"waypoints § 437, § 439, § 477; by law#\w{16} and provisions#\w{16}", shown)
    (row,) = read_traces(manifest)
    asked = AutoTokenizer.from_pretrained(DEMO_MODEL).decode(row.negative_prompt_ids)
    assert "Provisions that matter: § 437, § 439, § 477" in asked and "Give a reasoned opinion" in asked
