"""What a verb says: bars on a terminal, a line now and then elsewhere, JSON alone on standard output."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from dail.synth.core import console
from dail.synth.core.bars import live_bar
from dail.synth.core.console import console_bar, emit, logged_as, say, speaking, stop_on_signals
from dail.synth.core.errors import ApiError, DailError, EngineDead, ExtensionError, UsageError
from dail.synth.core.logs import tell
from dail.synth.core.progress import Progress, progress, told_to, waiting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`clock[0]` is the time."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_comes_every_30_s_and_at_the_end(clock: list[float], capsys: pytest.CaptureFixture):
    with console_bar("units", 100) as bar:
        for second in range(100):
            clock[0] = 1000.0 + second
            bar.update(second, tokens_per_s=1234.5, share=0.25)
        bar.update(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "units: 30/100  tokens/s 1234  share 0.25  time left 70 s",
        "units: 60/100  tokens/s 1234  share 0.25  time left 40 s",
        "units: 90/100  tokens/s 1234  share 0.25  time left 10 s",
        "units: 100/100    time left 0 s",
    ]


def test_the_end_is_said_once_however_often_it_is_shown(clock: list[float], capsys: pytest.CaptureFixture):
    with console_bar("units", 2) as bar:
        for _ in range(20):
            clock[0] += 1
            bar.update(2)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_total_that_grows_moves_the_end(clock: list[float], capsys: pytest.CaptureFixture):
    with console_bar("units", 1) as bar:
        bar.update(1)
        bar.update(1, 3)
        bar.update(2, 3)
        bar.update(3, 3)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["1/1", "3/3"]


def test_with_nothing_done_the_time_left_is_unknown(clock: list[float], capsys: pytest.CaptureFixture):
    with console_bar("units", 5) as bar:
        clock[0] += 31
        bar.update(0)
    assert capsys.readouterr().err == "units: 0/5    time left unknown\n"


def test_the_time_left_counts_neither_the_start_nor_what_an_earlier_run_did(
    clock: list[float], capsys: pytest.CaptureFixture
):
    with console_bar("units", 100) as bar:
        clock[0] += 40  # an engine starts
        bar.update(50)
        clock[0] += 30
        bar.update(60)
    assert [line.split("time left ")[1] for line in capsys.readouterr().err.splitlines()] == ["unknown", "120 s"]


def test_nothing_but_json_reaches_standard_output(clock: list[float], capsys: pytest.CaptureFixture):
    with console_bar("units", 1) as bar:
        bar.update(1)
    say("a line for people")
    emit({"path": Path("a/é"), "text": "two\nlines \u2028"})
    emit([1])
    out = capsys.readouterr().out
    assert [json.loads(line) for line in out.split("\n")[:-1]] == [{"path": "a/é", "text": "two\nlines \u2028"}, [1]]


def test_what_json_does_not_know_is_emitted_as_null(capsys: pytest.CaptureFixture):
    emit({"loss": float("nan"), "best": [float("-inf"), 0.5]})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "best": [None, 0.5]}


def test_on_a_terminal_the_bar_stays_on_standard_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    with console_bar("units", 2) as bar:
        bar.update(1, failed=1)
        bar.update(2, failed=0)
    captured = capsys.readouterr()
    assert "2/2" in captured.err
    assert captured.out == ""


FIGURES = ["items 43/128", "running 164", "tokens/s 1290", "student share 0.944"]


def drawn(width: int, title: str, figures: list[str], total: int = 256) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = live_bar(screen)
    bar.update(bar.add_task(title, total=total, figures=()), completed=43, figures=figures)
    screen.print(bar.get_renderable())
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 250])
def test_the_bar_and_every_figure_are_seen_however_narrow_the_terminal_is(width: int):
    lines = drawn(width, "units", FIGURES)
    assert lines[0].startswith("units ━╸") and "43/256 -:--:--" in lines[0]
    assert all(sum(figure in line for line in lines) == 1 for figure in FIGURES)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) == {40: 3, 60: 3, 80: 2}.get(width, 1)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_long_names_take_neither_the_bar_nor_the_count_from_it(width: int):
    first, *figures = drawn(width, "judging " + "Qwen2.5-" * 20, ["arm " + "题" * 200, "loss 0.1"], 100_000)
    assert first.startswith("judging") and "43/100000" in first
    assert [cell_len(line) <= width for line in figures] == [True] * len(figures)
    assert "…" in figures[0] and any("loss 0.1" in line for line in figures)


def test_a_wait_says_at_once_what_for_and_behind_it_how_long_it_took(clock, capsys: pytest.CaptureFixture):
    with speaking(), waiting("starting Ray"):
        assert capsys.readouterr().err == "starting Ray …\n"
        clock[0] += 26
    assert capsys.readouterr().err == "starting Ray: done in 26 s\n"


def test_a_long_wait_is_said_again_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    told = threading.Event()
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.01)
    monkeypatch.setattr(console, "say", lambda text: told.set() if "so far" in text else None)
    with speaking(), waiting("starting Ray"):
        assert told.wait(30)


def test_on_a_terminal_a_wait_turns_and_leaves_no_line_if_it_was_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    with speaking(), waiting("starting Ray"):
        pass
    captured = capsys.readouterr()
    assert "starting Ray" in captured.err and "done in" not in captured.err and captured.out == ""


def test_nobody_hears_of_a_wait_in_a_library_call(capsys: pytest.CaptureFixture):
    with waiting("starting Ray"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_verb_shows_what_the_library_logs_and_how_far_it_is(capsys: pytest.CaptureFixture):
    log = logging.getLogger("dail.synth.run.local")
    with speaking():
        log.info("resuming")
        log.warning("gamma is large")
        log.error("an engine died")
        with progress("units", 2) as bar:
            bar.update(2)
    log.warning("nobody shows this")
    with progress("units", 2) as bar:
        bar.update(2)
    lines = ["resuming", "warning: gamma is large", "an engine died", "units: 2/2    time left 0 s"]
    assert capsys.readouterr() == ("", "".join(f"{line}\n" for line in lines))


def test_a_callback_is_told_of_its_own_call_alone(capsys: pytest.CaptureFixture):
    outer: list[Progress] = []
    inner: list[Progress] = []
    with told_to(outer.append):
        with told_to(inner.append), progress("inner", 3) as bar:
            bar.update(1, 4, loss=0.5)
        with told_to(None), progress("outer", 2) as bar:
            bar.update(2)
    assert inner == [Progress("inner", 1, 4, {"loss": 0.5})]
    assert outer == [Progress("outer", 2, 2, {})]
    assert capsys.readouterr() == ("", "")


ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_that_listens_and_else_ends_the_verb(number: signal.Signals):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        with pytest.raises(ENDS[number]):
            os.kill(os.getpid(), number)
        assert not stop.is_set()
        with stop.listened_to():
            os.kill(os.getpid(), number)
            assert (stop.is_set(), stop.signal) == (True, number)
            os.kill(os.getpid(), number)  # it is stopping already
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("has_echo", [False, True])
def test_a_second_signal_may_end_the_verb_at_once_but_not_what_torchrun_passes_on(
    number: signal.Signals, has_echo: bool, clock: list[float], monkeypatch: pytest.MonkeyPatch
):
    if has_echo:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with stop_on_signals(second_ends=True) as stop, stop.listened_to():
        for clock[0] in (1000.0, 1000.1, 1000.2) if has_echo else (1000.0,):
            os.kill(os.getpid(), number)
            assert (stop.is_set(), stop.signal) == (True, number)
        clock[0] = 1001.5 if has_echo else 1000.0
        with pytest.raises(ENDS[number]) as ended:
            os.kill(os.getpid(), number)
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == 143


STEERING = "\x1b[31m\x9b31m\u202e\u2028\u200b\x00\r"


def test_what_others_wrote_steers_no_terminal(capsys: pytest.CaptureFixture):
    say(f"Zürich 𝔽₂\n\tand{STEERING}\xa0so on")
    assert capsys.readouterr().err == "Zürich 𝔽₂\n\tand[31m31m   so on\n"
    emit({"a": f"Zürich 𝔽₂{STEERING}\U000e0001"})
    out = capsys.readouterr().out
    assert out.count("\n") == 1 == len(out.splitlines()) and out.strip().isprintable() and "Zürich 𝔽₂" in out
    assert json.loads(out) == {"a": f"Zürich 𝔽₂{STEERING}\U000e0001"}


def test_for_machines_standard_error_is_the_log_alone(capsys: pytest.CaptureFixture):
    log = logging.getLogger("dail.synth.run")
    with speaking():
        with logged_as("json", worker="w1") as told, progress("units", 2) as bar:
            told("it starts")
            tell("leased", unit_id="u1")
            log.info("shards go there")
            bar.update(2)
            print("(raylet) a worker died", file=sys.stderr)
        log.info("and now for people")
    *lines, last = capsys.readouterr().err.splitlines()
    assert last == "and now for people"
    found = [json.loads(line) for line in lines]
    assert [(one["event"], one["worker"], one.get("detail")) for one in found] == [
        ("message", "w1", "it starts"), ("leased", "w1", None), ("message", "w1", "shards go there"),
        ("message", "w1", "(raylet) a worker died"),
    ]  # fmt: skip
    with speaking(), logged_as("text", worker="w1") as told:
        told("it starts")
        tell("leased", unit_id="u1")
    assert capsys.readouterr().err == "it starts\n"


@pytest.mark.parametrize("kind", [UsageError, ApiError, EngineDead, DailError, ExtensionError, ValueError])
def test_for_machines_an_error_ends_the_verb_with_its_code_and_others_words_are_not_repeated(
    kind: type[Exception], capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as ended, logged_as("json"):
        raise kind("It is 2.")
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert ended.value.code == getattr(kind, "exit_code", 1) and line["level"] == "error"
    if kind in (UsageError, ApiError):
        assert line["detail"] == "It is 2."
    else:
        assert (line["event"], line["code"], line["error"]) == (
            "verb_failed", getattr(kind, "code", "internal"), kind.__name__,
        )  # fmt: skip
        assert "It is 2." not in json.dumps(line)
    with pytest.raises(kind), logged_as("text"):
        raise kind("It is 2.")
