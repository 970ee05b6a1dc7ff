"""The options of every verb that has settings: `--config` and `--set`, their help and their completion."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from dail.synth.core.errors import UsageError
from dail.synth.core.model_folders import no_model_folder
from dail.synth.core.settings import TABLES, presets, read, settings_of, tables_of


class Numbers(click.FloatRange):
    """Finite numbers of a range. NaN is on no side of a bound, so click's own range lets it through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


class ModelFolder(click.Path):
    """A folder that is there; the name of a hub's model is refused with the way to it."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not Path(value).exists():
            raise UsageError(no_model_folder(Path(value)))
        return super().convert(value, param, ctx)


class Verb(click.Command):
    """A command whose help ends with its settings: sentence, bound and default of each."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        for table in tables_of(self.name or ""):
            with formatter.section(f"Settings of [{table}], {TABLES[table].about}"):
                formatter.write_dl(
                    [(one.name, f"{one.sentence} [{one.about}]") for one in settings_of(table).values()], col_max=28
                )


def verb(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Makes the command of a verb with settings: the function gets what was said of them as `chosen`."""

    def make(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def run(config: str | None, overrides: tuple[str, ...], **others: Any) -> Any:
            return function(chosen=read(name, config, overrides), **others)

        command = click.command(name, cls=Verb)(run)
        command.params += [_config(name), _set(name)]
        return command

    return make


def _config(verb: str) -> click.Option:
    tables = ", ".join(f"[{table}]" for table in tables_of(verb))
    return click.Option(
        ["--config"],
        metavar="NAME|FILE.toml",
        shell_complete=complete_config,
        help=f"A preset ({', '.join(presets())}) or a TOML file, checked whole; {tables} of it are used. Relative "
        "paths in it are relative to the current folder.",
    )


def _set(verb: str) -> click.Option:
    return click.Option(
        ["--set", "overrides"],
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=complete_set,
        help="One setting of those below, by its name or, where that is clear, by the part after the dot. Wins over "
        "--config.",
    )


def complete_config(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets, and whatever files the shell knows, which come first: click's script for bash drops what was before."""
    named = [CompletionItem(name) for name in presets() if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *named]


def complete_set(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Full names and, once `=` is written, the words that the setting takes."""
    known = {one.name: one for table in tables_of(ctx.command.name or "") for one in settings_of(table).values()}
    name, sep, _ = incomplete.partition("=")
    if not sep:
        return [
            CompletionItem(f"{one.name}=", help=one.sentence)
            for one in known.values()
            if (incomplete and one.key.startswith(incomplete)) or one.name.startswith(incomplete)
        ]
    meant = [one for one in known.values() if name in (one.name, one.key)]
    words = [f"{name}={word}" for one in meant for word in one.choices]
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]
