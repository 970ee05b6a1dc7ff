"""The wheel, built and installed: bare from the registry, and with each extra in an environment of what it names.

An extra's packages are hundreds of megabytes and lie in the tests' own environment already. So its environment is made
of links to exactly the distributions that its requirements reach: what is not declared is not there to be imported.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dail.serve.cli import VERBS
from tests.conftest import DEMO_MODEL, ROOT

pytestmark = pytest.mark.timeout(600)

PACKAGES = ("synth", "train", "serve")
DATA = ("configs", "paper")  # folders of deploy/ that are packages
# Extras, the packages they are for, and what those import that another brings: vLLM, with torch, is chosen by the
# machine (deploy/setup.sh), and `dail train --ray-workers` asks for the extra with Ray.
EXTRAS: list[tuple[str, list[str], set[str]]] = [
    ("worker", ["synth"], {"vllm", "torch", "datasets"}),
    ("train", ["train"], {"ray", "bitsandbytes", "sentence_transformers", "trl", "datasets"}),  # of bnb, curate and rl
    ("cluster", ["serve"], set()),
    ("rl,cluster,curate", ["train"], {"bitsandbytes"}),  # rl holds train
    ("data", ["synth/export"], {"transformers"}),  # tries texts with it, if a model is named
]
# One wrong call of each verb, which gets past the reading of options.
WRONG = {
    "demo": ["--dir", "taken"],
    "serve": ["--model", "m=nowhere"],
    "worker": ["--model", "nowhere", "--api", "nonsense"],
    "submit": ["nowhere.jsonl"],
    "watch": ["none", "--api", "http://127.0.0.1:9"],
    "results": ["none", "--api", "http://127.0.0.1:9"],
    "list": ["--api", "http://127.0.0.1:9"],
    "cancel": ["none", "--api", "http://127.0.0.1:9"],
    "retry": ["none", "--api", "http://127.0.0.1:9"],
    "delete": ["none", "--api", "http://127.0.0.1:9"],
    "workers": ["--api", "http://127.0.0.1:9"],
    "token": ["list", "--data-dir", "nowhere"],
    "store": ["check", "--data-dir", "nowhere"],
    "orphans": ["--data-dir", "nowhere"],
    "synth": ["nowhere.jsonl", "--out", "out", "--model", "nowhere"],
    "doctor": ["nowhere.jsonl", "--model", "nowhere"],
    "inspect": ["nowhere"],
    "select": ["nowhere", "--keep", "first_correct"],
    "waypoints": ["nowhere.jsonl"],
    "prompts": ["import", "nowhere", "--out", "out"],
    "train": ["--model", "nowhere", "--manifest", "nowhere", "--out", "out"],
    "cache": ["--model", "nowhere", "--manifest", "nowhere", "--references", "out"],
    "grpo": ["nowhere.jsonl", "--out", "out", "--model", "nowhere"],
    "loop": ["nowhere.jsonl", "--out", "out", "--model", "nowhere"],
    "paper": ["--table", "5"],
    "average": ["nowhere", "--out", "out"],
    "merge": ["nowhere", "--model", "nowhere", "--out", "out"],
    "calibrate": ["nowhere.jsonl", "--out", "out", "--model", "nowhere"],
    "eval": ["--model", "taken", "--problems", "nowhere", "--out", "out"],
    "curate": ["nowhere.jsonl", "--out", "out", "--model", "taken"],
    "compare": ["nowhere", "other"],
    "export": ["nowhere", "--for", "trl-sft", "--out", "out"],
    "push": ["nowhere", "--to", "me/traces"],
    "settings": ["nowhere"],
    "completion": ["tcsh"],
}
# Every verb in one process: its help, then its wrong call. One JSON line each: what was run, exit code, what was said.
CALLS = """
import contextlib, io, json, sys
from dail.serve.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["dail", *arguments]
    said = io.StringIO()
    code = None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        except BaseException as error:
            print(f"Traceback: {error!r}")
    print(json.dumps([arguments, code, said.getvalue()]))
"""


def run(*command: object, cwd: Path | None = None, timeout: int = 500, **env: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | env
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What packages are built from, as a copy, since a build leaves folders behind."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in DATA:
        shutil.copytree(ROOT / "deploy" / name, source / "deploy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def released(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built of it alone, as CONTRIBUTING.md says of a release."""
    folder = tmp_path_factory.mktemp("released")
    copy = shutil.copytree(source, tmp_path_factory.mktemp("again") / "source")
    (copy / "runs").mkdir()
    (copy / "runs" / "mine.jsonl").write_text("{}")
    (copy / ".env").write_text("DAIL_TOKEN=secret")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy)
    (sdist,), (built,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, built


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ".", cwd=source)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_all_of_dail_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {
        f"dail/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    } | {
        f"dail/{path.relative_to(ROOT / 'deploy')}"
        for name in DATA
        for path in (ROOT / "deploy" / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == ours, "name new packages and files of data in pyproject.toml, [tool.setuptools]"
    assert {f"dail/{package}/py.typed" for package in PACKAGES} <= names


def test_the_wheel_of_the_sdist_is_that_of_the_tree(released: tuple[Path, Path], wheel: Path) -> None:
    def contents(of: Path) -> dict[str, bytes]:
        archive = zipfile.ZipFile(of)
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}

    assert contents(released[1]) == contents(wheel)


def test_the_sdist_holds_what_is_built_and_nothing_of_a_users(released: tuple[Path, Path]) -> None:
    with tarfile.open(released[0]) as archive:
        names = {Path(*Path(one.name).parts[1:]) for one in archive.getmembers() if one.isfile()}
    made = {Path("PKG-INFO"), Path("setup.cfg")} | {name for name in names if name.parts[0].endswith(".egg-info")}
    tops = {name.parts[0] for name in names - made}
    assert tops == {*PACKAGES, "deploy", "pyproject.toml", "README.md", "LICENSE"}
    assert {name.parts[1] for name in names if name.parts[0] == "deploy"} == set(DATA)


def test_wheel_and_sdist_are_fit_for_a_registry(released: tuple[Path, Path]) -> None:
    assert run(sys.executable, "-m", "twine", "check", "--strict", *released).count("PASSED") == 2


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a clean environment that `pip install dail` made."""
    folder = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel)
    return python


def test_the_bare_wheel_is_whole_and_every_verb_answers(bare: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "--python", bare, "check")
    answers(bare, tmp_path)
    assert run(bare.parent / "dail", "--version", cwd=tmp_path).startswith("dail, version ")
    assert "qwen3-8b-paper-v1 " in run(bare.parent / "dail", "settings", cwd=tmp_path)
    assert "Table 4: " in run(bare.parent / "dail", "paper", cwd=tmp_path)
    ((_, code, said),) = calls(bare, tmp_path, [["submit", "nowhere.jsonl", "--config", "qwen3-8b-paper-v1"]])
    assert code == 2 and "nowhere.jsonl" in said
    assert missing(bare, needed("serve")) == set()


@pytest.mark.parametrize(
    ("verb", "extra"), [("synth", "worker"), ("train", "train"), ("cache", "train"), ("grpo", "rl")]
)
def test_without_its_extra_a_verb_says_which_one_it_needs(bare: Path, tmp_path: Path, verb: str, extra: str) -> None:
    ((_, code, said),) = calls(bare, tmp_path, [[verb, *WRONG[verb]]])
    assert code in (1, 2) and "Traceback" not in said
    assert f"pip install 'dail[{extra}]'" in said


def test_without_its_extra_push_says_which_one_it_needs(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = {"form": "openai", "file": "data", "rows": 1, "longest": None, "left_out": {}, "rebuilt": None}
    export |= {"batch_id": "b", "manifest_digest": "d"}
    (tmp_path / "export.json").write_text(json.dumps(export))
    (tmp_path / "README.md").touch()
    (tmp_path / "data").touch()
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    ((_, code, said),) = calls(bare, tmp_path, [["push", ".", "--to", "me/data"]])
    assert code == 1 and "Traceback" not in said and "pip install 'dail[data]'" in said, said


def test_without_its_extra_eval_says_so_before_it_writes(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"id": "p", "problem": "1 + 1?", "answer": "2"}\n')
    arguments = ["eval", "--model", str(DEMO_MODEL), "--problems", "problems.jsonl", "--out", "out"]
    ((_, code, said),) = calls(bare, tmp_path, [arguments])
    assert code == 1 and "Traceback" not in said, said
    assert "pip install 'dail[train]'" in said


@pytest.mark.parametrize(("extra", "packages", "from_elsewhere"), EXTRAS, ids=[extra for extra, _, _ in EXTRAS])
def test_an_extra_brings_all_that_its_package_imports(
    wheel: Path, tmp_path: Path, extra: str, packages: list[str], from_elsewhere: set[str]
) -> None:
    python = environment(tmp_path / "env", reached(wheel, extra.split(",")), wheel)
    run(sys.executable, "-m", "pip", "--python", python, "check")
    answers(python, tmp_path)
    assert missing(python, {name for package in packages for name in needed(package)}) - from_elsewhere == set()


def answers(python: Path, folder: Path) -> None:
    """Every verb explains itself, and a wrong call ends with an error a user can read."""
    assert set(WRONG) == set(VERBS)
    (folder / "taken").mkdir()
    (folder / "taken" / "file").touch()
    helps, wrongs = [[verb, "--help"] for verb in VERBS], [[verb, *WRONG[verb]] for verb in VERBS]
    for arguments, code, said in calls(python, folder, helps):
        assert (code, said.startswith(f"Usage: dail {arguments[0]} ")) == (0, True), said
    for arguments, code, said in calls(python, folder, wrongs):
        assert code in (1, 2) and "Traceback" not in said, f"{arguments} ended with {code}: {said}"
        assert "rror: " in said, said


def calls(python: Path, folder: Path, arguments: list[list[str]]) -> list[tuple[list[str], int, str]]:
    said = run(python, "-c", CALLS, json.dumps(arguments), cwd=folder)
    return [tuple(json.loads(line)) for line in said.splitlines() if line.startswith("[[")]


def needed(package: str) -> set[str]:
    """Everything that the files of a package import, in functions too."""
    names = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names


def missing(python: Path, names: set[str]) -> set[str]:
    """Those of the packages that are not there."""
    return set(
        run(python, "-c", f"import importlib.util as u; print(*(n for n in {names} if not u.find_spec(n)))").split()
    )


def reached(wheel: Path, extras: Iterable[str]) -> dict[str, Distribution]:
    """By name, the distributions of this environment that `pip install dail[extras]` would bring."""
    found: dict[str, Distribution] = {}
    metadata = zipfile.Path(wheel) / f"{'-'.join(wheel.name.split('-')[:2])}.dist-info" / "METADATA"
    lines = metadata.read_text("utf-8").splitlines()
    ours = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]
    seen: set[tuple[str, str]] = set()

    def follow(requirements: Iterable[str], extras: Iterable[str]) -> None:
        for requirement in map(Requirement, requirements):
            marker, asked = requirement.marker, ["", *extras]
            if marker and not any(marker.evaluate({"extra": extra}) for extra in asked):
                continue
            name = canonicalize_name(requirement.name)
            if name == "dail":  # an extra that holds another one; the wheel's own
                follow(ours, requirement.extras)
                continue
            new = [extra for extra in ("", *requirement.extras) if (name, extra) not in seen]
            if new:
                seen.update((name, extra) for extra in new)
                found[name] = distribution(requirement.name)
                follow(found[name].requires or (), requirement.extras)

    follow(ours, extras)
    return found


def environment(folder: Path, distributions: dict[str, Distribution], wheel: Path) -> Path:
    """The Python of an environment with links to these distributions' files, and with the wheel."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])").strip())
    owners = Counter(top for one in distributions.values() for top in {file.parts[0] for file in one.files or ()})
    for one in distributions.values():
        for source, target in _links(one, owners):
            target = site / target
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(source)
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    return python


def _links(one: Distribution, owners: Counter[str]) -> Iterator[tuple[Path, Path]]:
    """Whole folders where nobody else has files in them, else file by file."""
    done = set()
    for file in one.files or ():
        top = file.parts[0]
        if top == ".." or "__pycache__" in file.parts:
            continue
        part = Path(top) if owners[top] == 1 else Path(*file.parts)
        if part not in done:
            done.add(part)
            yield Path(str(one.locate_file(part))), part
