"""The Slurm jobs, run as Slurm would: as copies elsewhere, with its signals, and with a `scontrol` that writes down."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dail.synth.schema.manifest import read_rows
from tests.conftest import DEMO_MODEL, ROOT
from tests.flow.conftest import api, running, wait_for  # noqa: F401

BIN = Path(sys.executable).parent
FOLDER = ROOT / "deploy" / "slurm"
JOBS = ("synth", "train", "eval")
# What a job starts, in its stead: it writes its arguments down, and works until it is told to stop, which it takes a
# moment for.
PROGRAM = """#!/bin/bash
echo "$(basename "$0") $*" >> "$TOLD"
echo "ray ${RAY_ADDRESS-none}" >> "$TOLD"
[ -n "${QUICK:-}" ] && exit "$QUICK"
trap 'sleep 0.3; echo "handed back" >> "$TOLD"; exit 0' TERM
echo ready > "$READY"
while true; do sleep 0.05; done
"""


def test_the_linter_has_nothing_to_say():
    scripts = [
        *FOLDER.glob("*.sh"),
        ROOT / "deploy/setup.sh",
        *(ROOT / "deploy/constraints").glob("*.sh"),
        ROOT / ".ci/run",
    ]
    done = subprocess.run([BIN / "shellcheck", *scripts], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_says_what_it_needs(job: str):
    text = (FOLDER / f"{job}.sh").read_text("utf-8")
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.+))?$", text, re.MULTILINE))
    assert {"job-name", "gpus", "cpus-per-task", "time", "requeue", "signal", "open-mode"} <= set(asked)
    assert asked["signal"] == "B:TERM@120" and ("array" in asked) == (job == "synth")
    first = next(number for number, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    assert text.splitlines()[1].startswith("#SBATCH") and "#SBATCH" not in "".join(text.splitlines()[first:])


class Job:
    """A job of ours with programs in `dail`'s stead."""

    def __init__(self, folder: Path, job: str, **env: str) -> None:
        self.told, self.ready = folder / "told", folder / "ready"
        for name in ("dail", "torchrun"):
            (folder / name).write_text(PROGRAM)
            (folder / name).chmod(0o755)
        (folder / "scontrol").write_text('#!/bin/bash\necho "scontrol $*" >> "$TOLD"\n')
        (folder / "scontrol").chmod(0o755)
        spool = Path(shutil.copy(FOLDER / f"{job}.sh", folder / "slurm_script"))
        told = {"TOLD": str(self.told), "READY": str(self.ready), "SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "4"}
        told |= {"PATH": f"{folder}:{os.environ['PATH']}", "RAY_ADDRESS": "elsewhere:6379"}
        command = ["bash", str(spool), "--model", "models/my model", "--out", "runs/x"]
        self.process = subprocess.Popen(command, env=os.environ | told | env, start_new_session=True, cwd=folder)

    def lines(self) -> list[str]:
        return self.told.read_text().splitlines()


@pytest.mark.parametrize("job", JOBS)
def test_at_the_end_of_its_time_a_job_stops_in_order_and_is_queued_again(job: str, tmp_path: Path):
    run = Job(tmp_path, job)
    until = time.monotonic() + 60
    while not run.ready.exists():
        assert time.monotonic() < until and run.process.poll() is None
        time.sleep(0.02)
    os.kill(run.process.pid, signal.SIGTERM)  # B: to the shell alone
    assert run.process.wait(60) == 0
    started, ray, *after = run.lines()
    assert after == ["handed back", "scontrol requeue 17"], "in this order"
    assert started.endswith("--model models/my model --out runs/x")
    program = f"torchrun --standalone --nproc-per-node 4 --max-restarts 3 {tmp_path}/dail train"
    assert started.startswith({"synth": "dail worker --idle-exit 600 ", "train": program, "eval": "dail eval "}[job])
    assert job == "train" or ray == "ray none", "the login shell's cluster is not the job's"


@pytest.mark.parametrize(("job", "code"), [("synth", 0), ("train", 1), ("eval", 6)])
def test_a_job_that_ends_by_itself_ends_as_its_verb_does_and_is_not_queued_again(job: str, code: int, tmp_path: Path):
    run = Job(tmp_path, job, QUICK=str(code))
    assert run.process.wait(60) == code
    assert not any("scontrol" in line for line in run.lines())


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_an_array_whose_tasks_are_killed_and_stopped_ends_its_batch_when_they_are_queued_again(
    api: httpx.Client,  # noqa: F811
    tmp_path: Path,
):
    """The jobs as they are, with dail's own verb and a Ray of each, the engine alone being fake."""
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$*" >> "$TOLD"\n')
    (tmp_path / "scontrol").chmod(0o755)
    told = tmp_path / "told"
    env = os.environ | {"PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}", "TOLD": str(told), "SLURM_JOB_ID": "17"}
    items = [{"id": f"i{n}", "problem": f"What is {n} + {n}?", "solution": f"It is {2 * n}."} for n in range(20)]
    synthesis = {"samples_per_item": 4, "max_tokens": 1000, "thinking": False}
    batch = api.post("/v1/batches", json={"model": "demo", "items": items, "synthesis": synthesis}).json()["id"]

    def state() -> dict[str, Any]:
        found: dict[str, Any] = api.get(f"/v1/batches/{batch}").json()
        return found

    def task() -> AbstractContextManager[subprocess.Popen[str]]:
        flags = ("--api", api.base_url, "--model", DEMO_MODEL, "--actors", 1, "--set", "engine.kind=fake")
        return running("bash", FOLDER / "synth.sh", *flags, "--idle-exit", 3, env=env, cwd=tmp_path)

    with task() as first, task() as second:
        wait_for(lambda: state()["units"]["committed"] >= 3, 600)
        os.killpg(first.pid, signal.SIGKILL)  # its node is gone
        os.kill(second.pid, signal.SIGTERM)  # its time is over
        assert second.wait(300) == 0
    assert told.read_text() == "requeue 17\n"
    half = state()["units"]["committed"]
    assert 3 <= half < 80, "it must come in the middle"
    with task() as again:
        ended = wait_for(lambda: (now := state())["status"] == "completed" and now, 600)
        assert again.wait(300) == 0, "no more work"
    assert ended["request_counts"]["completed"] == 20
    rows = Counter((row.item_id, row.sample_index) for row in read_rows(Path(ended["manifest"]["path"])))
    assert rows == Counter((f"i{n}", sample) for n in range(20) for sample in range(4))
