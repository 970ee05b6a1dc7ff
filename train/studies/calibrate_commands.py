"""`dail calibrate`: which tau to draw traces with, measured on the training set.

    dail calibrate deploy/demo/expert_solutions.jsonl --model deploy/demo/model --config cpu-tiny --out runs/tau

Rooms with Ray and transformers are imported on use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dail.synth.config import SynthConfig, load_engine
from dail.synth.core import console
from dail.synth.core.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError
from dail.synth.core.options import verb
from dail.synth.core.settings import Chosen
from dail.synth.data import options
from dail.synth.data.reader import Reading
from dail.synth.schema.synthesis import Synthesis
from dail.train.studies.taus import GRIDS, CalibrateConfig

if TYPE_CHECKING:
    from dail.train.studies.calibration_record import Calibration
    from dail.train.studies.measures import Estimate, Figures

# What this verb decides itself, and where it is said instead.
_ELSEWHERE = {"tau": "--grid", "samples_per_item": "--samples"}


@verb("calibrate")
@options.files()
@options.reading("OUT/invalid.jsonl")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of traces, figures and page.")
@click.option("--model", type=click.Path(path_type=Path), help="Folder with safetensors and tokenizer; engine.model.")
@click.option("--actors", type=click.IntRange(1), help="Engines; one per GPU (or 1) if left out; worker.actors.")
@click.option("--grid", metavar="NAME|TAU,…", help=f"Values of tau: {', '.join(GRIDS)}, or numbers; calibrate.grid.")
@click.option("--items", type=int, metavar="N", help="So many of the items, by lot; calibrate.items.")
@click.option("--samples", type=int, metavar="N", help="Traces of each item at each value; calibrate.samples.")
@click.option("--json", "as_json", is_flag=True, help="calibration.json on standard output instead of a table.")
def calibrate(
    chosen: Chosen,
    files: tuple[str, ...],
    reading: Reading,
    out: Path,
    model: Path | None,
    actors: int | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Draw traces of the expert solutions in FILEs at many values of tau, and say which to take, and why.

    One pool of engines draws all of them. Of each value it measures how many traces are correct, how many cite the
    solution, how much the student wrote, self-correction, length and cost, with intervals. Writes calibration.json and
    calibration.html; the traces stay, with a manifest of each value. Ctrl-C loses nothing: the same command resumes.
    Exit code 3: some traces could not be drawn.
    """
    from dail.train.studies.calibration import calibrate as run
    from dail.train.studies.calibration import check_synthesis

    for key, option in _ELSEWHERE.items():
        if f"synthesis.{key}" in chosen.overridden:
            raise UsageError(f"--set synthesis.{key} plays no part in `dail calibrate`; say {option} instead")
    settings = chosen.told("calibrate", **flags).load(CalibrateConfig, "calibrate")
    synthesis = chosen.load(Synthesis, "synthesis")
    check_synthesis(synthesis)
    config = chosen.told("worker", actors=actors).load(SynthConfig, "worker", engine=load_engine(chosen, model))
    with console.all_on_stderr(), console.stop_on_signals() as stop:
        found = run(files, out, settings, synthesis, config, reading=reading, stop=stop)
    if found is None:
        console.say(f"what is drawn is safe in {out}; the same command goes on")
        raise click.Abort
    if as_json:
        console.emit(found.model_dump(mode="json"))
    else:
        _print_table(found)
    for sentence in found.recommendation.reason:
        console.say(sentence)
    for note in found.notes:
        console.say(f"note: {note}")
    console.say(f"{out / 'calibration.html'} shows it all; calibration.json lies beside it")
    return EXIT_SOME_FAILED if any(arm.failed for arm in found.arms) else EXIT_OK


def _print_table(found: Calibration) -> None:
    """As wide as a terminal: the figures, and of the two that decide their intervals too."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    items = f"{found.items.drawn} items, {found.items.verifiable} verifiable, {found.settings.samples} traces of each"
    table = Table(title=items, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tau", "correct %", "cite %", "student %", "markers", "length ÷", "cut %", "rows"):
        table.add_column(name, justify="left" if name == "tau" else "right", no_wrap=True)
    for arm in found.arms:
        name = arm.name.removeprefix("tau ")
        is_named = arm.tau is not None and arm.tau == found.recommendation.tau
        table.add_row(f"[bold]{name}[/bold]" if is_named else name, *_cells(arm.figures), _plain(arm.rows_per_token))
    Console().print(table)


def _cells(figures: Figures | None) -> list[str]:
    if figures is None:
        return ["–"] * 6
    decide = [_interval(figures.correct), _interval(figures.leak)]
    share = figures.student_share
    return [
        *decide,
        "–" if share is None else f"{100 * share.value:.1f}",
        _plain(figures.markers.value),
        _plain(figures.length.value),
        f"{100 * figures.cut.value:.1f}",
    ]


def _interval(share: Estimate | None) -> str:
    if share is None:
        return "–"
    ends = "" if share.low is None or share.high is None else f"{100 * share.low:.0f} to {100 * share.high:.0f}"
    return f"{100 * share.value:.1f}\n[dim]{ends}[/dim]"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
