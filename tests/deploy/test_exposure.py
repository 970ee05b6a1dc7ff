"""What we hand out opens no door: documents, scripts and code start nothing that listens to everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("synth", "train", "serve", "deploy")
KINDS = {".md", ".py", ".sh", ".toml", ".yaml", ".yml", ".json", ".service", ".jinja", ""}
_START = re.compile(r"\bray[\"', ]+start\b")
_DASHBOARD = re.compile(r"dashboard[-_]host[\"'=:, ]+([^\s\"',]+)")
_PICKLES = re.compile(
    r"\b(?:(?:c?pickle|cloudpickle|dill|marshal|shelve|joblib|torch)\.(?:load|loads|open)\(|yaml\.(?:unsafe_)?load\()"
    r"|allow_pickle=True|weights_only=False|trust_remote_code=True|VLLM_ALLOW_INSECURE_SERIALIZATION"
)


def handed_out() -> Iterator[tuple[Path, str]]:
    """Everything but the tests, the changes and what a build made."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*")] + list(ROOT.glob("*"))
    for path in sorted(files):
        if path.is_file() and path.suffix in KINDS and path.name != "CHANGELOG.md" and "__pycache__" not in path.parts:
            try:
                yield path.relative_to(ROOT), path.read_text("utf-8")
            except UnicodeDecodeError:
                continue


TEXTS = dict(handed_out())


def test_there_is_something_to_look_at():
    assert {Path("README.md"), Path("deploy/setup.sh"), Path("serve/commands.py")} <= TEXTS.keys()


# in a network of a container's own, where no other address is known; the server refuses without a token
IN_A_CONTAINER = ["deploy/containers/Dockerfile"]


def test_nothing_listens_to_everybody():
    wide = re.compile(r"0\.0\.0\.0|(?<![\w:\[])\[?::\]?(?=[\"':]\d)|INADDR_ANY")
    assert [str(path) for path, text in TEXTS.items() if wide.search(text)] == IN_A_CONTAINER


def test_a_ray_that_we_start_wants_its_token():
    starts = {path: text for path, text in TEXTS.items() if _START.search(text)}
    assert Path("deploy/clusters.md") in starts and Path("synth/run/ray_cluster.py") in starts
    for path, text in starts.items():
        assert re.search(r'RAY_AUTH_MODE(?:=|: "?)token', text), path
        assert "RAY_AUTH_MODE=disabled" not in text, path


def test_a_dashboard_of_ours_is_on_loopback():
    hosts = {(str(path), host) for path, text in TEXTS.items() for host in _DASHBOARD.findall(text)}
    assert hosts and {host for _, host in hosts} == {"127.0.0.1"}


def test_no_pickle_is_opened_and_no_foreign_code_allowed():
    assert [(str(path), found) for path, text in TEXTS.items() for found in _PICKLES.findall(text)] == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (_START, 'run("ray", "start", "--head")'),
        (_START, "ray start --head"),
        (_DASHBOARD, "--dashboard-host=127.0.0.1"),
        (_DASHBOARD, 'dashboard_host="127.0.0.1"'),
        (_PICKLES, "torch.load(path)"),
        (_PICKLES, "pickle.loads(data)"),
    ],
)
def test_the_search_finds_what_it_is_for(pattern: re.Pattern[str], text: str):
    assert pattern.search(text)
