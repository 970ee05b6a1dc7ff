"""`dail demo`, interrupted twice in a row, killed, and then run to its end."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.flow.conftest import BIN, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]


class Demo:
    """The verb in one folder; every process of it carries a mark in its environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(16)

    def start(self) -> subprocess.Popen[str]:
        command = [BIN / "dail", "demo", "--dir", self.folder, "--json"]
        env = {**os.environ, "DAIL_TEST_MARK": self.mark}
        # a shell makes what it starts in the background deaf to Ctrl-C, and its children after it
        hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=env, preexec_fn=hears, **pipes)

    def end_when(self, condition: Callable[[], object], *signals: int) -> str:
        """Starts it, sends it the signals once the condition holds; what it said. None of its processes stays."""
        child = self.start()
        wait_for(lambda: condition() or child.poll() is not None)
        assert child.poll() is None, child.communicate()[1]
        for number in signals:
            child.send_signal(number)
            time.sleep(0.3)
        _, said = child.communicate(timeout=300)
        assert child.returncode == (-number if number == signal.SIGKILL else 130), said
        assert "Traceback" not in said
        wait_for(lambda: not self.processes())
        return said

    def processes(self) -> list[str]:
        """Command lines of what is still alive."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return [line for line in found if line]


def test_the_demo_resumes_after_two_ctrl_c_and_a_kill_and_leaves_nothing_behind(tmp_path):
    demo = Demo(tmp_path / "demo")
    said = demo.end_when(lambda: any(demo.folder.glob("api/objects/shards/**/*.parquet")), signal.SIGINT, signal.SIGINT)
    assert "starting the demo" in said

    metrics = demo.folder / "train" / "metrics.jsonl"
    said = demo.end_when(lambda: metrics.is_file() and metrics.read_text().count("\n") > 5, signal.SIGKILL)
    assert "resuming the demo" in said

    child = demo.start()
    out, said = child.communicate(timeout=800)
    assert child.returncode == 0, said
    assert "resuming the demo" in said and "all traces are there already" in said
    found = json.loads(out)
    evaluation = json.loads((demo.folder / "eval" / "eval.json").read_text())
    long = next(group for group in evaluation["groups"] if group["group"] == "long")
    base, dail, nll, sft = (long["passes"][who][0]["mean"] for who in ("base", "DAIL", "NLL", "SFT"))
    assert base < 0.05 and sft < 0.05 and base + 0.2 < nll < dail, "the demo must show what it is there to show"
    assert all(Path(found[what]).exists() for what in ("report", "adapter", "manifest", "shards", "loss", "logs"))
    assert demo.processes() == []


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = subprocess.run([BIN / "dail", "demo", "--dir", tmp_path, "--fresh"], capture_output=True, text=True)
    assert done.returncode == 2 and "no demo" in done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
