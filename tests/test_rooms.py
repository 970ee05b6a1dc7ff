"""What holds for the tree as a whole: light starts, a table of verbs, no shadowed rooms, one file that knows vLLM."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dail.serve.cli import VERBS
from dail.synth.core.door import opener
from tests.conftest import ROOT

DAIL = Path(sys.executable).parent / "dail"
HEAVY = {"torch", "ray", "vllm", "transformers", "peft"}
ROOMS = ("synth", "train", "serve")


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=120)


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text("utf-8"))


def importers(package: str) -> set[str]:
    """Files of the rooms that import the package anywhere, in functions too."""
    return {str(path) for path, tree in modules(*ROOMS) if package in set(_imports(tree))}


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def imported_by(code: str) -> set[str]:
    """The heavy packages that a fresh process has loaded after the code."""
    done = run(sys.executable, "-c", f"{code}\nimport sys; print(*({HEAVY} & set(sys.modules)))", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


def test_the_contracts_between_rooms_need_no_heavy_package():
    names = sorted(
        f"{room}.{path.stem}" for room in ("core", "schema") for path in (ROOT / "synth" / room).glob("[!_]*.py")
    )
    assert imported_by("import " + ", ".join(f"dail.synth.{name}" for name in names)) == set()


DOORS = ("dail.synth", "dail.train", "dail.train.evals", "dail.train.studies")


@pytest.mark.parametrize("door", DOORS)
def test_a_door_loads_nothing_until_a_name_is_used(door: str):
    assert imported_by(f"import {door} as door; dir(door); 'nothing' in vars(door)") == set()
    assert run(sys.executable, "-c", f"import sys, {door}; sys.exit('numpy' in sys.modules)").returncode == 0


@pytest.mark.parametrize("door", DOORS)
def test_a_door_has_what_it_names(door: str):
    module = importlib.import_module(door)
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{door}' has no attribute 'nothing'"):
        _ = module.nothing


def test_a_door_says_what_to_install_where_a_package_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "no_such_package", None)
    find = opener("dail.synth", {"synthesise": "no_such_package"}, "worker")
    with pytest.raises(ImportError, match=r"needs the package no_such_package; run: pip install 'dail\[worker\]'"):
        find("synthesise")


# Verbs and what is theirs may do all of it. Elsewhere there are three exceptions: child processes that are started to
# grade and to unpack, and Ray, which takes SIGTERM for itself and must give it back.
VERBS_OWN = {
    "serve/begun.py",
    "serve/cli.py",
    "serve/commands.py",
    "serve/demo.py",
    "serve/first_trace.py",
    "serve/judged.py",
    "serve/loop.py",
    "serve/paper/commands.py",
    "serve/paper/plan.py",
    "serve/paper/steps.py",
    "serve/store_commands.py",
    "serve/token_commands.py",
    "serve/waiting.py",
    "serve/orphan_commands.py",
    "synth/commands.py",
    "synth/core/console.py",
    "synth/export/commands.py",
    "serve/listing.py",
    "train/commands.py",
    "train/evals/commands.py",
    "train/studies/calibrate_commands.py",
    "train/studies/curate_commands.py",
}
EXCEPTIONS = {
    "serve/parquet_rows.py": {"sys.stdin.buffer.read", "sys.stdout.buffer.flush", "sys.stdout.buffer.write"},
    "synth/method/grading.py": {"signal.setitimer"},
    "synth/run/ray_cluster.py": {"signal.getsignal", "signal.signal"},
}
_OUTWARD = re.compile(r"print|(.+\.)?(chdir|fchdir|redirect_std(out|err)|add_signal_handler)|signal\..+|sys\.std.+")


def test_only_verbs_print_handle_signals_or_change_the_process():
    found = {
        str(path): calls
        for path, tree in modules(*ROOMS)
        if str(path) not in VERBS_OWN
        and (calls := {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)})
        and (calls := {name for name in calls if _OUTWARD.fullmatch(name)})
    }
    assert found == EXCEPTIONS


def test_only_verbs_know_the_console():
    ours = {
        str(path)
        for path, tree in modules(*ROOMS)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and any(f"{node.module}.{name.name}.".startswith("dail.synth.core.console.") for name in node.names)
    }
    # a rank on Ray is a process of its own, which speaks for itself
    assert ours - VERBS_OWN == {"train/ray_train.py"}


def test_the_list_of_verbs_is_instant_and_loads_nothing_heavy():
    times = []
    for _ in range(3):
        started = time.monotonic()
        assert run(DAIL, "--help").stdout.count("\n") > len(VERBS)
        times.append(time.monotonic() - started)
    assert min(times) < 1.0
    assert imported_by("import dail.serve.cli as c; c.dail.main(['--help'], standalone_mode=False)") == set()


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_loads_no_heavy_package(verb: str):
    code = f"import dail.serve.cli as c; c.dail.main([{verb!r}, '--help'], standalone_mode=False)"
    assert imported_by(code) == set()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_away_from_home(verb: str, tmp_path: Path):
    for room in ROOMS:
        (tmp_path / f"{room}.py").write_text("raise SystemExit('the user s own file was imported')")
    done = run(DAIL, verb, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: dail {verb} ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["synth", "--nonsense"], ["train"]])
def test_wrong_usage_exits_with_2_and_no_traceback(arguments: list[str]):
    done = run(DAIL, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr and "Traceback" not in done.stderr


def test_the_version_is_said():
    assert run(DAIL, "--version").stdout.startswith("dail, version ")


def test_one_file_knows_vllm_and_five_know_ray():
    assert importers("vllm") == {"synth/engine/vllm.py"}
    assert importers("ray") == {
        "synth/run/actor.py", "synth/run/cluster_map.py", "synth/run/pool.py", "synth/run/ray_cluster.py",
        "train/ray_train.py",
    }  # fmt: skip


def test_only_the_trainer_knows_peft():
    assert all(name.startswith("train/") for name in importers("peft"))


@pytest.mark.parametrize("folder", [*ROOMS, "deploy"])
def test_every_file_says_what_it_is_for(folder: str):
    assert [str(path) for path, tree in modules(folder) if tree.body and not ast.get_docstring(tree)] == []
