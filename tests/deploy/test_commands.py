"""Every `dail …` that a file of deploy/ runs, or offers to paste, is one that dail takes."""

from __future__ import annotations

import re

import click
import pytest

from tests.conftest import ROOT
from tests.deploy.commands import check, found, of_text

DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".sh") or path.name == "Dockerfile")
# where a run of dail is begun, or put on a machine; the others hold what stands around it
RUN_DAIL = {
    "compose.yaml", "containers/Dockerfile", "kubernetes/api.yaml", "kubernetes/train.yaml", "kubernetes/workers.yaml",
    "ray/cluster.yaml", "skypilot/eval.yaml", "skypilot/synth.yaml", "skypilot/train.yaml", "slurm/eval.sh",
    "slurm/synth.sh", "slurm/train.sh",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(RUN_DAIL))
def test_what_a_file_runs_of_dail_is_there(name: str):
    commands = found(DEPLOY / name)
    assert commands
    for words in commands:
        check(words)


def test_no_other_file_runs_dail_unseen():
    assert {str(file.relative_to(DEPLOY)) for file in FILES if found(file)} == RUN_DAIL


def test_what_the_page_offers_to_paste_is_taken():
    blocks = re.findall(r"```sh\n(.*?)```", (DEPLOY / "where-it-runs.md").read_text("utf-8"), re.DOTALL)
    commands = [words for block in blocks for line in block.splitlines() for words in of_text(line)]
    assert len(commands) >= 4
    for words in commands:
        check(words)
    named = re.findall(r"deploy/[\w./-]+\.\w+", "".join(blocks))
    assert [name for name in named if not (ROOT / name).exists() and name != "deploy/.env"] == []


@pytest.mark.parametrize(
    "words",
    [
        ["worker", "--nonsense"],
        ["train", "--model", "m"],
        ["train", "--set", "nonsense=1", "--out", "o"],
        ["eval", "x"],
    ],
)
def test_what_dail_does_not_take_is_found(words: list[str]):
    with pytest.raises((click.UsageError, AssertionError)):
        check(words)
