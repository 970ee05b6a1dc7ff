"""`dail demo`: the whole story on one machine, with the same verbs a user would type, each its own process.

serve ◀─ POST expert solutions      worker ─▶ shards + manifest ─▶ train ─▶ adapter ─▶ eval ─▶ report.html

    dail demo --dir runs/demo          # the same again goes on
    dail demo --dir runs/demo --fresh
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import click

from dail.serve.children import Children
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
    # a model this small gains nothing from a second thread
    with Children(folder / "logs", OMP_NUM_THREADS="1") as children:
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
