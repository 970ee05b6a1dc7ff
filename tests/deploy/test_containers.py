"""The images and compose.yaml, by the linters and schemas that there are without an engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
CONTAINERS = ROOT / "deploy" / "containers"
DOCKERFILE = (CONTAINERS / "Dockerfile").read_text("utf-8")
COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
_COPY = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)


def stages() -> dict[str, str]:
    """By target, its lines and those of the stages that it is made on."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    own = {name: (base, text) for base, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}

    def whole(name: str) -> str:
        base, text = own[name]
        below = base.replace("${DEVICE}", "gpu")
        return (whole(below) if below in own else "") + text

    return {name: whole(name) for name in own}


def test_the_linter_has_nothing_to_say():
    done = subprocess.run([BIN / "hadolint", CONTAINERS / "Dockerfile"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_there_and_let_through():
    lines = (CONTAINERS / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines, "all is left out but what is named"
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = [source for sources in _COPY.findall(DOCKERFILE) for source in sources.split()]
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert [one for one in copied if not any(one == way or one.startswith(f"{way}/") for way in let_through)] == []
    unused = [way for way in let_through if not any(one == way or one.startswith(f"{way}/") for one in copied)]
    assert unused == []


@pytest.mark.parametrize("target", ["api", "worker", "trainer"])
def test_an_image_runs_as_nobodys_root_and_says_whether_it_is_well(target: str):
    text = stages()[target]
    assert re.search(r"useradd --uid (\d+)", text)
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] == "10001"
    assert "HEALTHCHECK" in text
    assert text.index("useradd") < text.index("USER 10001") < text.index("\nCMD ")


def test_the_api_brings_no_tool_to_build_with():
    assert not re.search(r"apt-get|pip install|wheel", stages()["api"])


def test_the_engine_is_the_one_that_is_tested():
    (vllm,) = re.findall(r"^ARG VLLM=(.+)$", DOCKERFILE, re.MULTILINE)
    (tested,) = re.findall(r"^vllm=(.+)$", (ROOT / "deploy" / "setup.sh").read_text("utf-8"), re.MULTILINE)
    assert vllm == tested


def test_compose_is_by_its_schema():
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_has_no_secret_that_works_without_being_set():
    text = COMPOSE_FILE.read_text("utf-8")
    named = set(re.findall(r"\$\{(\w+)", text))
    wanted = set(re.findall(r"\$\{(\w+):\?", text))
    assert named - wanted == {"DAIL_DEVICE", "DAIL_MODEL"}, "all others are secrets, and must be wanted"
    secret = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY")
    values = [
        (name, value)
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if secret.search(name)
    ]
    assert values and all(re.match(r"\$\{\w+(:\?[^}]+)?\}$", value) for _, value in values)


def test_compose_listens_on_loopback_alone():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_waits_for_who_can_say_that_it_is_ready():
    for name, service in SERVICES.items():
        for on, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_completed_successfully":
                assert SERVICES[on]["restart"] == "on-failure", f"{on} would be begun again and again"
            else:
                says = "healthcheck" in SERVICES[on] or SERVICES[on].get("image") == "dail-api"  # of its own image
                assert (how["condition"], says) == ("service_healthy", True), f"{name} on {on}"
            assert set(SERVICES[on].get("profiles", service.get("profiles", []))) >= set(service.get("profiles", []))


def test_compose_builds_targets_that_there_are():
    builds = [service["build"] for service in SERVICES.values() if "build" in service]
    for build in builds:
        assert build["target"] in stages()
        assert (COMPOSE_FILE.parent / build["context"] / build["dockerfile"]).is_file()
        assert set(build.get("args", {})) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
