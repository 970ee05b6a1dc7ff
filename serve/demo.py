"""`dail demo`: the whole story on one machine, with the same verbs a user would type, each its own process.

serve ◀─ POST expert solutions      worker ─▶ shards + manifest ─▶ train ─▶ adapter ─▶ eval ─▶ report.html

    dail demo --dir runs/demo          # the same again goes on
    dail demo --dir runs/demo --fresh
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import click

from dail.serve.commands import follow
from dail.synth.core.config import TOOL_VERSION, fingerprint
from dail.synth.core.console import emit, say
from dail.synth.core.errors import EXIT_OK, DailError, UsageError
from dail.synth.core.files import sha256
from dail.synth.core.http import Client
from dail.synth.core.settings import read
from dail.synth.data.reader import load_items
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis

BUNDLE = Path(__file__).parent.parent / "deploy" / "demo"
CONFIG = BUNDLE.parent / "configs" / "cpu-tiny.toml"
MODEL = BUNDLE / "model"
EXPERT_SOLUTIONS = BUNDLE / "expert_solutions.jsonl"
PROBLEMS = BUNDLE / "eval_problems.jsonl"

_MARKER = "demo.json"  # says that the folder is ours to resume or to clear, and from which inputs
_STOP_S = 30.0  # a worker hands its units back and stops Ray in this time
_SHOWN_SHARDS = 3


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/demo"),
              show_default=True, help="Where everything goes; the same folder again resumes.")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Clear the folder first.")
@click.option("--json", "as_json", is_flag=True, help="Where everything lies, as one JSON object.")
def demo(folder: Path, fresh: bool, as_json: bool) -> int:
    """The whole story on this machine: serve, synthesise, train, evaluate, report.

    Takes a model of a million weights through the job that a real one would go through, in minutes on two cores.
    Ctrl-C stops every process; the same command goes on from there.
    """
    started = time.monotonic()
    folder = folder.resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, with all children
    _prepare(folder, fresh)
    with Children(folder / "logs") as children:
        batch = _synthesise(children, folder)
        manifest = batch["manifest"]["path"]
        say(f"\n4/5  training a LoRA adapter with the contrastive loss on {manifest}")
        children.run("train", "train", "--model", MODEL, "--manifest", manifest, "--out", folder / "train",
                     "--config", CONFIG)  # fmt: skip
        say("\n5/5  base against adapter on problems that were not trained on")
        children.run("eval", "eval", "--model", MODEL, "--adapter", folder / "train" / "adapter",
                     "--problems", PROBLEMS, "--out", folder / "eval", "--no-thinking",
                     "--set", "engine.dtype=float32")  # fmt: skip
    found = {
        "report": str(folder / "eval" / "report.html"),
        "adapter": str(folder / "train" / "adapter"),
        "manifest": manifest,
        "shards": str(Path(manifest).parents[2] / "shards" / batch["id"]),
        "loss": str(folder / "train" / "metrics.jsonl"),
        "logs": str(folder / "logs"),
        "seconds": round(time.monotonic() - started),
    }
    emit(found) if as_json else _print_places(found)
    return EXIT_OK


def _prepare(folder: Path, fresh: bool) -> None:
    """Decides between resuming and starting clean, and says which."""
    if not MODEL.is_dir():
        raise UsageError(f"{BUNDLE} holds no demo; run `dail demo` from a clone of the repository")
    files = [sha256(path.read_bytes()) for path in (EXPERT_SOLUTIONS, PROBLEMS, CONFIG)]
    inputs = fingerprint([identify(MODEL).model_dump(), files, TOOL_VERSION])
    marker = folder / _MARKER
    if folder.exists() and any(folder.iterdir()) and not marker.is_file():
        raise UsageError(f"{folder} holds something that is no demo; give another --dir")
    if marker.is_file() and not fresh and json.loads(marker.read_text("utf-8"))["inputs"] == inputs:
        say(f"resuming the demo in {folder}; --fresh starts it clean")
        return
    if marker.is_file():
        say(f"starting clean in {folder}: {'--fresh was given' if fresh else 'the inputs of the demo have changed'}")
        shutil.rmtree(folder)
    else:
        say(f"starting the demo in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"inputs": inputs}), "utf-8")


def _synthesise(children: Children, folder: Path) -> Any:
    """API and worker as processes, the batch over HTTP; the finished batch."""
    say("1/5  starting the API")
    url = children.serve("--port", "0", "--data-dir", folder / "api", "--model", f"demo={MODEL}")
    items = load_items(EXPERT_SOLUTIONS)
    body = {
        "model": "demo",
        "items": [item.model_dump(mode="json", exclude_defaults=True) for item in items],
        "synthesis": read("submit", CONFIG).load(Synthesis, "synthesis").model_dump(mode="json", exclude_defaults=True),
    }
    with Client(url) as client:
        say(f"2/5  POST {len(items)} expert solutions to {url}/v1/batches")
        batch = client.post("/v1/batches", body)
        if batch["status"] != "completed":
            say("3/5  a worker with a local Ray and one engine writes the traces (the engine starts in half a minute)")
            children.start("worker", "worker", "--api", url, "--model", MODEL, "--config", CONFIG)
        else:
            say("3/5  all traces are there already")
        follow(client, batch["id"], check=children.check)
        batch = client.get(f"/v1/batches/{batch['id']}")
        shards = client.get(f"/v1/batches/{batch['id']}/shards")
    if not batch["manifest"]:
        raise DailError(f"no trace was written; {folder / 'logs' / 'worker.log'} says why")
    for shard in shards["data"][:_SHOWN_SHARDS]:
        say(f"     {shard['key']}  {shard['tokens']} tokens, {shard['student_tokens']:.0f} by the student")
    say(f"     … {batch['shards']} shards; manifest {batch['manifest']['path']}")
    children.stop()
    return batch


def _print_places(found: dict[str, Any]) -> None:
    say(f"\ndone in {found.pop('seconds')} s; everything lies here:")
    for what, where in found.items():
        say(f"  {what:9}{where}")


class Children:
    """`dail` verbs as processes that never outlive this one.

    Each is the leader of its own session, so that a Ctrl-C reaches this process alone and the order of stopping is
    ours: the worker hands its units back while the API still answers.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Children:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def serve(self, *args: object) -> str:
        """Starts the API and returns its URL."""
        child = self.start("serve", "serve", "--json", *args, stdout=subprocess.PIPE)
        assert child.stdout is not None, "the API's output is a pipe"
        line = child.stdout.readline()
        if not line:
            child.wait()
            self.check()
        return str(json.loads(line)["url"])

    def start(self, name: str, *args: object, stdout: int | None = None) -> subprocess.Popen[str]:
        """Starts `dail ARGS` in the background; what it says goes to the log of that name."""
        with open(self._logs / f"{name}.log", "a") as log:
            child = _spawn(args, stdout or log, log)
        self._running[name] = child
        return child

    def run(self, name: str, *args: object) -> None:
        """Runs `dail ARGS` to its end, its progress on our terminal."""
        child = _spawn(args, 2, None)
        self._running[name] = child
        if child.wait():
            raise DailError(f"`dail {name}` ended with exit code {child.returncode}; the lines above say why")
        del self._running[name]

    def check(self) -> None:
        """Raises DailError if a child in the background has ended, with the last lines of its log."""
        for name, child in self._running.items():
            if child.poll() is not None:
                tail = "\n  ".join((self._logs / f"{name}.log").read_text("utf-8", "replace").splitlines()[-10:])
                raise DailError(f"`dail {name}` ended with exit code {child.returncode}:\n  {tail}")

    def stop(self) -> None:
        """Ends what was started last first, kindly, and then for good."""
        for child in reversed(self._running.values()):
            child.terminate()
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._running.clear()


def _spawn(args: Sequence[object], stdout: int | IO[str], stderr: IO[str] | None) -> subprocess.Popen[str]:
    # the installed script: `python -m` would look into the user's folder first
    command = [sys.executable, str(Path(sys.executable).with_name("dail")), *map(str, args)]
    # a model this small gains nothing from a second thread, and idle threads that spin slow the others down
    env = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=env, text=True, start_new_session=True
    )
