"""The verbs of synthesis: `dail doctor`, `dail waypoints`, `dail prompts`, `dail synth`, `dail inspect`, `dail select`
and `dail worker`. Rooms with Ray and transformers are imported on use.

    dail doctor deploy/demo/expert_solutions.jsonl --model deploy/demo/model --config cpu-tiny
    dail waypoints deploy/demo/olympiad.jsonl --item nt-lcm-pairs --set extractor=rhs
    dail synth deploy/demo/expert_solutions.jsonl --out runs/shards --model deploy/demo/model --config cpu-tiny
    dail inspect runs/shards --out traces.html
    dail select runs/shards --keep first_correct
    dail worker --api http://127.0.0.1:8765 --model deploy/demo/model --config cpu-tiny --idle-exit 60
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dail.synth.config import SynthConfig, load_engine
from dail.synth.core import console
from dail.synth.core.errors import EXIT_BATCH_FAILED, EXIT_OK, EXIT_SOME_FAILED, DailError, UsageError
from dail.synth.core.logs import LogFormat
from dail.synth.core.options import Numbers, verb
from dail.synth.core.progress import waiting
from dail.synth.core.settings import Chosen, presets
from dail.synth.data import options
from dail.synth.data.reader import Reading
from dail.synth.schema.selection import KEEPS, Keep, WithoutAnswer
from dail.synth.schema.synthesis import Synthesis
from dail.synth.view.traces import inked

if TYPE_CHECKING:
    from dail.synth.run.inspecting import Seen

if TYPE_CHECKING:
    from dail.synth.method.verdicts import Judgement

_MODEL = click.option(
    "--model", type=click.Path(path_type=Path), help="Folder with safetensors and tokenizer; engine.model."
)
_ACTORS = click.option(
    "--actors", type=click.IntRange(1), help="Engines; one per GPU (or 1) if left out; worker.actors."
)


@verb("worker")
@click.option(
    "--api", default="http://127.0.0.1:8765", envvar="DAIL_API", show_envvar=True, show_default=True,
    help="URL of the API.",
)  # fmt: skip
@_MODEL
@click.option(
    "--name",
    metavar="WORKER",
    help="This worker's own name in leases, not a model's: which units it takes is said by --model's files. Made from "
    "host and process if left out.",
)
@_ACTORS
@click.option("--idle-exit", "idle_exit_s", type=Numbers(0), metavar="S", help="End after S seconds without work.")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), envvar="DAIL_METRICS_PORT", show_envvar=True,
    help="Answer /metrics, /livez and /readyz there, on loopback; 0 picks a free port; off if left out.",
)  # fmt: skip
@click.option(
    "--log-format", type=click.Choice(("text", "json")), default="text", envvar="DAIL_LOG_FORMAT", show_envvar=True,
    show_default=True, help="Lines for people, or every event as a JSON line.",
)  # fmt: skip
def worker(
    chosen: Chosen,
    api: str,
    model: Path | None,
    name: str | None,
    actors: int | None,
    idle_exit_s: float | None,
    metrics_port: int | None,
    log_format: LogFormat,
) -> int:
    """Lease units from an API and roll them out on this Ray cluster.

    Inside `ray job submit` it uses that cluster, elsewhere it starts Ray on this machine. SIGTERM and Ctrl-C hand the
    units back and stop every engine. DAIL_TOKEN is sent as bearer token.
    """
    from dail.synth.core.http import worker_http
    from dail.synth.core.running import run_to_end
    from dail.synth.engine.versions import versions_here
    from dail.synth.run.metrics import Metrics
    from dail.synth.run.metrics_port import metrics_port as opened
    from dail.synth.run.unit_source import HttpSource, greet
    from dail.synth.run.uploads import Uploads
    from dail.synth.run.worker import run_worker
    from dail.synth.schema.models import identify
    from dail.synth.schema.units import HelloReply

    settings = _settings(chosen, model, actors)
    if "synthesis" in chosen.in_file:
        console.say(f"note: [synthesis] of {chosen.file} plays no part here; it comes with each batch (`dail submit`)")
    name = _worker_name(name)
    identity = identify(settings.engine.model, student=settings.student, privileged=settings.privileged_adapter)
    token, metrics = os.environ.get("DAIL_TOKEN"), Metrics()
    with console.logged_as(log_format, worker=name) as told, opened(metrics, metrics_port) as url:
        if url:
            told(f"metrics at {url}/metrics")
        source = HttpSource(worker_http(api, token), name, identity)
        uploads = Uploads(source)

        async def begun() -> HelloReply:
            reply = await greet(worker_http(api, token), name, identity, versions_here())
            await uploads.look(reply)  # says where shards will go, or why not straight there
            return reply

        reply = run_to_end(begun)
        told(f"the API runs dail {reply.tool_version} and has the model {identity.name}, file by file")
        told(f"worker {name} leases units of model {identity.name} from {api}; Ctrl-C hands them back")
        with console.all_on_stderr(), console.stop_on_signals(second_ends=True) as stop:
            stopped = run_worker(settings, source, idle_exit_s, stop, metrics, uploads)
        told(f"{'stopped' if stopped else 'no more work'}: {source.standing().done} units ended here")
    return EXIT_OK


@verb("synth")
@options.files()
@options.reading("OUT/invalid.jsonl")
@options.against()
@options.control()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of shards, manifest and ledger.")
@_MODEL
@_ACTORS
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object on standard output.")
def synth(
    chosen: Chosen,
    files: tuple[str, ...],
    reading: Reading,
    against: str | None,
    out: Path,
    model: Path | None,
    actors: int | None,
    as_json: bool,
) -> int:
    """Expert solutions in FILEs to shards and a manifest, on this machine, without a server.

    Ctrl-C loses nothing: the same command resumes. Other settings or items in the same --out make another batch beside
    the first. Exit code 3: some items failed; 4: all did.
    """
    from dail.synth.run.local import synthesise

    settings, synthesis = _both(chosen, model, actors)
    with console.all_on_stderr(), console.stop_on_signals(second_ends=True) as stop:
        summary = synthesise(files, out.resolve(), settings, synthesis, reading=reading, against=against, stop=stop)
    judgement = _judgement(summary.manifest)
    if as_json:
        always = {"manifest": summary.manifest, "student_share": summary.student_share}
        verdicts = {"verdicts": judgement.summary()} if judgement else {}
        console.emit({**summary.model_dump(mode="json", exclude_none=True), **always, **verdicts})
    if summary.interrupted:
        console.say(f"{summary.committed} of {summary.units} units are safe in {out}")
        raise click.Abort
    for entry in summary.failures:
        assert entry.failure is not None, "an entry among the failures has none"
        console.say(f"item {entry.item_id} failed: {entry.failure.code}: {entry.failure.detail}")
    if summary.skipped:
        console.say(f"{summary.skipped} of {summary.units} samples were not needed")
    share = "" if summary.student_share is None else f"{summary.student_share:.2f} by the student, "
    console.say(
        f"{summary.committed} traces, {summary.tokens} tokens, {share}"
        f"{summary.failed} units failed\nmanifest: {summary.manifest or 'none, since there is no trace'}"
    )
    for line in judgement.told() if judgement else ():
        console.say(line)
    if summary.manifest:
        config = f" --config {_named(chosen.file)}" if chosen.file else ""
        console.say(
            f"read them: dail inspect {shlex.quote(str(summary.manifest))} --out traces.html\n"
            f"next: dail train --model {settings.engine.model} --manifest {summary.manifest} --out FOLDER{config}"
        )
    return summary.exit_code


def _named(config: Path) -> str:
    """As it is typed: a preset by its name."""
    return next((name for name, path in presets().items() if path == config), shlex.quote(str(config)))


def _judgement(manifest: Path | None) -> Judgement | None:
    """What the traces are worth. What keeps them from being judged is said, and does not spoil the run."""
    from dail.synth.run.judging import judged_run

    if manifest is None:
        return None
    try:
        with waiting("judging the traces"):
            return judged_run(manifest)
    except (DailError, ModuleNotFoundError) as error:
        console.say(f"no verdicts: {error}")
        return None


@click.command("select")
@click.argument("source", metavar="MANIFEST|OUT", type=options.ManifestPath())
@click.option(
    "--keep",
    required=True,
    type=click.Choice(KEEPS),
    help="Of each item: all traces, all correct ones, the first correct one by sample index, one correct one by lot, "
    "the best of the correct ones; one by lot, or the best, whatever the verdict.",
)
@click.option(
    "--seed", type=click.IntRange(0), help="Of the lot; the seed that the traces were drawn with, if left out."
)
@click.option(
    "--grader",
    help="What is correct: math, official, or your own, FILE.py:NAME; synthesis.grader of the traces if left out.",
)
@click.option("--by", help="What is best: student_share, shortest, or your own, FILE.py:NAME, of the highest score.")
@click.option(
    "--without-answer",
    type=click.Choice(["drop", "one"]),
    help="Items without an answer (proofs), where correct traces are asked for: drop them (the default), or keep one "
    "trace of each.",
)
@click.option("--grade-timeout", "grade_timeout_s", type=Numbers(0.1), default=5.0, show_default=True,
              metavar="S", help="For one trace; given up, it is not correct.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object on standard output.")
def select(
    source: Path,
    keep: Keep,
    seed: int | None,
    grader: str | None,
    by: str | None,
    without_answer: WithoutAnswer | None,
    grade_timeout_s: float,
    as_json: bool,
) -> int:
    """Choose which traces of MANIFEST, or of the one batch in the folder OUT, are trained on.

    What is left is a manifest of its own beside it, for `dail train`, `dail cache` and `dail export`, that says how it
    was chosen and counts what was drawn, correct, chosen and dropped, item by item. The same selection again finds the
    same file. With RAY_ADDRESS, many traces are judged on that cluster.
    """
    from dail.synth.run.selection import select as chosen

    with console.all_on_stderr(), console.exit_on_sigterm():
        result = chosen(
            source,
            keep,
            seed=seed,
            grader=grader,
            by=by,
            without_answer=without_answer,
            grade_timeout_s=grade_timeout_s,
        )
    if as_json:
        console.emit(result.model_dump(mode="json"))
    else:
        click.echo(result.manifest)
    console.say(result.selection.told())
    return EXIT_OK


@click.command("inspect")
@click.argument("source", metavar="MANIFEST|OUT|SHARD", type=options.ManifestPath())
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.html", help="Write one file for a browser.")
@click.option("--force", is_flag=True, help="Replace FILE.html whatever it is.")
@click.option("--item", metavar="ID", help="This item alone; its first trace is shown token by token.")
@click.option("--sample", type=click.IntRange(0), metavar="N", help="This sample alone.")
@click.option(
    "--only",
    type=click.Choice(("failed", "cut", "leaky", "wrong", "low-student")),
    help="Those without a trace; cut at max_tokens; that cite what they were shown; with a wrong answer; of which the "
    "student wrote less than half.",
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="Show the first N.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the model that drew the traces, for shards of older releases, which lack the texts of tokens.",
)
@click.option("--json", "as_json", is_flag=True, help="Counts and a summary of each trace, as one JSON object.")
def inspect(
    source: Path,
    out: Path | None,
    force: bool,
    item: str | None,
    sample: int | None,
    only: str | None,
    limit: int,
    model: Path | None,
    as_json: bool,
) -> int:
    """Read the traces of MANIFEST (a path or URL), of the one batch in the folder OUT, or of SHARD.

    With --out they are one HTML file that needs no network; else a table, and with --item the trace by writer. Answers
    are judged by the batch's grader, where there is math-verify.
    """
    from dail.synth.run.inspecting import inspect as seen_in
    from dail.synth.run.inspecting import write_page

    decode = None
    if model is not None:
        from dail.synth.method.prompts import decoder

        decode = decoder(model)
    with console.all_on_stderr(), console.exit_on_sigterm():
        seen = seen_in(source, item=item, sample=sample, only=only, limit=limit, decode=decode)
        if out is not None:
            write_page(seen, out, force)
    summaries = [one.model_dump(mode="json") for one in seen.summaries[:limit]]
    if as_json:
        facts = {"traces": len(seen.all), "found": len(seen.summaries), "shown": len(summaries), "said": seen.said}
        console.emit({**facts, "counts": seen.counts, "out": None if out is None else str(out), "data": summaries})
    elif out is None:
        _show_traces(seen, item is not None, limit)
    if seen.not_judged:
        console.say(seen.not_judged)
    console.say(seen.said)
    if not seen.summaries:
        console.say(f"none of them is {only}" if only else "there is nothing to show")
    left = f"; {seen.num_left_out} more with a higher --limit" if seen.num_left_out > 0 else ""
    if out is not None:
        console.say(f"{len(seen.views)} traces in {out}{left}; open it in a browser")
    elif not as_json and seen.views and item is None:
        first = seen.views[0].summary
        console.say(
            f"{len(seen.summaries)} found{left}\nnext: dail inspect {source} --item {shlex.quote(first.item_id)}"
        )
    elif not as_json:
        console.say(f"next: dail inspect {source} --out traces.html")
    return EXIT_OK


def _show_traces(seen: Seen, one_by_one: bool, limit: int) -> None:
    """On standard output, without what steers a terminal."""
    from rich.console import Console

    from dail.synth.view.terminal import LEGEND, coloured, disagreements, table

    is_tty = sys.stdout.isatty()
    screen = Console(highlight=False, markup=False, soft_wrap=True, width=None if is_tty else 160)
    screen.print(table(seen.summaries[:limit]))
    if not one_by_one or not seen.views:
        return
    view = seen.views[0]
    screen.print(f"\n── {inked(view.summary.item_id)}, sample {view.summary.sample}: {view.no_tokens or LEGEND}")
    screen.print(coloured(view.texts or (view.text,), view.student_prob or (None,), is_tty))
    if lines := disagreements(view):
        screen.print(f"── the first of {view.summary.disagreements} disagreements: number, text, log-probabilities")
        for line in lines:
            screen.print(line)


@verb("doctor")
@options.files(required=False)
@options.reading("invalid.jsonl")
@_MODEL
@_ACTORS
@options.control()
@click.option("--no-preview", is_flag=True, help="Start no engine: no traces, no forecast.")
@options.against()
@click.option("--json", "as_json", is_flag=True, help="Everything, unshortened, as one JSON object.")
def doctor(
    chosen: Chosen,
    files: tuple[str, ...],
    reading: Reading,
    model: Path | None,
    actors: int | None,
    no_preview: bool,
    against: str | None,
    as_json: bool,
) -> int:
    """Look at machine, model and FILEs before a run: prompts with their token ids, what will be reserved, bad items,
    and from five items drawn on this Ray cluster the forecast of tokens, hours and disk. The data check names answers
    that contradict the box, items without waypoints, repeated problems and signs of damage in texts.

    Takes what `dail synth` takes. Exit code 1: Ray's dashboard is open to anybody; 3: some items cannot run; 4: none
    can.
    """
    from dail.synth.run.doctor import describe, examine

    settings, synthesis = _both(chosen, model, actors)
    with console.all_on_stderr(), console.exit_on_sigterm():
        report = examine(files or None, settings, synthesis, not no_preview, reading, against)
    if as_json:
        console.emit(report.model_dump(mode="json"))
    else:
        click.echo(console.plain(describe(report)))
    return report.exit_code


@verb("waypoints")
@options.files()
@options.reading("invalid.jsonl")
@click.option("--item", "item_id", metavar="ID", help="This item alone.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N items.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an item on standard output.")
def waypoints(
    chosen: Chosen, files: tuple[str, ...], reading: Reading, item_id: str | None, limit: int | None, as_json: bool
) -> int:
    """Show what the extractor finds in FILEs, item by item: the solution with its waypoints marked, the answer, the
    kind and what the negative reference is told. Needs no model.

    Exit code 3: the extractor or a template failed on some items; 4: on all.
    """
    from dail.synth.run.waypoint_view import chosen_items, describe, look, summary

    synthesis = chosen.load(Synthesis, "synthesis").pinned()
    views = []
    for item in chosen_items(files, reading, synthesis, item_id, limit):
        views.append(view := look(item, synthesis))
        console.emit(view.model_dump(mode="json")) if as_json else click.echo(describe(view, sys.stdout.isatty()))
    console.say(summary(views, synthesis))
    num_failed = sum(view.failure is not None for view in views)
    return EXIT_OK if not num_failed else EXIT_SOME_FAILED if num_failed < len(views) else EXIT_BATCH_FAILED


@click.group()
def prompts() -> None:
    """Prompts of others as a folder for synthesis.prompts and eval.prompts."""


@prompts.command("import")
@click.argument("checkout", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the three templates.")
@click.option("--json", "as_json", is_flag=True, help="What was read and written, as one JSON object.")
def import_prompts(checkout: Path, out: Path, as_json: bool) -> None:
    """Take the authors' prompts from PATH, your own checkout of their repository, whose programs are read and not run.

    Writes student.jinja, privileged_student.jinja, negative_reference.jinja and source.json, with the digests of the
    files and the commit. Replaces nothing.
    """
    from dail.synth.method.authors_prompts import import_prompts

    imported = import_prompts(checkout, out.resolve())
    if as_json:
        console.emit(imported.model_dump(mode="json"))
    said = f"of commit {imported.commit}" if imported.commit else "of no known commit"
    console.say(f"prompts {said}: take them with --set synthesis.prompts={imported.folder}")


def _both(chosen: Chosen, model: Path | None, actors: int | None) -> tuple[SynthConfig, Synthesis]:
    return _settings(chosen, model, actors), chosen.load(Synthesis, "synthesis")


def _settings(chosen: Chosen, model: Path | None, actors: int | None) -> SynthConfig:
    engine = load_engine(chosen, model)
    return chosen.told("worker", actors=actors).load(SynthConfig, "worker", engine=engine)


def _worker_name(name: str | None) -> str:
    """Refuses what is meant as a model's name: NAME=FOLDER is an option of `dail serve`."""
    if name and ("=" in name or ("/" in name and Path(name).is_dir())):
        raise UsageError(
            f"--name {name!r} names this worker, and not a model; give a model's folder with --model, and its name to "
            "`dail serve --model NAME=FOLDER`"
        )
    return name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
