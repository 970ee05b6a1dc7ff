"""`dail curate`: a pool of problems with solutions becomes a training set and a validation split.

dail curate aime.csv --solutions harp.jsonl --out runs/e1 --model models/qwen2.5-7b --config e1-verifiable
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dail.synth.core.console import emit, say
from dail.synth.core.errors import EXIT_OK
from dail.synth.core.options import ModelFolder, verb
from dail.synth.core.settings import Chosen
from dail.synth.data import options
from dail.synth.data.reader import Reading

if TYPE_CHECKING:
    from dail.train.evals.config import EvalConfig
    from dail.train.studies.curated import Curated


@verb("curate")
@options.files()
@options.reading("OUT/invalid.jsonl")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the set.")
@click.option("--model", type=ModelFolder(), help="Model folder, whose attempts are made; engine.model.")
@click.option(
    "--attempts", type=click.Path(exists=True, path_type=Path), help="An eval.json whose attempts are taken instead."
)
@click.option(
    "--solutions",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Rows that add solutions to problems of the pool, and no problems; repeatable; as FILE....",
)
@click.option(
    "--against",
    multiple=True,
    metavar="PROBLEMS",
    help="Problems of an evaluation, as FILE...; repeatable; stands for curate.against.",
)
@click.option("--json", "as_json", is_flag=True, help="curated.json on standard output instead of a table.")
def curate(
    chosen: Chosen,
    files: tuple[str, ...],
    reading: Reading,
    out: Path,
    model: Path | None,
    attempts: Path | None,
    solutions: tuple[str, ...],
    against: tuple[str, ...],
    as_json: bool,
) -> int:
    """Problems of the pool in FILEs that a model fails in all of its attempts, as a training set, and the next hardest
    for validation.

    Writes train.jsonl, validation.jsonl, flagged.jsonl, dropped.jsonl, curated.json and a card into OUT, where a rerun
    goes on and reuses the attempts that were made with the same settings of [eval].
    """
    # read when torch is imported; spinning is 17 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from dail.train.studies.curation import curate as run
    from dail.train.studies.curation_config import CurateConfig

    config = chosen.told("curate", against=against or None).load(CurateConfig, "curate")
    has_model = model is not None or chosen.has("engine", "model")
    evaluation = _evaluation(chosen, model) if config.attempts and attempts is None and has_model else None
    curated = run(
        files,
        out,
        config,
        model=model,
        evaluation=evaluation,
        attempts=attempts,
        solutions=solutions or None,
        reading=reading,
    )
    if as_json:
        emit(curated.model_dump(mode="json"))
    else:
        _print(curated)
    if curated.attempts and curated.attempts.warning:
        say(f"warning: {curated.attempts.warning}")
    say(f"{out / 'train.jsonl'} is for `dail synth`; README.md, its card, flagged.jsonl and dropped.jsonl say the rest")
    return EXIT_OK


def _evaluation(chosen: Chosen, model: Path | None) -> EvalConfig:
    """How attempts are drawn. Raises UsageError: there are two words on their number."""
    from dail.synth.config import load_engine
    from dail.synth.core.errors import UsageError
    from dail.train.evals.config import EvalConfig

    if "eval.samples" in chosen.overridden:
        raise UsageError("--set eval.samples: `dail curate` draws curate.attempts completions; set that instead")
    return chosen.load(EvalConfig, "eval", engine=load_engine(chosen, model))


def _print(curated: Curated) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    has_published = any(step.published is not None for step in curated.steps)
    table = Table()
    for column in ("step", "in", "out", *(["published"] if has_published else [])):
        table.add_column(column, justify="left" if column == "step" else "right")
    table.add_column("left out, and besides")
    for step in curated.steps:
        published = ["" if step.published is None else str(step.published)] if has_published else []
        notes = [*(f"{why}: {count}" for why, count in step.dropped.items()), *step.told]
        # Text, since an id may hold what rich takes for markup
        cells = [step.step, str(step.num_in), str(step.num_out), *published, "\n".join(notes)]
        table.add_row(*map(Text, cells))
    Console().print(table)
    for name, file in curated.files.items():
        say(f"{file.rows} rows in {name}")
