"""What a reference in a setting means: a name, a file, a module; and that its source stays what it was."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dail.synth.core.config import Config
from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import Extension, Reference, label
from tests.conftest import install_package

RULES = Extension("acceptance rule", "dail.acceptance", ("absolute", "topk"))
PROMPTS = Extension("set of prompts", "dail.prompts", ("paper",), files="*.jinja")
SOURCE = "def twice(number):\n    return 2 * number\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with an entry point, as pip leaves one."""
    folder = tmp_path / "site"
    (folder / "mathlaw" / "deep").mkdir(parents=True)
    (folder / "mathlaw" / "__init__.py").write_text("raise AssertionError('hashing imports nothing')")
    (folder / "mathlaw" / "deep" / "rules.py").write_text(SOURCE)
    install_package(folder, "mathlaw", "[dail.acceptance]\ndouble = mathlaw.deep.rules:twice\n")
    monkeypatch.syspath_prepend(folder)
    return str(folder / "mathlaw")


def test_a_function_of_a_file(file: Path):
    pinned = RULES.pin(f"{file}:twice")
    assert pinned.startswith(f"{file}:twice#") and RULES.pin(pinned) == pinned
    assert RULES.load(pinned)(4) == 8
    assert label(pinned) == "twice#" + pinned.partition("#")[2]


def test_what_is_built_in_is_its_own_label():
    assert RULES.pin("topk") == label("topk") == "topk"


def test_an_entry_point_is_hashed_with_its_package_and_without_an_import(installed: str):
    pinned = RULES.pin("double")
    Path(installed, "other.py").write_text("x = 1")
    with pytest.raises(UsageError, match=r"acceptance rule double has source \w{16}, wanted \w{16}: it changed"):
        RULES.pin(pinned)
    Path(installed, "__init__.py").write_text("")
    assert RULES.load("double")(1) == RULES.load("mathlaw.deep.rules:twice")(1) == 2
    assert RULES.check_name("double") == "double"
    with pytest.raises(UsageError, match=r"known are absolute, topk, double; your own is FILE\.py:NAME"):
        RULES.pin("doubel")


def test_a_changed_file_is_refused(file: Path):
    pinned = RULES.pin(f"{file}:twice")
    file.write_text(SOURCE.replace("2", "3"))
    with pytest.raises(UsageError, match="it changed since this began; restore it, or begin anew"):
        RULES.load(pinned)
    assert RULES.load(f"{file}:twice")(4) == 12


def test_a_file_changed_within_a_second_is_loaded_as_it_is(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    stamp = file.stat().st_mtime
    assert RULES.load(RULES.pin(f"{file}:twice"))(4) == 8
    file.write_text(SOURCE.replace("2", "3"))
    os.utime(file, (stamp, stamp))
    assert RULES.load(RULES.pin(f"{file}:twice"))(4) == 12


def test_the_same_source_elsewhere_has_the_same_label(file: Path, tmp_path: Path):
    (tmp_path / "there").mkdir()
    moved = (tmp_path / "there" / "mine.py").write_text(SOURCE)
    assert moved
    assert label(RULES.pin(f"{file}:twice")) == label(RULES.pin(f"{tmp_path}/there/mine.py:twice"))


def test_a_folder_of_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "law").mkdir()
    with pytest.raises(UsageError, match=r"there is no folder with \*\.jinja files; known are paper; .* a FOLDER"):
        PROMPTS.pin(f"{tmp_path}/law")
    (tmp_path / "law" / "student.jinja").write_text("{{ problem }}")
    pinned = PROMPTS.pin(f"{tmp_path}/law")
    monkeypatch.chdir(tmp_path)
    assert PROMPTS.pin("law") == pinned
    assert PROMPTS.load(pinned) == tmp_path / "law" and label(pinned).startswith("law#")
    (tmp_path / "law" / "student.jinja").rename(tmp_path / "law" / "privileged_student.jinja")
    with pytest.raises(UsageError, match="it changed"):
        PROMPTS.pin(pinned)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nothing", "there is no acceptance rule 'nothing'; known are absolute, topk"),
        ("no_such_module_at_all:rule", "there is no module no_such_module_at_all to import; install it, or give FILE"),
        ("/nowhere/mine.py:rule", "there is no file /nowhere/mine.py"),
        (":rule", "is not FILE.py:NAME or MODULE:NAME"),
        ("mine.py:", "is not FILE.py:NAME or MODULE:NAME"),
        ("json:no_such_name", "json has nothing named no_such_name; check its spelling"),
        ("this.is:json.nothing", "this.is:json.nothing cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_not_there_is_named(reference: str, message: str):
    with pytest.raises(UsageError, match=message):
        RULES.load(reference)


def test_a_file_that_fails_is_named_with_its_error(tmp_path: Path):
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(UsageError, match=r"bad.py:rule cannot be imported: ZeroDivisionError: division by zero"):
        RULES.load(f"{tmp_path}/bad.py:rule")


@pytest.mark.parametrize("reference", ["/etc/x.py:f", "os:system", "../x.py:f", "x.py:f#12", "./folder", ""])
def test_nothing_but_a_name_comes_over_the_network(reference: str):
    with pytest.raises(ValueError, match="runs no file that a request names"):
        RULES.check_name(reference)


def test_a_path_in_a_setting_is_absolute(file: Path, monkeypatch: pytest.MonkeyPatch):
    class Settings(Config):
        rule: Reference = "absolute"

    monkeypatch.chdir(file.parent)
    assert Settings(rule="mine.py:twice").rule == f"{file}:twice"
    assert Settings(rule="./law#12").rule == f"{file.parent}/law#12"
    assert [Settings(rule=same).rule for same in ("double", "pkg.rules:twice")] == ["double", "pkg.rules:twice"]


def test_two_processes_agree_about_a_source(file: Path):
    code = (
        "import sys; from dail.synth.core.extensions import Extension;"
        "print(Extension('rule', 'g', ()).load(sys.argv[1])(21))"
    )
    pinned = RULES.pin(f"{file}:twice")
    done = subprocess.run([sys.executable, "-c", code, pinned], capture_output=True, text=True, cwd=file.parent)
    assert done.stdout == "42\n", done.stderr


def test_entry_points_that_clash_are_told(monkeypatch: pytest.MonkeyPatch):
    twice = [importlib.metadata.EntryPoint("rule", value, "dail.acceptance") for value in ("a:rule", "b:rule")]
    monkeypatch.setattr("dail.synth.core.extensions.entry_points", lambda **_: twice)
    with pytest.raises(UsageError, match=r"declared 2 times \(a:rule, b:rule\); give MODULE:NAME"):
        RULES.pin("rule")
