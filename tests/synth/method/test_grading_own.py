"""A grader of the user's own: what it says counts, what is wrong with it is said, and it cannot hold anything up."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import label
from dail.synth.method.grading import GRADERS, Grade, Grader, Verdict
from tests.conftest import install_package
from tests.synth.method.test_grading import child_pid, gone_within, is_alive

SOURCE = '''
import os, re, subprocess, sys, time

def statute(completion, answer):
    """The last one cited counts."""
    print("what a grader prints is no reply", flush=True)
    cited = re.findall(r"§ ?\\d+[a-z]? [A-Z]\\w+", completion)
    return bool(cited) and cited[-1] == answer

def tests(completion, answer):
    """Runs the answer, which is tests, behind the completion, which is code."""
    done = subprocess.run([sys.executable, "-c", completion + "\\n" + answer])
    return done.returncode == 0

def loud(completion, answer):
    os.write(1, b"true\\n" * 99)
    subprocess.run(["sh", "-c", "echo true; cat"])  # reads what is left of our input, if it is ours
    return False

def slow(completion, answer):
    if "slow" in completion:
        sleeper = subprocess.Popen(["sleep", "600"])
        open(answer, "w").write(str(sleeper.pid))
        time.sleep(600)
    return True

def fails(completion, answer):
    return int(completion) == int(answer)

def leaves(completion, answer):
    sys.exit("enough")

def vague(completion, answer):
    return re.search(answer, completion)

def greedy(completion, answer):
    return len(bytearray(16 << 30)) > 0

def dies(completion, answer):
    os._exit(3)

def busy(completion, answer):
    open(answer, "w").write(str(os.getpid()))
    until = time.process_time() + 0.4
    while time.process_time() < until:
        pass
    return True

async def later(completion, answer):
    return True

def narrow(completion):
    return True

TABLE = {}
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_law_is_judged_without_a_box_or_a_number(file: Path):
    pinned = GRADERS.pin(f"{file}:statute")
    with Grader(20.0, pinned) as grader:
        right = grader.grade("Not § 280 BGB: so the claim follows from § 433 BGB.", "§ 433 BGB")
        assert right == Verdict(True, label(pinned), None)
        assert label(pinned).startswith("statute#")
        assert not grader.grade(r"\boxed{433} § 433 BGB, no: § 280 BGB", "§ 433 BGB").correct
        assert not grader.grade("I do not know.", "§ 433 BGB").correct


def test_code_is_judged_by_tests(file: Path):
    with Grader(20.0, f"{file}:tests") as grader:
        assert grader.grade("def double(x): return 2 * x", "assert double(4) == 8").correct
        assert not grader.grade("def double(x): return x", "assert double(4) == 8").correct


def test_the_examples_of_the_protocol_work(tmp_path: Path):
    examples = re.findall(r"(?:^    .*\n)+", inspect.getdoc(Grade) or "", re.M)
    source = "import re, subprocess, sys\n" + "\n".join(map(textwrap.dedent, examples))
    (tmp_path / "shown.py").write_text(source)
    with Grader(20.0, f"{tmp_path}/shown.py:statute") as grader:
        assert grader.grade("Not § 280 BGB, but § 433 BGB.", "§ 433 BGB").correct
    with Grader(20.0, f"{tmp_path}/shown.py:passes") as grader:
        program = "Here it is:\n```python\ndef double(x):\n    return 2 * x\n```\nDone."
        assert grader.grade(program, "assert double(4) == 8").correct
        assert not grader.grade(program, "assert double(4) == 9").correct
        assert not grader.grade("I cannot.", "assert True").correct


def test_what_a_grader_or_its_programs_write_and_read_is_no_reply_and_no_request(file: Path):
    with Grader(20.0, f"{file}:loud") as grader:
        assert [grader.grade(f"attempt {n}", "x").correct for n in range(3)] == [False] * 3


def test_one_that_takes_too_long_is_wrong_and_ends_with_all_it_started(file: Path, tmp_path: Path):
    with Grader(1.0, f"{file}:slow") as grader:
        started = time.monotonic()
        assert grader.grade("slow", f"{tmp_path}/pid") == Verdict(False, "timeout", None)
        assert time.monotonic() - started < 15
        assert gone_within(int((tmp_path / "pid").read_text()), 5)
        assert grader.grade("quick", "").correct


def test_what_keeps_a_grader_from_running_takes_none_of_its_time(file: Path, tmp_path: Path):
    """Stopped for longer than its limit, as others would that have the processor."""

    def stop() -> None:
        place = tmp_path / "pid"
        while not (place.exists() and place.read_text()):
            time.sleep(0.02)
        pid = int(place.read_text())
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2.0)
        os.kill(pid, signal.SIGCONT)

    with Grader(1.0, f"{file}:busy") as grader:
        thread = threading.Thread(target=stop)
        thread.start()
        assert grader.grade("any", f"{tmp_path}/pid").correct
        thread.join()


def test_what_a_grader_computes_in_programs_of_its_own_is_its_time(tmp_path: Path):
    (tmp_path / "loops.py").write_text(
        "import subprocess, sys\n"
        "def endless(completion, answer):\n"
        "    return subprocess.run([sys.executable, '-c', 'while True: pass']).returncode == 0\n"
    )
    with Grader(1.0, f"{tmp_path}/loops.py:endless") as grader:
        started = time.monotonic()
        assert grader.grade("any", "") == Verdict(False, "timeout", None)
        assert time.monotonic() - started < 18


def test_one_that_was_held_up_is_tried_again_when_it_comes_again(file: Path):
    with Grader(20.0, f"{file}:dies") as grader:
        assert grader.grade("any", "") == Verdict(False, "timeout", None)
        assert grader._known == {}


def test_a_killed_child_is_replaced_and_one_that_dies_each_time_is_given_up(file: Path):
    with Grader(20.0, f"{file}:statute") as grader:
        os.kill(child_pid(grader), signal.SIGKILL)
        assert grader.grade("§ 433 BGB", "§ 433 BGB").correct
    with Grader(20.0, f"{file}:dies") as grader:
        assert grader.grade("any", "") == Verdict(False, "timeout", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"failed with ValueError: invalid literal .* in line 28 of .*mine\.py: return int\(completion\)"),
        ("leaves", r"failed with SystemExit: enough, in line 31 of"),
        ("vague", r"returned <re\.Match .*>; wanted True or False; correct it"),
        ("later", r"returned <coroutine .*>; wanted True or False"),
        ("greedy", r"failed with MemoryError.* line 37 of .*; it may take 4 GiB"),
    ],
)
def test_a_mistake_of_the_grader_is_no_wrong_answer(file: Path, name: str, message: str):
    with Grader(20.0, f"{file}:{name}") as grader, pytest.raises(UsageError, match=rf"grader {file}:{name} {message}"):
        grader.grade("so 7", "7")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("narrow", r"narrow cannot be called with a completion and an answer: too many positional arguments"),
        ("TABLE", r"TABLE is a dict; wanted a function of completion and answer"),
        ("nothing", r"has nothing named nothing"),
    ],
)
def test_what_is_no_grader_is_refused_before_it_is_asked(file: Path, name: str, message: str):
    with pytest.raises(UsageError, match=message), Grader(20.0, f"{file}:{name}"):
        raise AssertionError("it was taken")


@pytest.mark.parametrize("line", ["1 / 0", "raise SystemExit('no')", "import no_such_module", "def"])
def test_a_file_that_cannot_be_imported_is_refused_before_it_is_asked(tmp_path: Path, line: str):
    (tmp_path / "bad.py").write_text(line)
    with pytest.raises(UsageError, match=r"bad\.py:grade cannot be imported"), Grader(20.0, f"{tmp_path}/bad.py:grade"):
        raise AssertionError("it was taken")


def test_a_file_that_changes_meanwhile_is_refused_by_the_next_child(file: Path):
    with Grader(20.0, f"{file}:statute") as grader:
        assert grader.grade("§ 433 BGB", "§ 433 BGB").correct
        file.write_text(SOURCE + "\n")
        assert grader.grade("§ 434 BGB", "§ 434 BGB").correct  # by the child that has it as it was
        os.kill(child_pid(grader), signal.SIGKILL)
        with pytest.raises(UsageError, match="it changed since this began"):
            grader.grade("§ 435 BGB", "§ 435 BGB")


def test_an_entry_point_is_a_grader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lawgrader.py").write_text(SOURCE)
    install_package(tmp_path, "lawgrader", "[dail.graders]\nlaw = lawgrader:statute\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # an installed package is found by every process
    with Grader(20.0, "law") as grader:
        assert grader.grade("§ 433 BGB", "§ 433 BGB").method == label(GRADERS.pin("law"))
    with Grader(20.0, "lawgrader:statute") as grader:
        assert grader.grade("§ 433 BGB", "§ 433 BGB").correct


def test_an_own_grader_needs_no_math_verify(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="needs the package math-verify"):
        Grader()
    with Grader(20.0, f"{file}:statute") as grader:
        assert grader.grade("§ 433 BGB", "§ 433 BGB").correct


def test_an_own_grader_gets_the_thought_too(tmp_path: Path):
    (tmp_path / "whole.py").write_text("def same(completion, answer):\n    return completion == answer\n")
    with Grader(20.0, f"{tmp_path}/whole.py:same") as grader:
        assert grader.grade("<think>a</think>b", "<think>a</think>b").correct
        assert grader.grade("<think>cut", "<think>cut").correct


def test_a_text_that_was_judged_is_not_judged_again(file: Path, tmp_path: Path):
    with Grader(1.0, f"{file}:slow") as grader:
        grader.grade("slow", f"{tmp_path}/pid")
        started = time.monotonic()
        assert grader.grade("slow", f"{tmp_path}/pid").method == "timeout"
        assert time.monotonic() - started < 0.5


def test_closing_leaves_no_process_of_an_own_grader(file: Path):
    with Grader(20.0, f"{file}:statute") as grader:
        pid = child_pid(grader)
        assert is_alive(pid)
    assert not is_alive(pid)


def test_by_hand_it_says_what_is_wrong(tmp_path: Path):
    command = [sys.executable, "-m", "dail.synth.method.grading", "5", f"{tmp_path}/none.py:grade"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "there is no file" in done.stdout
