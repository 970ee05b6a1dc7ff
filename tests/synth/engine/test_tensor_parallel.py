"""An engine on two ranks, which vLLM runs as processes of their own: the same traces, and nobody left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from dail.synth.rollout.pair import Pair
from tests.conftest import ROOT
from tests.synth.engine.two_ranks import draw

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def processes_with(mark: str) -> set[int]:
    """All that run now and were started, by whoever, with this in their environment."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not is_so() and time.monotonic() < until:
        time.sleep(0.2)
    return is_so()


def test_two_ranks_draw_the_same_traces_and_die_with_their_engine(demo_engine):
    mark = f"two-ranks-{uuid.uuid4()}"
    environment = os.environ | {"DAIL_TEST_MARK": mark}
    command = [sys.executable, "-m", "tests.synth.engine.two_ranks"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as program:
        assert program.stdout
        try:
            traces = json.loads(next(line for line in program.stdout if line.startswith("{")))
            assert len(processes_with(mark)) >= 3, "the ranks are no processes of their own"
        finally:
            program.send_signal(signal.SIGKILL)
    assert within(20.0, lambda: not processes_with(mark)), f"left behind: {processes_with(mark)}"
    for strategy, of_two_ranks in traces.items():
        for name, rollout in draw(Pair(demo_engine, strategy)).items():
            token_ids, rejected, logprobs = of_two_ranks[name]
            assert (token_ids, rejected) == (rollout.tokens.ids, rollout.tokens.rejected)
            assert logprobs == pytest.approx(rollout.tokens.privileged_logprob, abs=1e-4)
