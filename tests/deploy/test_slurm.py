"""The Slurm jobs, run as Slurm would: as copies elsewhere, with its signals, and with a `scontrol` that writes down."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

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
