r"""Does this completion answer the problem? Including completions that attack the grader."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dail.synth.method.child import Child
from dail.synth.method.grading import GRADERS, Grader, Verdict

ENDLESS = r"\boxed{9^{9^{9^9}}}"


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(timeout_s=20.0) as grader:
        yield grader


def boxed(answer: str) -> str:
    return rf"So the result is $\boxed{{{answer}}}$."


def child_pid(grader: Grader) -> int:
    assert grader._child is not None
    return grader._child.process.pid


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac{3}{4}", "3/4"),
        (r"\frac12", "1/2"),
        ("-0.5", r"-\frac{1}{2}"),
        ("1,000", "1000"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("(x+1)^2", "x^2 + 2x + 1"),
        (r"\{1, 2\}", r"\{2, 1\}"),
        ("[0,1)", "[0, 1)"),
        (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)"),
        ("x = 5", "5"),
        (r"2^{10}", "1024"),
        (r"\binom{5}{2}", "10"),
        (r"50\%", "0.5"),
        (r"90^\circ", "90"),
        (r"\text{A}", "A"),
        ("$7.0$", "7"),
    ],
)
def test_equal_answers_are_correct(grader: Grader, given: str, wanted: str) -> None:
    assert grader.grade(boxed(given), wanted).correct


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (r"\frac{1}{3}", "0.333"),
        ("(1,2)", "[1,2]"),
        (r"\{1, 2\}", r"\{1, 3\}"),
        ("2n+1", "2m+1"),
        ("a^b", "b^a"),
        ("n = 3k", "3"),
        (r"\pi", "3.14"),
        ("B", "C"),
        (r"\text{none}", "7"),
    ],
)
def test_unequal_answers_are_wrong(grader: Grader, given: str, wanted: str) -> None:
    assert grader.grade(boxed(given), wanted).correct is False


@pytest.mark.parametrize(
    ("given", "wanted", "correct"),
    [
        ("075", "75", True),
        ("+75", "$75$", True),
        ("-3", "3", False),
        ("0", "-0", True),
        ("9" * 900, "9", False),
        (r"\frac12", "0.5", True),
    ],
)
def test_numbers_are_compared_without_a_child(given: str, wanted: str, correct: bool) -> None:
    with Grader() as grader:
        assert grader.grade(boxed(given), wanted) == Verdict(correct, "exact", given)
        assert grader._child is None


@pytest.mark.parametrize("completion", ["", "The answer is 5.", r"It is \boxed{", r"\boxed{}"])
def test_a_completion_without_a_box_is_wrong(grader: Grader, completion: str) -> None:
    assert grader.grade(completion, "5") == Verdict(False, "none", None)


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        (r"<think>maybe \boxed{12}? no, since", Verdict(False, "cut in thought", None)),
        (r"<think>\boxed{12}?</think> No: \boxed{13}.", Verdict(False, "exact", "13")),
        (r"<think>\boxed{13}?</think> No: \boxed{12}.", Verdict(True, "exact", "12")),
        (r"<think>\boxed{12}</think> It is 12.", Verdict(False, "none", None)),
        (r"\boxed{13}?</think> No: \boxed{12}.", Verdict(True, "exact", "12")),
        (r"\boxed{12}</think> As said.", Verdict(False, "none", None)),
        (r"<think></think>\boxed{12}<think>or \boxed{13}", Verdict(False, "cut in thought", None)),
        (r"maybe \boxed{12}", Verdict(True, "exact", "12")),
    ],
)
def test_only_what_follows_the_thought_is_judged(grader: Grader, completion: str, verdict: Verdict) -> None:
    assert grader.grade(completion, "12") == verdict


@pytest.mark.parametrize("tiny", [r"\pi", r"\sqrt{2}"])
def test_very_small_numbers_are_not_all_equal(grader: Grader, tiny: str) -> None:
    assert not grader.grade(boxed(rf"10^{{-20}}{tiny}"), rf"10^{{-21}}{tiny}").correct
    assert grader.grade(boxed(rf"10^{{-20}}{tiny}"), rf"{tiny} \cdot 10^{{-20}}").correct


def test_the_last_box_counts(grader: Grader) -> None:
    assert grader.grade(r"First \boxed{4}, no: \boxed{5}", "5").correct
    assert not grader.grade(r"First \boxed{5}, no: \boxed{4}", "5").correct


def test_a_box_with_a_whole_text_is_wrong_at_once(grader: Grader) -> None:
    started = time.monotonic()
    assert not grader.grade(boxed("x+" * 50_000 + "x"), "x").correct
    assert time.monotonic() - started < 2


def test_an_endless_comparison_is_given_up_and_the_next_one_runs() -> None:
    with Grader(timeout_s=1.0) as grader:
        started = time.monotonic()
        assert grader.grade(ENDLESS, "3") == Verdict(False, "timeout", "9^{9^{9^9}}")
        assert time.monotonic() - started < 15
        assert grader.grade(boxed(r"2\sqrt{2}"), r"\sqrt{8}").correct


def test_an_endless_answer_is_tried_only_once() -> None:
    with Grader(timeout_s=1.0) as grader:
        grader.grade(ENDLESS, "3")
        started = time.monotonic()
        assert grader.grade("again " + ENDLESS, "3").method == "timeout"
        assert time.monotonic() - started < 0.5


def test_a_child_that_died_is_replaced_and_its_comparison_repeated() -> None:
    with Grader(timeout_s=20.0) as grader:
        grader.grade(boxed(r"2\sqrt{2}"), r"\sqrt{8}")
        os.kill(child_pid(grader), signal.SIGKILL)
        assert grader.grade(boxed(r"\sqrt{12}"), r"2\sqrt{3}") == Verdict(True, "math-verify", r"\sqrt{12}")


def test_it_works_in_a_thread() -> None:
    verdicts: list[Verdict] = []

    def judge() -> None:
        with Grader(timeout_s=1.0) as grader:
            verdicts.extend([grader.grade(boxed(r"2\sqrt{2}"), r"\sqrt{8}"), grader.grade(ENDLESS, "3")])

    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert [verdict.method for verdict in verdicts] == ["math-verify", "timeout"]


def test_closing_leaves_no_process() -> None:
    with Grader() as grader:
        grader.grade(boxed(r"2\sqrt{2}"), r"\sqrt{8}")
        pid = child_pid(grader)
        assert is_alive(pid)
    assert not is_alive(pid)


@pytest.mark.parametrize("last_words", ["time.sleep(60)", rf"grader.grade(r'{ENDLESS}', '3')"])
def test_a_killed_parent_leaves_no_process(tmp_path: Path, last_words: str) -> None:
    program = (
        "import time; from dail.synth.method.grading import Grader; "
        "grader = Grader(2.0); grader.grade(r'\\boxed{\\sqrt2}', '2^{1/2}');"
        f"print(grader._child.process.pid, flush=True); {last_words}"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    assert gone_within(pid, 60)  # it ends after 3 s of processor time, of which a loaded machine gives little


def test_a_users_own_files_do_not_shadow_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("synth", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with Grader() as grader:
        assert grader.grade(boxed(r"2\sqrt{2}"), r"\sqrt{8}").correct


@pytest.mark.parametrize(
    ("box", "correct"),
    [
        ("B", True),
        (r"\text{B}", True),
        ("(B)", True),
        ("B.", True),
        (r"\frac{1}{2}", True),
        ("0.5", True),
        (r"\text{(B) } 0.5", True),
        (r"\text{(B) } 0.7", True),
        ("1", False),
        (r"\text{(A) } \frac12", False),
        ("3", False),
        (r"4\text{ cm}", False),
        ("A", False),
    ],
)
def test_the_text_of_one_choice_names_it_as_its_letter_does(box: str, correct: bool) -> None:
    choices = ("1", "$1/2$", "4 cm", "4 cm")
    with Grader() as grader:
        verdict = grader.grade(rf"So \boxed{{{box}}}.", "B", choices=choices)
    assert (verdict.correct, verdict.extracted) == (correct, box)


def test_a_text_that_two_choices_have_names_neither_and_without_choices_a_text_is_no_letter() -> None:
    with Grader() as grader:
        assert not grader.grade(r"\boxed{4\text{ cm}}", "C", choices=("1", "2", "4 cm", "4 cm")).correct
        assert grader.grade(r"\boxed{4\text{ cm}}", "C", choices=("1", "2", "4 cm", "5 cm")).correct
        assert not grader.grade(r"\boxed{4\text{ cm}}", "C").correct
        assert not grader.grade(r"\boxed{A}", "C", choices=("O", "B", "A")).correct


def test_to_official_only_the_letter_as_text_counts() -> None:
    with Grader(reference="official") as grader:
        assert not grader.grade(r"\boxed{4}", "C", choices=("1", "2", "4")).correct


def test_the_child_ends_with_who_writes_to_it_even_while_it_sleeps(tmp_path: Path) -> None:
    """A verb that was killed closes no grader."""
    (tmp_path / "slow.py").write_text(
        "import subprocess, time\n"
        "def grade(completion, answer):\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    open(completion, 'w').write(str(child.pid))\n"
        "    time.sleep(600)\n"
    )
    child = Child(["dail.synth.method.grading", "500", GRADERS.pin(f"{tmp_path / 'slow.py'}:grade")])
    assert child.receive(lambda: False) is True
    with pytest.raises(TimeoutError):
        child.ask([str(tmp_path / "pid"), "5"], (tmp_path / "pid").exists, 0.1)
    started = int(wait_for_text(tmp_path / "pid"))
    assert child.process.stdin is not None
    child.process.stdin.close()
    assert child.process.wait(60) == -signal.SIGKILL
    until = time.monotonic() + 60
    while is_running(started) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(started)
    child.process.stdout.close()


def wait_for_text(path: Path) -> str:
    until = time.monotonic() + 60
    while not (path.exists() and path.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    return path.read_text()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
