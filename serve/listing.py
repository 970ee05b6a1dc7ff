"""`dail settings`: every setting with its sentence, its bound and its default; the environment; the presets."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import click

from dail.synth.core.console import emit
from dail.synth.core.errors import UsageError
from dail.synth.core.settings import TABLES, Setting, described, did_you_mean, presets, settings_of, spelled

ENVIRONMENT = "environment"
_PREFIX = "DAIL_"
# Beside those of `dail serve`. Ray's, vLLM's and PyTorch's own work too; these are the ones a run asks for.
_OTHERS = {
    "DAIL_API": "URL of the API, for worker, submit, watch and the other verbs of batches; --api wins",
    "DAIL_CACHE": "folder of the copies of shards whose manifest is given by a URL; ~/.cache/dail if not set",
    "DAIL_LOG_FORMAT": "`dail serve` and `dail worker`: the log on standard error: lines for people (text), or every "
    "event as a JSON line (json); --log-format wins",
    "DAIL_METRICS_PORT": "`dail worker`: loopback port of /metrics, /livez and /readyz, 0 for a free one; "
    "--metrics-port wins",
    "DAIL_TOKEN": "bearer token: `dail serve` takes it for everything (16 characters at least), worker and the verbs "
    "of batches send it, or one of `dail token new`",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "`dail serve` sends a span of every attempt at a unit to this collector, by OTLP "
    "over HTTP; needs dail[otel]; OpenTelemetry's other OTEL_ variables hold too",
    "RAY_ADDRESS": "the Ray cluster that worker, synth, doctor and `dail train --ray-workers` join; without it they "
    "start Ray on this machine; select judges many traces there, without it on this machine",
    "RAY_AUTH_MODE": "token: Ray asks for a token; set it on every cluster",
    "OMP_NUM_THREADS": "threads of the trainer on a CPU",
    "_DAIL_COMPLETE": "set by the script of `dail completion` while a shell completes",
}


@click.command()
@click.argument(
    "table", required=False, metavar="[TABLE]", shell_complete=lambda *of: [n for n in _names() if n.startswith(of[2])]
)
@click.option("--toml", "as_toml", is_flag=True, help="A commented file of all defaults, for --config.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def settings(table: str | None, as_toml: bool, as_json: bool) -> None:
    """Every setting with its sentence, its bound and its default.

    TABLE is engine, worker, synthesis, train, loop or eval, a table of a config file, or `environment`. A setting is
    given with --set TABLE.KEY=VALUE, or KEY=VALUE where that is clear, or in a file: `dail settings --toml > run.toml`.
    """
    if table is not None and table not in _names():
        raise UsageError(f"there is no table {table!r}{did_you_mean(table, _names())}; they are {', '.join(_names())}")
    if as_toml and table == ENVIRONMENT:
        raise UsageError("the environment is no part of a config file; leave out --toml")
    shown = [name for name in TABLES if table in (None, name)]
    if as_json:
        emit(_as_json(shown, table in (None, ENVIRONMENT)))
    elif as_toml:
        click.echo("\n".join(line for name in shown for line in _as_toml(name)).strip())
    else:
        _print(shown, table in (None, ENVIRONMENT), table is None)


def environment() -> dict[str, str]:
    """The variables of the environment that are read, each with its sentence."""
    # here, so that the verbs of a table need no pydantic-settings
    from dail.serve.settings import Settings

    of_serve = described("", Settings).values()
    named = {f"{_PREFIX}{one.key.upper()}": f"`dail serve`: {one.sentence} [{one.about}]" for one in of_serve}
    return named | _OTHERS


def _names() -> list[str]:
    return [*TABLES, ENVIRONMENT]


def _as_json(tables: list[str], with_environment: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "settings": [
            {
                "name": one.name,
                "sentence": one.sentence,
                "takes": one.kind,
                "choices": one.choices,
                "default": one.default,
                "required": one.is_required,
                "verbs": TABLES[name].verbs,
            }
            for name in tables
            for one in settings_of(name).values()
        ]
    }
    if with_environment:
        found["environment"] = environment()
        found["presets"] = {name: str(path) for name, path in presets().items()}
    return found


def _as_toml(table: str) -> Iterator[str]:
    """A table of a file with every default; what is left out by default is a comment."""
    yield f"# {TABLES[table].about}: {', '.join(f'dail {verb}' for verb in TABLES[table].verbs)}"
    yield f"[{table}]"
    for one in settings_of(table).values():
        yield from textwrap.wrap(f"{one.sentence} [{one.kind}]", 110, initial_indent="# ", subsequent_indent="# ")
        yield f"# {one.key} =" if one.default is None else f"{one.key} = {spelled(one.default)}"
    yield ""


def _print(tables: list[str], with_environment: bool, with_presets: bool) -> None:
    formatter = click.HelpFormatter(max_width=118)
    for name in tables:
        verbs = ", ".join(f"dail {verb}" for verb in TABLES[name].verbs)
        _section(formatter, f"[{name}] {TABLES[name].about} ({verbs})", map(_row, settings_of(name).values()))
    if with_environment:
        _section(formatter, "Environment", environment().items())
    if with_presets:
        _section(formatter, "Presets (--config NAME)", ((name, _first_words(name)) for name in presets()))
    click.echo(formatter.getvalue().strip())


def _section(formatter: click.HelpFormatter, title: str, rows: Any) -> None:
    with formatter.section(title):
        formatter.write_dl(list(rows), col_max=28)


def _row(one: Setting) -> tuple[str, str]:
    return one.name, f"{one.sentence} [{one.about}]"


def _first_words(preset: str) -> str:
    """The comment that a preset begins with, up to its first full stop."""
    lines = presets()[preset].read_text("utf-8").splitlines()
    head = [line.removeprefix("#").strip() for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")]]
    return " ".join(head).partition(". ")[0]
