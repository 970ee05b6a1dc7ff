"""Every room has a README, whose example runs and prints what it says, and whose names are there."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import shlex
import textwrap
from functools import cache
from pathlib import Path

import click
import pytest

from dail.serve.cli import dail
from tests.conftest import ROOT

FOLDERS = [ROOT / name for name in ("train", "train/evals", "train/studies", "serve", "deploy", "tests", "synth")]
FOLDERS += sorted(path.parent for path in (ROOT / "synth").glob("*/__init__.py"))
ROOMS = [str(folder.relative_to(ROOT)) for folder in FOLDERS]
SOURCES = ("synth", "train", "serve", "tests")

_EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n+It prints\n+```text\n(.*?)```)?", re.DOTALL)
_FILE = re.compile(r"(?<![\w./*])[\w.-]+(?:/[\w.-]+)*\.(?:py|sh|toml|jinja|jsonl)\b")
_WRITTEN = {"problems.jsonl", "samples.jsonl", "metrics.jsonl", "ledger.jsonl"}  # by a run, not part of the tree
_WRITTEN |= {"train.jsonl", "validation.jsonl", "flagged.jsonl"}
_NAME = re.compile(r"`([A-Z][a-z]\w+)(?:\.(\w+))?`")
_MODULE = re.compile(r"\bdail(?:\.\w+)+")
_LINK = re.compile(r"\]\(([^)#:]+)\)")


def readme(room: str) -> str:
    return (ROOT / room / "README.md").read_text("utf-8")


@pytest.mark.parametrize("room", ROOMS)
def test_the_example_prints_what_it_says(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (code, prints), *others = _EXAMPLE.findall(readme(room))
    assert not others
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")  # as from a clone's root, and nothing is written into it
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, f"{room}/README.md", "exec"), {"__name__": "example"})
    assert said.getvalue() == prints


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_that_is_named_is_there(room: str):
    text = _EXAMPLE.sub("", readme(room))
    places = [ROOT / room, *(place for place in (ROOT / room).parents if place.is_relative_to(ROOT))]
    named = {*_FILE.findall(text), *_LINK.findall(text)} - _WRITTEN
    assert [name for name in named if not any((place / name).is_file() for place in places)] == []
    assert [name for name in _MODULE.findall(text) if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_class_and_method_that_is_named_is_there(room: str):
    known = classes()
    named = _NAME.findall(_EXAMPLE.sub("", readme(room)))
    assert [name for name in named if name[0] not in known or (name[1] and name[1] not in known[name[0]])] == []


@cache
def classes() -> dict[str, set[str]]:
    """Of each class, and each type with a name, what stands in it."""
    found: dict[str, set[str]] = {}
    for path in (path for room in SOURCES for path in (ROOT / room).rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                functions = {
                    part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
                }
                fields = {ast.unparse(part.target) for part in node.body if isinstance(part, ast.AnnAssign)}
                found.setdefault(node.name, set()).update(functions | fields)
            elif isinstance(node, ast.Assign):
                found.setdefault(ast.unparse(node.targets[0]), set())
    return found


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_both_front_pages_lead_to_every_room(file: str):
    links = set(_LINK.findall((ROOT / file).read_text("utf-8")))
    assert {f"{room}/README.md" for room in ROOMS} <= links


# Files where something starts: their heads have what to paste.
HEADS = (
    "synth/commands.py",
    "synth/engine/vllm.py",
    "synth/export/commands.py",
    "synth/export/export.py",
    "synth/export/push.py",
    "synth/rollout/pair.py",
    "synth/run/local.py",
    "synth/run/selection.py",
    "synth/run/several.py",
    "synth/run/worker.py",
    "train/commands.py",
    "train/evals/evaluation.py",
    "train/loop.py",
    "train/merging.py",
    "train/studies/calibration.py",
    "train/studies/calibrate_commands.py",
    "serve/app.py",
    "serve/cli.py",
    "serve/demo.py",
)
_COMMAND = re.compile(r"^    dail ([a-z]+)([^#\n]*)", re.MULTILINE)
_CODE = re.compile(r"^    (?:import|from) .*(?:\n    .+)*", re.MULTILINE)


@pytest.mark.parametrize("file", HEADS)
def test_what_a_head_offers_to_paste_is_there(file: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    head = ast.get_docstring(ast.parse((ROOT / file).read_text("utf-8")), clean=False) or ""
    commands, blocks = _COMMAND.findall(head), list(map(textwrap.dedent, _CODE.findall(head)))
    assert commands or blocks
    for verb, arguments in commands:
        known = {option for one in command(verb).params for option in one.opts} | {"--help"}
        assert {word for word in shlex.split(arguments) if word.startswith("--")} <= known
    for block in blocks:
        whole = ast.parse(block)
        imports = [node for node in whole.body if isinstance(node, ast.Import | ast.ImportFrom)]
        runs = 'kind="fake"' in block  # others need vLLM, a manifest or a port
        exec(compile(whole if runs else ast.Module(imports, []), file, "exec"), {})


def command(verb: str) -> click.Command:
    found = dail.get_command(click.Context(dail), verb)
    assert found is not None, verb
    return found
