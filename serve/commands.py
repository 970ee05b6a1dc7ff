"""The verbs that start the API and talk to it: serve, submit, watch, list, cancel, retry, delete, results."""

from __future__ import annotations

import datetime as dt
import errno
import logging
import os
import shlex
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from dail.serve.waiting import NOBODY_S, Waiting
from dail.synth.core.console import ConsoleBar, console_bar, emit, plain, say
from dail.synth.core.errors import (
    EXIT_BATCH_FAILED,
    EXIT_CANCELLED,
    EXIT_OK,
    EXIT_SOME_FAILED,
    ApiError,
    DailError,
    UsageError,
)
from dail.synth.core.http import Client
from dail.synth.core.logs import log_as
from dail.synth.core.options import verb
from dail.synth.core.settings import Chosen
from dail.synth.data import options
from dail.synth.data.reader import Reading, read_solutions
from dail.synth.schema.kinds import ItemKinds
from dail.synth.schema.synthesis import Synthesis

DEFAULT_API = "http://127.0.0.1:8765"
_POLL_S = 1.0
_STARTING_S = 15  # a server that was started together with `dail submit` listens by then
_GIVE_UP_S = 1800  # a server that is away longer has not just been restarted
_ENDED = ("completed", "failed", "expired", "cancelled")
_SHOWN_CODES = 20
_NEWEST = 2**53  # as Last-Event-ID: what comes from now on

_api = click.option("--api", default=DEFAULT_API, envvar="DAIL_API", show_envvar=True, show_default=True,
                    help="URL of the API.")  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output, one object a line.")


@click.command()
@click.option("--host", help="Address to listen on [127.0.0.1]; any other than loopback needs a token.")
@click.option("--port", type=int, help="Port [8765]; 0 picks a free one.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Store and shards [runs/api].")
@click.option("--objects", metavar="PLACE", help="Where shards and manifests go instead: a folder, s3:// or gs://.")
@click.option("--model", "models", multiple=True, metavar="NAME=FOLDER", help="A model batches may name; repeatable.")
@click.option(
    "--student",
    "students",
    multiple=True,
    metavar="NAME=FOLDER",
    help="What the student of that model has of its own: a LoRA adapter, or weights.",
)
@click.option(
    "--privileged",
    multiple=True,
    metavar="NAME=FOLDER",
    help="The LoRA adapter of that model's privileged student, if it is not the bare model.",
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    help="Warnings for people [text], or every request and change of a unit as a JSON line.",
)
@_json
def serve(
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    objects: str | None,
    models: tuple[str, ...],
    students: tuple[str, ...],
    privileged: tuple[str, ...],
    log_format: str | None,
    as_json: bool,
) -> None:
    """Start the API that takes batches of expert solutions.

    Everything it accepts is on disk before it answers: stop it, kill it, start it again with the same --data-dir.
    Every option can also come from the environment: DAIL_HOST, DAIL_PORT, DAIL_DATA_DIR, DAIL_OBJECTS, DAIL_MODELS,
    DAIL_STUDENTS and DAIL_PRIVILEGED (JSON), DAIL_LOG_FORMAT. DAIL_STORE=postgresql://… keeps the store there, which
    several servers may share.
    """
    # Here, so that the other verbs start without the web framework and the store.
    from dail.serve.app import create_app
    from dail.serve.server import Server
    from dail.serve.settings import load_settings

    named = {
        "models": _registered("--model", models),
        "students": _registered("--student", students),
        "privileged": _registered("--privileged", privileged),
    }
    settings = load_settings(host=host, port=port, data_dir=data_dir, objects=objects, log_format=log_format, **named)
    log_as(settings.log_format)
    tell_people = say if settings.log_format == "text" else logging.getLogger("dail.serve").info
    with _listen(settings.host, settings.port) as listener:
        if settings.models:
            tell_people(f"reading {len(settings.models)} model folder(s)")
        app = create_app(settings)
        url = f"http://{_in_url(settings.host)}:{listener.getsockname()[1]}"
        for_whom = "for who has a token" if app.state.tokens.are_wanted else f"in a browser: {url}/"
        kept = f"store and shards in {settings.data_dir.resolve()}"
        if settings.store or settings.objects:
            kept = f"store {app.state.service.store.name}, shards in {app.state.service.objects.url}"
        tell_people(f"API at {url} ({for_whom}); {kept}")
        if not settings.models:
            tell_people("no model is registered, so batches will be refused; give --model NAME=FOLDER")
        if as_json:
            emit({"url": url, "data_dir": str(settings.data_dir.resolve()), "models": sorted(settings.models)})
        Server(app).run(sockets=[listener])


@verb("submit")
@options.files()
@options.reading("invalid.jsonl")
@options.against()
@options.control()
@_api
@click.option("--model", help="A model the API has registered; its only one if left out.")
@click.option("--run-label", help="The same files under another label is another batch.")
@click.option("--watch", "is_watched", is_flag=True, help="Follow the batch until it ends.")
@_json
def submit(
    chosen: Chosen,
    files: tuple[str, ...],
    reading: Reading,
    against: str | None,
    api: str,
    model: str | None,
    run_label: str | None,
    is_watched: bool,
    as_json: bool,
) -> int:
    """POST files of expert solutions as a batch.

    Prints the batch's id. Submitting the same files with the same settings again finds the batch there is.
    """
    from dail.synth.method.data_check import check_data, problems_of

    synthesis = chosen.load(Synthesis, "synthesis")
    solutions = read_solutions(files, reading).items
    problems = problems_of(against) if against else None
    if (check := check_data(solutions, synthesis, problems)).findings:
        say(f"data check: {check.told()}; `dail doctor {' '.join(files)}` lists what was found")
    body = {
        "items": [item.model_dump(mode="json", exclude_defaults=True) for item in solutions],
        "synthesis": synthesis.model_dump(mode="json", exclude_defaults=True),
        **({"model": model} if model else {}),
        **({"run_label": run_label} if run_label else {}),
    }
    with _client(api) as client:
        batch = _patiently(lambda: client.post("/v1/batches", body), _STARTING_S)
        items, units = batch["request_counts"]["total"], batch["units"]["total"]
        say(f"{batch['id']}: {items} items, {units} units, model {batch['model']['name']}, {batch['status']}")
        say(ItemKinds.model_validate(batch["item_kinds"]).told())
        if is_watched:
            return _watched(client, batch["id"], as_json)
    emit(batch) if as_json else click.echo(batch["id"])
    return EXIT_OK


@click.command()
@click.argument("batch")
@_api
@_json
def watch(batch: str, api: str, as_json: bool) -> int:
    """Follow a batch until it ends; a restart of the server does not end the watch.

    Exit code: 0 all good, 3 some items failed, 4 the batch failed, 5 cancelled or expired.
    """
    with _client(api) as client:
        return _watched(client, batch, as_json)


@click.command("list")
@click.option("--status", help="Only batches in this state, such as in_progress or completed.")
@_api
@_json
def list_batches(status: str | None, api: str, as_json: bool) -> int:
    """All batches of an API, newest first."""
    with _client(api) as client:
        for batch in client.pages("/v1/batches", **({"status": status} if status else {})):
            emit(batch) if as_json else click.echo(_line(batch))
    return EXIT_OK


@click.command()
@_api
@_json
def workers(api: str, as_json: bool) -> int:
    """Who works for an API, and what each holds; those that nothing was heard of for a lease are grey."""
    with _client(api) as client:
        found = client.get("/v1/workers")["data"]
    for worker in found:
        if as_json:
            emit(worker)
            continue
        click.secho(plain(_worker_line(worker)), dim=worker["silent"])
    if not found:
        say("no worker was heard of in the last day; start one: dail worker --api URL --model FOLDER")
    return EXIT_OK


@click.command()
@click.argument("batch")
@_api
@_json
def cancel(batch: str, api: str, as_json: bool) -> int:
    """Stop a batch; what is committed is kept, and `dail retry` takes the rest up again."""
    with _client(api) as client:
        _print_batch(client.post(f"/v1/batches/{batch}/cancel"), as_json)
    return EXIT_OK


@click.command()
@click.argument("batch")
@click.argument("items", nargs=-1)
@_api
@click.option("--watch", "is_watched", is_flag=True, help="Follow the batch until it ends.")
@_json
def retry(batch: str, items: tuple[str, ...], api: str, is_watched: bool, as_json: bool) -> int:
    """New attempts for what ended without a trace, in the same batch: all of it, or the ITEMS that are named."""
    with _client(api) as client:
        found = client.post(f"/v1/batches/{batch}/retry", {"items": list(items) or "failed"})
        if is_watched:
            return _watched(client, batch, as_json)
    _print_batch(found, as_json)
    return EXIT_OK


@click.command()
@click.argument("batch")
@_api
@_json
def delete(batch: str, api: str, as_json: bool) -> int:
    """Delete an ended batch; its files go after 30 days."""
    with _client(api) as client:
        client.delete(f"/v1/batches/{batch}")
    emit({"id": batch, "deleted": True}) if as_json else click.echo(f"{batch} deleted")
    return EXIT_OK


@click.command()
@click.argument("batch")
@_api
@click.option("--shards", "with_shards", is_flag=True, help="List every shard.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write traces and failures to NAME.jsonl, the traces to NAME.parquet, or copy manifest and shards to a "
    "FOLDER; the same command again goes on.",
)
@_json
def results(batch: str, api: str, with_shards: bool, out: Path | None, as_json: bool) -> int:
    """What came of a batch: counts, failures by code, where its files are, and what to do next.

    The exit code is as for watch; 0 while it runs.
    """
    with _client(api) as client:
        found = client.get(f"/v1/batches/{batch}")
        shards = client.get(f"/v1/batches/{batch}/shards")
        failed = list(client.pages(f"/v1/batches/{batch}/items", status="failed"))
        written = None if out is None else _save(client, batch, out)
        verdicts = [] if as_json or with_shards else _judged_lines(client, found)
    if as_json:
        told = {"batch": found, "output_root": shards["output_root"], "shards": shards["data"], "failed_items": failed}
        emit(told if written is None else {**told, "written": str(written)})
    else:
        copied = written if written is not None and written.suffix == ".json" else None
        _print_results(found, shards, failed, with_shards, copied, verdicts)
    if written is not None:
        say(f"results written to {written}")
    return _exit_code(found) if found["status"] in _ENDED else EXIT_OK


def _worker_line(worker: Any) -> str:
    units, lapsed = worker["units"], sum(unit["lapsed"] for unit in worker["units"])
    batches = ", ".join(sorted({unit["batch_id"] for unit in units}))
    holds = f"holds {len(units)} units of {batches}" if units else "holds nothing"
    silent_s = time.time() - worker["heard_at"]
    state = f"silent for {silent_s:.0f} s" if worker["silent"] else "working" if units else "waiting"
    model = f"{worker['model']} ({worker['revision'][:20]})"
    return f"{worker['id']}  {model}  {worker['host']}  {state}  {holds}" + (f", {lapsed} lapsed" if lapsed else "")


def _client(api: str) -> Client:
    return Client(api, os.environ.get("DAIL_TOKEN"))


def _registered(option: str, values: tuple[str, ...]) -> dict[str, Path] | None:
    named = {}
    for value in values:
        name, sep, folder = value.partition("=")
        if not sep or not name or not folder:
            raise UsageError(
                f"{option} {value!r} is not NAME=FOLDER; write for example {option} qwen3-8b=/models/qwen3-8b"
            )
        named[name] = Path(folder)
    return named or None


def _listen(host: str, port: int) -> socket.socket:
    """Bound before anything slow happens, so that a taken port is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise DailError(
                f"port {port} on {host} is in use; stop what listens there, or take a free one with --port 0"
            ) from None
        raise DailError(f"cannot listen on {host} port {port}: {error.strerror}; choose another --host") from None
    listener.listen(2048)
    return listener


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _nothing() -> None:
    pass


def _watched(client: Client, batch_id: str, as_json: bool) -> int:
    """Follows a batch to its end and says what came of it; its exit code."""
    code = follow(client, batch_id, as_json)
    if not as_json:
        batch = client.get(f"/v1/batches/{batch_id}")
        for line in _judged_lines(client, batch):
            say(line)
        say(_next_commands(batch))
    return code


def _judged_lines(client: Client, batch: Any) -> list[str]:
    from dail.serve.judged import judged  # here, so that other verbs do not wait for the grader

    found = judged(client, batch)
    return found.told() if found else []


def _next_commands(batch: Any, manifest: Path | None = None) -> str:
    """What to type next. `manifest`: a copy of it that is here."""
    if batch["manifest"]:
        path = shlex.quote(str(manifest or batch["manifest"]["path"]))
        return (
            f"read them: dail inspect {path} --out traces.html\n"
            f"next: dail train --model FOLDER --manifest {path} --out FOLDER"
        )
    return f"next: dail {'results' if batch['status'] in _ENDED else 'watch'} {batch['id']}"


def follow(client: Client, batch_id: str, as_json: bool = False, check: Callable[[], None] = _nothing) -> int:
    """Shows a batch's progress until it ends; its exit code.

    Args:
        check: called every second, and may raise; by whoever looks after the worker, who is not told to start one.
    """
    batch = client.get(f"/v1/batches/{batch_id}")
    with console_bar("units", batch["units"]["total"]) as bar:
        last, waiting = None, Waiting(client.url, starts_worker=check is not _nothing)
        changes = _changes(client, batch_id, check)
        while True:
            _show(bar, batch, waiting.look(batch))
            if as_json and batch != last:
                emit(batch)
            if batch["status"] in _ENDED:
                break
            last = batch
            next(changes)
            batch = _patiently(lambda: client.get(f"/v1/batches/{batch_id}"), _GIVE_UP_S)
    say(_summary(batch))
    return _exit_code(batch)


def _changes(client: Client, batch_id: str, check: Callable[[], None]) -> Iterator[None]:
    """Comes back whenever the batch may look different: by its events, else every second. Never ends."""
    began, has_events = time.monotonic(), True
    while True:
        time.sleep(_POLL_S)
        check()
        yield
        # somebody who looks after other processes meanwhile is not to be kept waiting by a silent stream
        if check is not _nothing or not has_events or time.monotonic() - began < 2 * NOBODY_S:
            continue
        try:
            looked = 0.0
            for _, kind in client.events(f"/v1/batches/{batch_id}/events", _NEWEST):
                if kind == "done" or time.monotonic() - looked > _POLL_S:
                    looked = time.monotonic()
                    yield
        except ApiError as error:
            has_events = error.status not in (404, 405)  # a server of an earlier release


def _patiently(ask: Callable[[], Any], give_up_s: float) -> Any:
    """The API's answer, however often the server is restarted meanwhile. `ask` must be safe to repeat."""
    first_failure: float | None = None
    while True:
        try:
            return ask()
        except ApiError as error:
            if 0 < error.status < 500:
                raise
            if first_failure is None:
                first_failure = time.monotonic()
                say(f"{error}; still trying")
            if time.monotonic() - first_failure > give_up_s:
                raise
            time.sleep(_POLL_S)


def _show(bar: ConsoleBar, batch: Any, waiting: str | None) -> None:
    items, units, tokens = batch["request_counts"], batch["units"], batch["tokens"]
    figures: dict[str, object] = {
        "waiting": waiting,
        "items": f"{items['completed'] + items['failed'] + items['cancelled'] + items['expired']}/{items['total']}",
        "running": units["leased"],
        **({"failed": units["failed"]} if units["failed"] else {}),
        **({"not needed": units["skipped"]} if units["skipped"] else {}),
        "tokens/s": batch["tokens_per_s"],
        "student_share": tokens["student_share"],
    }
    ended = units["total"] - units["waiting"] - units["queued"] - units["leased"]
    bar.update(ended, units["total"], **figures)


def _summary(batch: Any) -> str:
    items = batch["request_counts"]
    ended = ", ".join(f"{count} {state}" for state, count in items.items() if state != "total" and count)
    manifest = batch["manifest"]
    where = f"manifest {manifest['path']}" if manifest else "no manifest"
    skipped, units = batch["units"]["skipped"], batch["units"]["total"]
    saved = f"{skipped} of {units} samples were not needed; " if skipped else ""
    return f"{batch['id']} {batch['status']}: {ended} of {items['total']} items; {saved}{where}"


def _exit_code(batch: Any) -> int:
    if batch["status"] == "failed":
        return EXIT_BATCH_FAILED
    if batch["status"] in ("cancelled", "expired"):
        return EXIT_CANCELLED
    return EXIT_SOME_FAILED if batch["request_counts"]["failed"] else EXIT_OK


def _error(item: Any) -> Any:
    return item.get("error") or next(one["error"] for one in item["samples"] if one["status"] == "failed")


def _print_batch(batch: Any, as_json: bool) -> None:
    emit(batch) if as_json else click.echo(_line(batch))


def _line(batch: Any) -> str:
    made = dt.datetime.fromtimestamp(batch["created_at"]).strftime("%Y-%m-%d %H:%M")
    counts = ", ".join(f"{count} {state}" for state, count in batch["request_counts"].items() if count)
    labels = (f"of {batch['tenant']}" if batch.get("tenant") else "", batch["run_label"])
    label = "".join(f"  {_plain(one)}" for one in labels if one)
    return f"{batch['id']}  {made}  {batch['status']:<11}  {counts}{label}"


def _plain(text: str) -> str:
    """What somebody posted, without the characters that steer a terminal.

    >>> _plain(chr(27) + "[31mred" + chr(10))
    '[31mred'
    """
    return "".join(char for char in text if char.isprintable())


def _print_results(
    batch: Any, shards: Any, failed: list[Any], with_shards: bool, manifest: Path | None, verdicts: list[str]
) -> None:
    """`manifest`: a copy of it that is here."""
    if with_shards:
        traces = Counter(shard["key"] for shard in shards["data"])
        for key, size in {shard["key"]: shard["size_bytes"] for shard in shards["data"]}.items():
            click.echo(f"{shards['output_root']}/{key}  {traces[key]} traces  {size} bytes")
        return
    click.echo(_summary(batch))
    errors = [{"id": item["id"], **_error(item)} for item in failed]
    for code, count in Counter(error["code"] for error in errors).most_common(_SHOWN_CODES):
        first = next(error for error in errors if error["code"] == code)
        click.echo(f"  {count} failed with {code}, such as {_plain(first['id'])}: {_plain(first['detail'])}")
    if shards["data"]:
        num_files = len({shard["key"] for shard in shards["data"]})
        where = f"{num_files} shards in {shards['output_root']} (--shards lists them)"
        click.echo(f"  {len(shards['data'])} traces in {where}")
    if batch["status"] in _ENDED and failed:
        click.echo(f"try the failed items again: dail retry {batch['id']}")
    for line in verdicts:
        click.echo(plain(line))
    if batch["manifest"] or batch["status"] not in _ENDED:
        click.echo(_next_commands(batch, manifest))


def _save(client: Client, batch_id: str, out: Path) -> Path:
    """What was written: of a folder its manifest."""
    form = "" if out.is_dir() else out.suffix.removeprefix(".")
    if form in ("jsonl", "parquet"):
        _save_file(client, f"/v1/batches/{batch_id}/results?format={form}", out)
        return out
    wanted = "wanted NAME.jsonl, NAME.parquet or a folder"
    if form:
        raise UsageError(f"--out {out}: its name says what is written; {wanted}")
    there = next(one for one in (out, *out.parents) if one.exists())
    if not there.is_dir():
        raise UsageError(f"--out {out}: {there} is no folder; {wanted}")
    from dail.synth.core.files import Objects  # here, so that other verbs do not wait for pyarrow
    from dail.synth.schema.mirror import copy_manifest

    with console_bar("files", 0) as bar:
        return copy_manifest(client, batch_id, Objects(out), bar.update)


def _save_file(client: Client, path: str, out: Path) -> None:
    """The file appears whole or not at all."""
    partial = out.with_name(out.name + ".partial")
    try:
        with open(partial, "wb") as file:
            for block in client.download(path):
                file.write(block)
        os.replace(partial, out)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; give another --out") from None
    finally:
        partial.unlink(missing_ok=True)
