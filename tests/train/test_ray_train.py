"""The trainer through Ray Train, on a real Ray of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dail.train.loop import run
from tests.conftest import ROOT
from tests.train.conftest import MakeManifest
from tests.train.test_distributed import agree
from tests.train.test_loop import SETTINGS

pytestmark = pytest.mark.timeout(300)


def test_two_workers_of_which_one_is_lost_make_the_adapter_of_one_rank(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    manifest, config = make_manifest(10), SETTINGS.model_copy(update={"epochs": 30, "lr": 1e-3})
    run(tiny_model, manifest, tmp_path / "alone", config)
    settings = [
        f"--set={name}={json.dumps(value)}"
        for name, value in config.model_dump(mode="json", exclude_none=True, exclude={"gate"}).items()
    ]
    command = [str(Path(sys.executable).with_name("dail")), "train", "--ray-workers", "2", "--json", *settings]
    command += ["--model", str(tiny_model), "--manifest", str(manifest), "--out", str(tmp_path / "two")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "OMP_NUM_THREADS": "1"
    }
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    metrics = tmp_path / "two" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 10):
        time.sleep(0.02)
    workers = subprocess.run(["pgrep", "-f", "ray::RayTrainWorker"], capture_output=True, text=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    printed, said = process.communicate(timeout=280)
    assert process.returncode == 0, said
    assert json.loads(printed.splitlines()[-1])["steps"] == 90
    assert said.count("loading the weights") == 2, "nobody was started again"
    assert "PlacementGroupCleaner" not in said and "Failed to query" not in said, "a local Ray has no dashboard to ask"
    assert agree(tmp_path / "alone", tmp_path / "two")
