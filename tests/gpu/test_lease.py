"""The driver, the kit and the plans, without a GPU."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.gpu.lease import END_OF_LOG, MIN_LEFT_S, Lease
from tests.gpu.plans import ARCHIVES, PLANS, SMALL, TINY, Step

KIT = ROOT / "tests" / "gpu"
# Reads one command's arguments a line, and lets the program they name read them and no more.
PARSE = """
import argparse, json, runpy, sys
import pytest
class Parsed(BaseException): ...
read = argparse.ArgumentParser.parse_args
def parse_args(self, *args, **kwargs):
    read(self, *args, **kwargs)
    raise Parsed
for line in sys.stdin:
    flag, name, *arguments = json.loads(line)
    if flag == "-c":
        compile(name, "-c", "exec")
    elif name == "pytest":
        assert pytest.main([*arguments, "--collect-only"]) == 0
    else:
        sys.argv = [name, *arguments]
        argparse.ArgumentParser.parse_args = parse_args
        try:
            runpy.run_module(name, run_name="__main__")
        except Parsed:
            pass
        else:
            sys.exit(f"{name} reads no arguments")
        argparse.ArgumentParser.parse_args = read
"""


def toy(name: str, code: str, needs: str = "", limit: int = 30, about: int = 1) -> Step:
    return Step(name, needs, about, limit, f"-c {shlex.quote(code)}")


def lines(lease: Lease) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lease.results.read_text().splitlines()]


def ends(lease: Lease) -> dict[str, int]:
    """Exit code of each step that ran, in order."""
    return {line["step"]: line["rc"] for line in lines(lease) if "rc" in line}


def is_gone(pid: int) -> bool:
    """Or dead, where nobody has asked how it ended. A kill takes effect when the process next gets a core."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    return Lease(tmp_path / "work")


def test_figures_are_kept_while_their_step_still_runs(lease: Lease):
    go_on = lease.work / "go-on"
    code = f"""
import json, pathlib, time
print("said")
print(json.dumps({{"n": 1}}))
while not pathlib.Path({str(go_on)!r}).exists():
    time.sleep(0.05)
"""
    thread = threading.Thread(target=lease.run, args=([toy("one", code)],))
    thread.start()
    until = time.monotonic() + 20
    while not (lease.results.exists() and any("n" in line for line in lines(lease))):
        assert time.monotonic() < until, "the figure never came"
        time.sleep(0.05)
    assert ends(lease) == {}
    go_on.touch()
    thread.join(20)
    assert ends(lease) == {"one": 0} and lines(lease)[0]["step"] == "one"
    assert lease.state.read_text().startswith("done")


def test_a_step_that_fails_leaves_the_end_of_its_log_and_the_next_one_runs(lease: Lease):
    assert lease.run([toy("bad", "print(*range(99), sep='\\n'); 1/0"), toy("good", "")]) == 1
    bad, good = lines(lease)
    assert (bad["rc"], good["rc"]) == (1, 0)
    assert len(bad["end of its log"]) == END_OF_LOG and "ZeroDivisionError" in bad["end of its log"][-2]
    assert "end of its log" not in good


def test_a_line_that_only_looks_like_figures_is_kept_as_it_was_said(lease: Lease):
    lease.run([toy("one", "print('{not json')")])
    assert lines(lease)[0]["said"] == "{not json"


def test_a_step_that_never_ends_is_killed_with_all_it_started(lease: Lease):
    code = """
import json, subprocess, time
print(json.dumps({"pid": subprocess.Popen(["sleep", "99"]).pid}))
time.sleep(99)
"""
    started = time.monotonic()
    assert lease.run([toy("endless", code, limit=2), toy("next", "")]) == 1
    assert time.monotonic() - started < 30
    assert ends(lease) == {"endless": -9, "next": 0}
    assert is_gone(lines(lease)[0]["pid"])


def test_what_a_step_leaves_running_ends_with_it(lease: Lease):
    code = "import json, subprocess; print(json.dumps({'pid': subprocess.Popen(['sleep', '99']).pid}))"
    assert lease.run([toy("one", code)]) == 0
    assert is_gone(lines(lease)[0]["pid"])


def test_a_late_archive_is_waited_for_and_others_go_first(lease: Lease):
    arrive = f"import pathlib; (pathlib.Path('{lease.site}') / 'late.ready').touch()"
    lease.site.mkdir(parents=True)
    threading.Timer(2, (lease.site / "later.ready").touch).start()
    plan = [toy("third", "", needs="later"), toy("second", "", needs="late"), toy("first", arrive)]
    assert lease.run(plan, 60) == 0
    assert list(ends(lease)) == ["first", "second", "third"]


def test_installed_packages_count_as_arrived(tmp_path: Path):
    lease = Lease(tmp_path, is_installed=True)
    assert lease.run([toy("one", "", needs=SMALL)]) == 0


def test_steps_that_do_not_fit_into_the_time_are_left_out(lease: Lease):
    assert lease.run([toy("long", "", about=999), toy("short", "")], MIN_LEFT_S + 20) == 1
    assert ends(lease) == {"short": 0}
    assert "skipped" in lines(lease)[-1] and lines(lease)[-1]["step"] == "long"


def test_a_rerun_skips_what_succeeded_and_repeats_what_failed_or_changed(lease: Lease):
    plan = [toy("good", ""), toy("bad", "1/0"), toy("changed", "")]
    assert lease.run(plan) == 1
    lease.results.rename(lease.work / "first")
    shutil.copy(lease.work / "first", lease.results)
    plan[2] = toy("changed", "2")
    assert lease.run(plan) == 1
    assert [line["step"] for line in lines(lease)] == ["good", "bad", "changed", "bad", "changed"]


def test_a_file_named_stop_ends_the_run_after_its_step(lease: Lease):
    assert lease.run([toy("one", f"open('{lease.stop}', 'w')"), toy("two", "")]) == 1
    assert ends(lease) == {"one": 0}
    assert lease.run([toy("one", ""), toy("two", "")]) == 0, "a new run does not mind an old stop"


def call(*command: object, **env: str) -> subprocess.CompletedProcess[str]:
    """With `python3` for this Python."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    arguments = list(map(str, command))
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=600, env={**os.environ, "PATH": path, **env}
    )


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """An archive in more than one part, as it is after all transfers."""
    (tmp_path / "tree" / "things").mkdir(parents=True)
    (tmp_path / "tree" / "things" / "noise").write_bytes(os.urandom(50_000))
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "1").mkdir()  # taken
    done = call(KIT / "seal.sh", tmp_path / "kit", "small", tmp_path / "tree", "things", PART="20K")
    assert done.returncode == 0, done.stderr
    assert sorted(one.name for one in (tmp_path / "kit").iterdir()) == ["1", "2", "3", "4", "sums"]
    arrived = tmp_path / "in"
    arrived.mkdir()
    for part in (tmp_path / "kit").glob("*/small.*"):
        shutil.copy(part, arrived)
    shutil.copy(tmp_path / "kit" / "sums", arrived)
    return arrived


def test_an_archive_in_parts_is_whole_again_once_all_are_there(parts: Path, tmp_path: Path):
    unpack = [KIT / "unpack.sh", parts, tmp_path / "site", "small"]
    (parts / "small.01").rename(tmp_path / "late")
    assert call(*unpack).returncode == 0 and not (tmp_path / "site" / "small.ready").exists()
    (tmp_path / "late").rename(parts / "small.01")
    assert call(*unpack).returncode == 0 and (tmp_path / "site" / "small.ready").exists()
    names = [folder / "things" / "noise" for folder in (tmp_path / "site", tmp_path / "tree")]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert [one.name for one in parts.iterdir()] == ["sums"]


def test_a_damaged_part_is_refused(parts: Path, tmp_path: Path):
    data = bytearray((parts / "small.01").read_bytes())
    data[100] ^= 1
    (parts / "small.01").write_bytes(data)
    done = call(KIT / "unpack.sh", parts, tmp_path / "site", "small")
    assert done.returncode != 0 and "small.01" in done.stdout + done.stderr
    assert not (tmp_path / "site" / "small.ready").exists()


def test_the_packed_project_is_imported_from_its_folders(tmp_path: Path):
    done = call(KIT / "pack.sh", "--project", tmp_path / "kit")
    assert done.returncode == 0, done.stderr
    assert {one.name for one in (tmp_path / "kit" / "1").iterdir()} == {"project.tar.xz", "begin.sh", "sums"}
    shutil.unpack_archive(tmp_path / "kit" / "1" / "project.tar.xz", tmp_path / "machine", filter="fully_trusted")
    site = tmp_path / "machine" / "site" / "project"
    code = """
import importlib.metadata, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import dail.serve.cli, dail.synth.engine.versions, dail.train.config, tests.bench.shapes
from dail.synth.core.config import TOOL_VERSION
print(dail.synth.engine.versions.__file__)
print(tests.bench.shapes.__file__)
print(TOOL_VERSION, *(one.partition(">")[0] for one in importlib.metadata.requires("dail")))
"""
    env = {"PYTHONPATH": f"{tmp_path / 'machine' / 'repo'}:{site}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    room, bench, known = done.stdout.splitlines()
    assert room.startswith(str(site)) and bench.startswith(str(tmp_path / "machine" / "repo"))
    assert {"pydantic", "torch", "packaging"} <= set(known.split())


def test_every_step_names_a_program_that_accepts_its_arguments():
    steps = {step for plan in PLANS.values() for step in plan}
    commands = "".join(f"{json.dumps(arguments)}\n" for arguments in sorted(step.arguments for step in steps))
    done = subprocess.run([sys.executable, "-c", PARSE], input=commands, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_has_no_name_twice_and_needs_archives_that_there_are(plan: str):
    steps = PLANS[plan]
    assert len({step.name for step in steps}) == len(steps)
    assert {step.needs for step in steps} <= {"", *ARCHIVES}
    assert all(step.about <= step.limit for step in steps)


@pytest.mark.soak
def test_the_tiny_plan_runs_on_a_cpu_from_the_kit_on(tmp_path: Path):
    work, out = tmp_path / "lease", tmp_path / "out"
    (work / "site").mkdir(parents=True)
    out.mkdir()
    env = {"LEASE": str(work), "OUT": str(out), "OMP_NUM_THREADS": "1"}
    assert call(KIT / "pack.sh", "--project", tmp_path / "kit").returncode == 0
    for name in ARCHIVES:  # this Python has what would be in them
        (work / "site" / f"{name}.ready").touch()
    said = [call("bash", tmp_path / "kit" / "1" / "begin.sh", "tiny", "2500", **env)]
    until = time.monotonic() + 2600
    while not (out / "state.txt").read_text().startswith("done") and time.monotonic() < until:
        said.append(call("bash", work / "repo" / "tests" / "gpu" / "more.sh", "60", **env))
    assert all(one.returncode == 0 for one in said), said[-1]
    figures = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    codes = {line["step"]: line["rc"] for line in figures if "rc" in line}
    assert codes == {step.name: 0 for step in TINY} | {"one that fails": 1, "one that never ends": -9}
    assert [line["all_equal"] for line in figures if "all_equal" in line] == [True, True]
    assert not any("failed" in line for line in figures)
    lies_at = next(line["dail.synth lies at"] for line in figures if "dail.synth lies at" in line)
    assert lies_at.startswith(str(work / "site" / "project"))
