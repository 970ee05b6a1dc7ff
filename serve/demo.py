"""`dail demo`: the whole story on one machine, with the same verbs a user would type, each its own process.

serve ◀─ POST expert solutions      worker ─▶ shards + manifests ─▶ train ─▶ adapters ─▶ eval ─▶ report.html

The traces are trained on twice, by DAIL's loss and by plain fine-tuning, and the expert solutions as they are once.

    dail demo --dir runs/demo          # the same again goes on
    dail demo --dir runs/demo --fresh
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import click

from dail.serve.children import Children
from dail.serve.commands import follow
from dail.serve.first_trace import FirstTrace
from dail.serve.judged import judged
from dail.synth.core.config import TOOL_VERSION, fingerprint
from dail.synth.core.console import emit, say
from dail.synth.core.errors import EXIT_OK, DailError, UsageError
from dail.synth.core.files import sha256
from dail.synth.core.http import Client
from dail.synth.core.settings import read
from dail.synth.data.reader import load_items
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis

BUNDLE = Path(__file__).parent.parent / "deploy" / "demo"
CONFIG = BUNDLE.parent / "configs" / "cpu-tiny.toml"
MODEL = BUNDLE / "model"
EXPERT_SOLUTIONS = BUNDLE / "expert_solutions.jsonl"
PROBLEMS = BUNDLE / "eval_problems.jsonl"


class Arm(NamedTuple):
    """An adapter of the demo: which method's traces it is trained on, and how."""

    name: str
    about: str
    traces: str
    folder: str
    settings: tuple[str, ...] = ()


ARMS = (
    # against references at the temperature that the traces are drawn at, and that fine-tuning on them learns
    Arm("DAIL", "the contrastive loss on the traces", "mixed", "train", ("--set", "reference_temperature=0.6")),
    Arm("NLL", "fine-tuning on the same traces", "mixed", "train-nll", ("--set", "objective=nll")),
    Arm("SFT", "fine-tuning on the expert solutions", "expert", "train-sft", ("--set", "objective=nll")),
)
_MARKER = "demo.json"  # says that the folder is ours to resume or to clear, and from which inputs
_SAMPLES = 16  # of a problem; four models are judged


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
        batches = _synthesise(children, folder)
        say("\n4/5  training three LoRA adapters")
        for arm in ARMS:
            say(f"     {arm.name}: {arm.about}")
            children.run("train", "train", "--model", MODEL, "--manifest", batches[arm.traces]["manifest"]["path"],
                         "--out", folder / arm.folder, "--config", CONFIG, *arm.settings)  # fmt: skip
        say("\n5/5  the base model against its adapters, on problems that were not trained on")
        adapters = [word for arm in ARMS for word in ("--adapter", f"{arm.name}={folder / arm.folder / 'adapter'}")]
        children.run("eval", "eval", "--model", MODEL, *adapters, "--problems", PROBLEMS, "--out", folder / "eval",
                     "--config", CONFIG, "--no-thinking", "--set", f"eval.samples={_SAMPLES}")  # fmt: skip
    traces = batches[ARMS[0].traces]
    manifest = traces["manifest"]["path"]
    found = {
        "report": str(folder / "eval" / "report.html"),
        "adapter": str(folder / ARMS[0].folder / "adapter"),
        "manifest": manifest,
        "shards": str(Path(manifest).parents[2] / "shards" / traces["id"]),
        "loss": str(folder / ARMS[0].folder / "metrics.jsonl"),
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


def _synthesise(children: Children, folder: Path) -> dict[str, Any]:
    """API and worker as processes, the batches over HTTP; the finished batches, by the method of their traces."""
    say("1/5  starting the API")
    url = children.serve("--port", "0", "--data-dir", folder / "api", "--model", f"demo={MODEL}")
    items = load_items(EXPERT_SOLUTIONS)
    synthesis = read("submit", CONFIG).load(Synthesis, "synthesis")
    methods = {
        synthesis.method: synthesis,
        "expert": Synthesis(method="expert", thinking=synthesis.thinking),  # the solutions themselves, as they are
    }
    with Client(url) as client:
        say(f"2/5  POST {len(items)} expert solutions to {url}/v1/batches, to be rewritten and to be taken as they are")
        batches: dict[str, Any] = {
            method: client.post("/v1/batches", _body(items, settings)) for method, settings in methods.items()
        }
        if any(batch["status"] != "completed" for batch in batches.values()):
            say("3/5  a worker with a local Ray and one engine writes the traces (the engine starts in half a minute)")
            children.start("worker", "worker", "--api", url, "--model", MODEL, "--config", CONFIG)
        else:
            say("3/5  all traces are there already")
        first = FirstTrace(client, batches[synthesis.method]["id"])

        def check() -> None:
            children.check()
            first.look()

        for method, batch in batches.items():
            follow(client, batch["id"], check=check)
            batches[method] = client.get(f"/v1/batches/{batch['id']}")
            if not batches[method]["manifest"]:
                raise DailError(f"no trace was written; {folder / 'logs' / 'worker.log'} says why")
        written = batches[synthesis.method]
        first.look()
        found = judged(client, written)
    for line in found.told()[-1:] if found else ():
        say(f"     {line}")
    say(f"     manifest {written['manifest']['path']}")
    children.stop()
    return batches


def _body(items: list[ExpertSolution], synthesis: Synthesis) -> dict[str, Any]:
    return {
        "model": "demo",
        "items": [item.model_dump(mode="json", exclude_defaults=True) for item in items],
        "synthesis": synthesis.model_dump(mode="json", exclude_defaults=True),
    }


def _print_places(found: dict[str, Any]) -> None:
    say(f"\ndone in {found.pop('seconds')} s; everything lies here:")
    for what, where in found.items():
        say(f"  {what:9}{where}")
