"""What vLLM does on a GPU and not on a CPU, for real all the same: its second model runner, and its scheduling ahead.
The engine's own tests run again with it, in a process of their own, since it is decided when vLLM is imported."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.vllm

SECOND, AHEAD = ("-p", "tests.second_runner"), ("-p", "tests.scheduled_ahead")
ENGINE = ("tests/synth/engine/test_vllm.py", "tests/synth/engine/test_vllm_tight.py")
# A step of the second runner takes about a tenth of a second here, so `make test` has what differs between the runners,
# once each: prompts of which a part is cached, and rows that are computed anew. `make soak` has everything.
SHORT = "read_with_the_scores or (throws_back and small-steps-lazy)"
# Scheduled ahead, a pair that vLLM throws back is seen too late: see `_engine_args`. Admission keeps it from happening.
NO_PAIR_THROWN_BACK = "not (throws_back and lockstep)"


def run_again(*arguments: str, seconds: int) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not soak", f"--timeout={seconds}"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE)


@pytest.mark.timeout(1500)
def test_the_second_runner_reads_cached_prompts_and_draws_rows_anew_as_the_first():
    run_again(*SECOND, *ENGINE, "-k", SHORT, seconds=1400)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(
    "arguments",
    [SECOND, (*AHEAD, "-k", NO_PAIR_THROWN_BACK), (*SECOND, *AHEAD, "-k", NO_PAIR_THROWN_BACK)],
    ids=["second runner", "scheduled ahead", "second runner, scheduled ahead"],
)
def test_the_engine_passes_all_of_its_tests(arguments: tuple[str, ...]):
    run_again(*arguments, *ENGINE, seconds=4 * 3600)
