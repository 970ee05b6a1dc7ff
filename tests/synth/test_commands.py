"""What `dail worker` and `dail synth` make of their options, up to the first lease."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dail.serve.cli import dail
from dail.synth.core.errors import UsageError
from dail.synth.run import worker
from tests.conftest import DEMO_MODEL

pytestmark = pytest.mark.usefixtures("greeted")


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have run: settings and source of each worker."""
    found: list[Any] = []
    monkeypatch.setattr(worker, "run_worker", lambda settings, source, *_: found.append((settings, source)))
    return found


def work(*arguments: str) -> Result:
    result = CliRunner().invoke(dail, ["worker", "--model", str(DEMO_MODEL), *arguments], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result


def test_a_worker_takes_engine_and_worker_of_a_preset_and_says_who_brings_the_synthesis(started: list[Any]):
    said = work("--config", "cpu-tiny", "--set", "actors=1", "--actors", "2").stderr
    ((settings, _),) = started
    assert (settings.engine.rows, settings.engine.dtype, settings.actors) == (128, "float32", 2)
    assert "note: [synthesis] of " in said and "it comes with each batch (`dail submit`)" in said


def test_a_file_without_synthesis_has_no_note(tmp_path: Path):
    (tmp_path / "run.toml").write_text("[engine]\nrows = 8\n")
    assert "note: " not in work("--config", str(tmp_path / "run.toml")).stderr


def test_the_name_of_a_worker_is_said_beside_the_model_s():
    assert "worker w7 leases units of model model from " in work("--name", "w7").stderr


@pytest.mark.parametrize("name", ["demo=folder", str(DEMO_MODEL)])
def test_a_name_or_folder_of_a_model_is_no_name_of_a_worker(name: str):
    with pytest.raises(UsageError, match="names this worker, and not a model; give a model's folder with --model"):
        work("--name", name)


def test_the_api_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAIL_API", "http://127.0.0.1:9999")
    assert "from http://127.0.0.1:9999;" in work().stderr
