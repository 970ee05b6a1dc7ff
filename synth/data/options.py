"""The options of every verb that reads expert solutions or problems."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dail.synth.core.settings import Chosen
from dail.synth.data.reader import Reading
from dail.synth.data.table import TAKEN
from dail.synth.schema.controls import CONTROLS, controlled, told

_log = logging.getLogger(__name__)

FILES = f"{TAKEN}; a folder of them; or hf:OWNER/NAME[@REVISION][:CONFIG/SPLIT]"


def files(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The argument `FILE...`, given to the verb as `files`."""
    return click.argument("files", metavar="FILE...", nargs=-1, required=required, type=click.Path())


def against() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--against`, given to the verb as `against`."""
    return click.option(
        "--against",
        metavar="PROBLEMS",
        help="Problems of an evaluation, as FILE...; the data check names those that are among the items.",
    )


def reading(invalid_file: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--map`, `--keep-rest`, `--skip-invalid` and `--invalid-to`, given to the verb as `reading`.

    Args:
        invalid_file: where `--skip-invalid` writes unless told otherwise, for the help.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(
            maps: tuple[str, ...], keep_rest: bool, skip_invalid: bool, invalid_to: Path | None, **others: Any
        ) -> Any:
            return function(reading=Reading(maps, keep_rest, skip_invalid, invalid_to), **others)

        for option in reversed(_options(invalid_file)):
            run = option(run)
        return run

    return wrap


def _options(invalid_file: str) -> list[Callable[..., Any]]:
    return [
        click.option(
            "--map",
            "maps",
            multiple=True,
            metavar="FIELD=COLUMN,…",
            help="Which columns are which fields: problem=question,solution=solution_*,answer=a.b; metadata.NAME too.",
        ),
        click.option("--keep-rest", is_flag=True, help="Put columns that nobody knows into the metadata."),
        click.option("--skip-invalid", is_flag=True, help="Go on without rows that cannot be used."),
        click.option(
            "--invalid-to",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"Where --skip-invalid writes them, with reasons [{invalid_file}].",
        ),
    ]


def control_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--control`, given to the verb as `control`."""
    known = "; ".join(f"{name}, {one.about}" for name, one in CONTROLS.items())
    return click.option(
        "--control",
        type=click.Choice(list(CONTROLS)),
        help=f"A control run ({known}). Wins over --config, and refuses a --set that says otherwise.",
    )


def control() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--control` of a verb that takes [synthesis]: what it sets is in `chosen` already, and was told."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(chosen: Chosen, control: str | None, **others: Any) -> Any:
            if control is not None:
                chosen = controlled(chosen, "synthesis", control)
                _log.info(told(control, "synthesis"))
            return function(chosen=chosen, **others)

        return control_option()(run)

    return wrap


class ManifestPath(click.ParamType):
    """Of an option: a manifest's path or URL. The verb gets the path, of a URL that of the copy."""

    name = "manifest"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from dail.synth.schema.mirror import local_manifest  # here, so that `--help` does not wait for pyarrow

        return local_manifest(value)
