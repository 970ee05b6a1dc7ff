"""The documents build as a site without a warning, and the reference has everything that there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dail.serve.cli import VERBS
from dail.serve.listing import environment
from dail.synth.core.settings import TABLES, settings_of
from dail.synth.schema.shards import SCHEMA
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that no list names, and a link or a heading that is not there, are warnings of Sphinx."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "deploy/docs", ".", out]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_begins_at_its_top_and_has_a_search(site: Path):
    assert "url=deploy/docs/index.html" in (site / "index.html").read_text("utf-8")
    assert (site / "deploy/docs/index.html").is_file() and (site / "search.html").is_file()


def test_the_reference_has_everything(site: Path):
    folder = ROOT / "deploy" / "docs" / "reference"
    texts = {path.stem: path.read_text("utf-8") for path in folder.glob("*.md")}
    verbs = re.findall(r"^## dail (\w+)$", texts["verbs"], re.MULTILINE)
    assert verbs == list(VERBS)
    for table in TABLES:
        assert {one.name for one in settings_of(table).values()} <= set(re.findall(r"`([\w.]+)`", texts["settings"]))
    assert all(f"| `{name}` |" in texts["settings"] for name in environment())
    assert re.findall(r"^\| `(\w+)` \|", texts["columns"], re.MULTILINE) == SCHEMA.names
    paths = json.loads((ROOT / "serve" / "openapi.json").read_text("utf-8"))["paths"]
    routes = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert re.findall(r"^## ((?:GET|POST|PUT|DELETE|HEAD) .*)$", texts["http"], re.MULTILINE) == routes
    assert "### dail.synth.synthesise" in texts["python"] and "### dail.train.train" in texts["python"]


def test_no_page_of_the_reference_is_kept_in_the_tree():
    listed = subprocess.run(
        ["git", "ls-files", "deploy/docs/reference"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert listed.stdout == ""
