"""The verbs of synthesis: `dail worker` and `dail synth`. Rooms with Ray and transformers are imported on use."""

from __future__ import annotations

import json
import os
import secrets
import socket
from pathlib import Path

import click

from dail.synth.config import SynthConfig
from dail.synth.core import console
from dail.synth.core.errors import UsageError
from dail.synth.schema.synthesis import Synthesis

_CONFIG = click.option(
    "--config", type=click.Path(path_type=Path), help="TOML with the tables [synth] and [synthesis]."
)
_MODEL = click.option("--model", type=click.Path(path_type=Path), help="Folder with safetensors and tokenizer.")
_ACTORS = click.option("--actors", type=click.IntRange(1), help="Engines; one per GPU (or 1) if left out.")
_SYNTHESIS = "synthesis."
_SETTINGS = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="synthesis.tau=0.9 for [synthesis]; without that prefix a setting of [synth]: engine.rows=64.",
)


@click.command()
@click.option("--api", default="http://127.0.0.1:8765", show_default=True, help="URL of the API.")
@_MODEL
@click.option("--name", help="Shown in leases; made from host and process if left out.")
@_ACTORS
@_CONFIG
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of [synth]: engine.rows=64.")
@click.option("--idle-exit", "idle_exit_s", type=float, metavar="S", help="End after S seconds without work.")
def worker(
    api: str,
    model: Path | None,
    name: str | None,
    actors: int | None,
    config: Path | None,
    overrides: tuple[str, ...],
    idle_exit_s: float | None,
) -> int:
    """Lease units from an API and roll them out on this Ray cluster.

    Inside `ray job submit` it uses that cluster, elsewhere it starts Ray on this machine. SIGTERM and Ctrl-C hand the
    units back and stop every engine. DAIL_TOKEN is sent as bearer token.
    """
    from dail.synth.core.http import worker_http
    from dail.synth.run.unit_source import HttpSource
    from dail.synth.run.worker import run_worker
    from dail.synth.schema.models import identify

    settings = _settings(config, model, actors, overrides)
    identity = identify(settings.engine.model, student=settings.student)
    client = worker_http(api, os.environ.get("DAIL_TOKEN"))
    source = HttpSource(client, name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}", identity)
    console.say(f"leasing units of model {identity.name} from {api}; Ctrl-C hands them back")
    with console.all_on_stderr(), console.stop_on_signals() as stop:
        stopped = run_worker(settings, source, idle_exit_s, stop)
    done, _, _ = source.standing()
    console.say(f"{'stopped' if stopped else 'no more work'}: {done} units ended here")
    return 0


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of shards, manifest and ledger.")
@_MODEL
@_ACTORS
@_CONFIG
@_SETTINGS
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object on standard output.")
def synth(
    file: Path,
    out: Path,
    model: Path | None,
    actors: int | None,
    config: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Expert solutions in FILE to shards and a manifest, on this machine, without a server.

    Ctrl-C loses nothing: the same command resumes. Other settings or items in the same --out make another batch beside
    the first. Exit code 3: some items failed; 4: all did.
    """
    from dail.synth.run.local import synthesise

    with console.all_on_stderr(), console.stop_on_signals() as stop:
        summary = synthesise(file.resolve(), out.resolve(), *_both(config, model, actors, overrides), stop=stop)
    if as_json:
        console.emit({**summary.model_dump(mode="json", exclude_none=True), "manifest": summary.manifest})
    if summary.interrupted:
        console.say(f"{summary.committed} of {summary.units} units are safe in {out}")
        raise click.Abort
    for entry in summary.failures:
        assert entry.failure is not None, "an entry among the failures has none"
        console.say(f"item {entry.item_id} failed: {entry.failure.code}: {entry.failure.detail}")
    console.say(
        f"{summary.committed} traces, {summary.tokens} tokens, {summary.student_share:.2f} by the student, "
        f"{summary.failed} units failed\nmanifest: {summary.manifest or 'none, since there is no trace'}"
    )
    return summary.exit_code


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@_MODEL
@_ACTORS
@_CONFIG
@_SETTINGS
@click.option("--no-preview", is_flag=True, help="Start no engine: no traces, no forecast.")
@click.option("--json", "as_json", is_flag=True, help="Everything, unshortened, as one JSON object.")
def doctor(
    file: Path | None,
    model: Path | None,
    actors: int | None,
    config: Path | None,
    overrides: tuple[str, ...],
    no_preview: bool,
    as_json: bool,
) -> int:
    """Look at machine, model and FILE before a run: prompts with their token ids, what will be reserved, bad items, and
    from five items drawn on this Ray cluster the forecast of tokens, hours and disk.

    Takes what `dail synth` takes. Exit code 1: Ray's dashboard is open to anybody; 3: some items cannot run; 4: none
    can.
    """
    from dail.synth.run.doctor import describe, examine

    settings, synthesis = _both(config, model, actors, overrides)
    with console.all_on_stderr(), console.exit_on_sigterm():
        report = examine(file.resolve() if file else None, settings, synthesis, not no_preview)
    if as_json:
        console.emit(report.model_dump(mode="json"))
    else:
        click.echo(describe(report))
    return report.exit_code


def _both(
    config: Path | None, model: Path | None, actors: int | None, overrides: tuple[str, ...]
) -> tuple[SynthConfig, Synthesis]:
    """The tables [synth] and [synthesis], each with the `--set` that is its own."""
    chosen = [key.removeprefix(_SYNTHESIS) for key in overrides if key.startswith(_SYNTHESIS)]
    settings = _settings(config, model, actors, [key for key in overrides if not key.startswith(_SYNTHESIS)])
    return settings, Synthesis.load(config, "synthesis", chosen)


def _settings(
    config: Path | None, model: Path | None, actors: int | None, overrides: tuple[str, ...] | list[str]
) -> SynthConfig:
    """The [synth] table, then `--set`, then the flags. The model's folder is made absolute: workers run elsewhere."""
    chosen = list(overrides)
    if model is not None:
        chosen.append(f"engine.model={json.dumps(str(model))}")
    if actors is not None:
        chosen.append(f"actors={actors}")
    if model is None and not any(key.startswith("engine.model=") for key in chosen) and config is None:
        raise UsageError("no model is named; give --model FOLDER, or engine.model in --config")
    settings = SynthConfig.load(config, "synth", chosen)
    folder = settings.engine.model.expanduser().resolve()
    return settings.model_copy(update={"engine": settings.engine.model_copy(update={"model": folder})})
