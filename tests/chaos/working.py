"""Workers as processes: the product's own lease loop and HTTP, on a fake engine and without Ray; they keep a record.

with Workers(folder) as workers:        # one process that has imported everything, and forks the others
    pid = workers.start(url)
    workers.set_clocks(3600)            # the time of day of all of them; not how fast it runs
    history.calls += workers.told()
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import libfaketime

from dail.synth.core.http import worker_http
from dail.synth.core.owner import _PR_SET_PDEATHSIG
from dail.synth.engine.fake import FakeEngine  # noqa: F401 - imported before the fork
from dail.synth.method.prompts import Prompts
from dail.synth.run.pool import Results, Written
from dail.synth.run.unit_source import Fenced, HttpSource
from dail.synth.run.worker import Worker
from dail.synth.schema.models import ModelIdentity, identify
from dail.synth.schema.units import ShardRef, Unit
from tests.chaos.history import Call
from tests.conftest import DEMO_MODEL, ROOT
from tests.serve.conftest import clean_environment
from tests.synth.run.test_worker import InlinePool

_LIBRARY = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"


def clock_of(file: Path) -> dict[str, str]:
    """The environment of a process whose time of day is set by `set_clock`, at any time."""
    set_clock(file, 0)
    return {
        "LD_PRELOAD": str(_LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # which no setting of a clock moves
    }


def set_clock(file: Path, by_s: int) -> None:
    new = file.with_suffix(".new")
    new.write_text(f"{by_s:+d}\n")
    new.replace(file)


class Workers:
    """All end with it. `pids` are those that live."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._clock = folder / "clock"
        environment = clean_environment() | clock_of(self._clock) | {"TOKENIZERS_PARALLELISM": "false"}
        self._log = (folder / "log").open("wb")
        self._forks = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.working", folder],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._numbers = itertools.count(1)
        self.pids: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._forks.communicate()
        self._log.close()

    def clear(self) -> None:
        """As if none had ever been."""
        for pid in list(self.pids):
            self.kill(pid)
        for file in self._folder.glob("*.calls"):
            file.unlink()
        self.set_clocks(0)

    def start(self, url: str) -> int:
        assert self._forks.stdin and self._forks.stdout
        self._forks.stdin.write(f"w{next(self._numbers)} {url}\n")
        self._forks.stdin.flush()
        line = self._forks.stdout.readline()
        assert line, (self._folder / "log").read_text()
        self.pids.append(int(line))
        return self.pids[-1]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.pids.remove(pid)

    def check(self) -> None:
        """None ended by itself."""
        for pid in self.pids:
            os.kill(pid, 0)

    def set_clocks(self, by_s: int) -> None:
        set_clock(self._clock, by_s)

    def told(self) -> list[Call]:
        return [call for file in sorted(self._folder.glob("*.calls")) for call in _read(file)]


def _read(file: Path) -> Iterator[Call]:
    """A killed process leaves calls of which nobody knows what became of them."""
    calls: dict[int, Call] = {}
    for line in file.read_text().splitlines():
        number, said = json.loads(line)
        if isinstance(said, dict):
            calls[number] = Call("commit", said["unit"], said)
        else:
            calls[number].outcome = said
    return iter(calls.values())


class _Recorded(HttpSource):
    """Writes a line before and after each commit, at once, so that it outlives the process."""

    def __init__(self, client: Any, worker: str, model: ModelIdentity, file: Path) -> None:
        super().__init__(client, worker, model)
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count()

    async def commit(self, unit: Unit, shard: ShardRef, correct: bool | None = None, rows: int | None = None) -> None:
        number = next(self._numbers)
        told = {"unit": unit.unit_id, "batch": unit.batch_id, "item": unit.item_id, "sample": unit.sample}
        self._say(number, {**told, "shard": shard.key, "epoch": unit.epoch, "at": len(unit.prefix)})
        try:
            await super().commit(unit, shard, correct, rows)
        except Fenced:
            self._say(number, "refused")
            raise
        self._say(number, "ok")

    def _say(self, number: int, said: Any) -> None:
        os.write(self._file, f"{json.dumps([number, said])}\n".encode())


class _Pool(InlinePool):
    """Tells what is written of a trace, as the real one does, and takes its time."""

    async def next_results(self) -> Results:
        while True:
            await asyncio.sleep(0.01)
            finished = self._pair.step()
            self.written |= {name: Written.of(tokens[:]) for name, tokens in self._pair.progress().items()}
            if finished:
                return Results(finished, [])


async def _work(url: str, name: str, folder: Path, model: ModelIdentity, prompts: Prompts) -> None:
    source = _Recorded(worker_http(url, None), name, model, folder / f"{name}.calls")
    await Worker(source, _Pool(model_tokens=2000), prompts).run(asyncio.Event())  # type: ignore[arg-type]


def main() -> None:
    folder, owner = Path(sys.argv[1]), os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    model, prompts = identify(DEMO_MODEL, "tiny"), Prompts(DEMO_MODEL)
    for line in sys.stdin:
        name, url = line.split()
        if pid := os.fork():
            print(pid, flush=True)
            continue
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == owner:
            with suppress(KeyboardInterrupt):
                asyncio.run(_work(url, name, folder, model, prompts))
        os._exit(1)


if __name__ == "__main__":
    main()
