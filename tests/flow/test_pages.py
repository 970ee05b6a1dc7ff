"""Every command of every page: those that can run here are pasted into a shell, page after page, in one folder.

Quick ones run in `make test`, those that start engines in `make soak`, in the order in which a reader would come to
them. What needs a cluster, a hub, a bucket or a large model is named with the reason; its verbs and options are held
against the program, as those of all others are.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deploy.commands import check
from tests.flow.conftest import BIN

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OTHERS = ("CHANGELOG.md", "tests/bench/RESULTS.md")  # what was, not what is to be typed


_PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# whose Python test_examples.py runs; that of the rooms' READMEs is run by tests/test_documents.py
EXAMPLES = ("synth/from-python.md", "synth/method/parts-of-your-own.md")


def listed() -> list[str]:
    """Every page of the tree but those of what was."""
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return [name for name in found if name not in _OTHERS]


def pages() -> dict[str, list[str]]:
    """Of each page that has some, its blocks of commands."""
    texts = {name: (ROOT / name).read_text("utf-8") for name in listed()}
    return {name: found for name, text in sorted(texts.items()) if (found := _BLOCK.findall(text))}


PAGES = pages()
MANIFEST = "MANIFEST=$(ls runs/shards/manifests/*/v1.json); "
SERVER = (
    "dail serve --data-dir runs/api --model demo=deploy/demo/model & "
    "until curl -sf 127.0.0.1:8765/livez; do sleep 1; done; "
)

# page, blocks of it (all, if none is named), and what a reader of it has already
QUICK = (
    ("serve/tokens.md", (), ""),
    ("serve/stores.md", (), ""),
    ("synth/core/settings.md", (), ""),
    ("synth/data/expert-solutions.md", (1,), ""),
    ("synth/method/the-method.md", (), ""),
)
LONG = (
    ("deploy/docs/tutorial.md", (), ""),
    ("README.md", (1, 2), ""),
    ("synth/run/before-a-run.md", (), ""),
    ("synth/data/expert-solutions.md", (0,), ""),
    ("synth/method/contexts.md", (), ""),
    ("synth/view/reading-traces.md", (), ""),
    ("train/training.md", (), MANIFEST),
    ("train/evals/evaluating.md", (), ""),
    ("train/when-training-goes-wrong.md", (), MANIFEST),
    ("synth/run/selecting.md", (), ""),
    ("synth/export/elsewhere.md", (1,), ""),
    ("train/rounds.md", (), ""),
    ("synth/method/parts-of-your-own.md", (1,), ""),
    ("serve/http.md", (), SERVER),
)
ELSEWHERE = {
    ("README.md", 0): "tests/flow/test_demo.py runs the demo",
    ("CONTRIBUTING.md", 0): "tests/test_wheel.py builds and checks; the rest is a release",
    ("CONTRIBUTING.md", 1): "asks the registry for the GPU build",
    ("deploy/clusters.md", 0): "the same command is on the front page",
    ("deploy/clusters.md", 1): "tests/flow/test_ray_job.py has a cluster with a token",
    ("deploy/clusters.md", 2): "wants a model of the paper; the job is in tests/flow/test_ray_job.py",
    ("deploy/clusters.md", 3): "wants a model of the paper and four GPUs",
    ("deploy/real-models.md", 0): "wants a hub, and a card for a model of the paper",
    ("deploy/reproducing.md", 0): "wants models of the paper; tests/serve/test_paper.py has the small one",
    ("deploy/reproducing.md", 1): "tests/train/test_grpo.py trains by rewards",
    ("deploy/where-it-runs.md", 0): "wants docker; tests/deploy/test_compose.py runs what it starts",
    ("deploy/where-it-runs.md", 1): "wants Slurm; tests/deploy/test_slurm.py runs the jobs",
    ("deploy/where-it-runs.md", 2): "wants Kubernetes; tests/deploy/test_kubernetes.py reads the files",
    ("deploy/where-it-runs.md", 3): "the same commands are in serve/stores.md",
    ("deploy/world/README.md", 0): "hours: `make evidence`",
    ("serve/where-traces-lie.md", 0): "wants a bucket; tests/serve/objects have one",
    ("serve/where-traces-lie.md", 1): "wants a bucket and a model of the paper",
    ("synth/export/elsewhere.md", 0): "asks the registry; tests/synth/export read it with datasets",
    ("synth/export/elsewhere.md", 2): "wants a hub; tests/synth/export/test_push.py has one",
    ("synth/method/parts-of-your-own.md", 0): "wants the authors' repository; test_authors_prompts.py has one like it",
    ("tests/gpu/README.md", 0): "wants a GPU",
    ("train/evals/benchmarks.md", 0): "wants a hub",
    ("train/studies/calibrating.md", 0): "tests/flow/test_calibrate.py runs it",
    ("train/studies/curating.md", 0): "wants a hub",
}


def blocks_of(page: str, which: tuple[int, ...]) -> list[int]:
    return list(which) or [n for n in range(len(PAGES[page])) if (page, n) not in ELSEWHERE]


def test_every_block_is_run_or_has_a_reason():
    there = {(page, n) for page, blocks in PAGES.items() for n in range(len(blocks))}
    run = {(page, n) for page, which, _ in (*QUICK, *LONG) for n in blocks_of(page, which)}
    assert there == run | ELSEWHERE.keys() and not run & ELSEWHERE.keys()
    python = {name for name in listed() if _PYTHON.search((ROOT / name).read_text("utf-8"))}
    assert {name for name in python if not name.endswith("README.md")} == set(EXAMPLES)


def commands(block: str) -> list[list[str]]:
    """Each call of `dail` in a block, as words, without what a shell does beside it."""
    found: list[list[str]] = []
    inner = re.sub(r"\$\((?!dail )[^)]*\)", "X", block.replace("\\\n", " ").replace("(dail", "( dail"))
    for line in inner.splitlines():
        if re.search(r"(^|\s)dail [a-z]", line):
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            is_call = False
            for word in words:
                if word == "dail":
                    found.append([])
                    is_call = True
                elif re.fullmatch(r"[();<>|&]+", word):
                    is_call = False
                elif is_call:
                    found[-1].append(word)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_verb_and_option_that_a_page_shows_is_there(page: str):
    for block in PAGES[page]:
        for words in commands(block):
            check(["$@" if word == "…" else word for word in words])  # which is the reader's to fill in


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is to a shell what a clone's root is, and whose runs are nobody's."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("deploy", "tests", "Makefile", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(BIN.parent)
    return folder


def paste(clone: Path, page: str, which: tuple[int, ...], before: str) -> None:
    """The blocks, line after line as a person would; what a line started in the background ends with the page."""
    ends = "trap 'jobs -p | xargs -r kill; wait' EXIT\n"
    code = ends + before + "\n" + "\n".join(PAGES[page][n] for n in blocks_of(page, which))
    code = "\n".join(map(_typed, code.splitlines()))
    done = subprocess.run(
        ["bash", "-eo", "pipefail"], input=code, cwd=clone, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, f"{page}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def _typed(line: str) -> str:
    """A line without its comment; a refusal that the comment announces is not the end."""
    bare = re.sub(r"\s+# .*$", "", line)
    return f"{bare} || [ $? = 2 ]" if "# exit code 2" in line else bare


@pytest.mark.parametrize(
    ("page", "which", "before"), QUICK, ids=lambda value: value if isinstance(value, str) else None
)
def test_what_is_quick_runs_as_it_is_pasted(clone: Path, page: str, which: tuple[int, ...], before: str):
    paste(clone, page, which, before)


@pytest.mark.soak
@pytest.mark.vllm
def test_the_front_pages_python_runs_as_it_is_pasted(clone: Path):
    (code,) = _PYTHON.findall((ROOT / "README.md").read_text("utf-8"))
    done = subprocess.run([sys.executable, "-"], input=code, cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("item-00000 "), done.stderr


@pytest.mark.soak
@pytest.mark.vllm
@pytest.mark.timeout(0)
def test_all_the_rest_runs_as_it_is_pasted(clone: Path):
    for page, which, before in LONG:
        paste(clone, page, which, before)
