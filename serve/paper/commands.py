"""`dail paper`: the paper's tables and figures, as runs of the other verbs, each in a process of its own.

    dail paper                       # the table of contents: what, by which command, the paper's number, ours
    dail paper --table 4 --model qwen2.5-7b --solutions e1-verifiable.jsonl --benchmark beyond-aime --out runs/paper

    solutions ─▶ traces, once for all runs that draw alike ─▶ select ─▶ train ─┐
                                          GRPO, on problems and answers ───────┼─▶ one eval of all beside each other
                                                              untrained model ─┘

What a run is, its file in deploy/paper says; everything else is shared: `--config`, or the paper's own preset. In
one OUT further tables and figures take what is there. Each step goes on where it was stopped.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from dail.serve.children import Children
from dail.serve.paper import results as paper_results
from dail.serve.paper.contents import PRESETS, Exhibit, Study, contents, exhibit
from dail.serve.paper.plan import Plan, begin_in, by_themselves, plan_of, shared, study_of
from dail.serve.paper.results import (
    RESULTS_FILE,
    Results,
    as_blocks,
    as_markdown,
    as_table,
    beside,
    ours_says,
    paper_says,
    read_results,
    setting_of,
)
from dail.serve.paper.steps import Printed, Steps
from dail.synth.core.console import emit, say
from dail.synth.core.errors import EXIT_OK, UsageError
from dail.synth.core.options import verb
from dail.synth.core.settings import Chosen
from dail.synth.data import options
from dail.synth.data.reader import Reading


@verb("paper")
@click.option("--table", "tables", type=int, multiple=True, help="A table of the paper, by its number; repeatable.")
@click.option("--figure", "figures", type=int, multiple=True, help="A figure of the paper, by its number; repeatable.")
@click.option("--run", "runs", multiple=True, metavar="NAME", help="A run or sweep by itself, beside the base model.")
@click.option("--model", type=click.Path(path_type=Path), help="Model folder; engine.model.")
@click.option(
    "--solutions",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help=f"Expert solutions: {options.FILES}; repeatable.",
)
@options.reading("OUT/invalid.jsonl")
@click.option("--problems", multiple=True, metavar="[GROUP=]FILE", help="What is judged on, as of `dail eval`.")
@click.option("--benchmark", multiple=True, metavar="NAME[=FILE]", help="What is judged on, as of `dail eval`.")
@click.option("--deepscaler", multiple=True, type=click.Path(), metavar="FILE", help="DeepScaleR's problems, for GRPO.")
@click.option("--study", type=click.Choice(list(PRESETS)), help="Which half of a table or figure that has both.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of all runs; goes on in it.")
@click.option("--ray-workers", type=click.IntRange(1), help="Train on so many workers of a Ray cluster, a GPU each.")
@click.option("--dry-run", is_flag=True, help="Write the runs' settings and print the commands; run none.")
@click.option("--markdown", is_flag=True, help="The table of contents as deploy/reproducing.md has it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def paper(
    chosen: Chosen,
    tables: tuple[int, ...],
    figures: tuple[int, ...],
    runs: tuple[str, ...],
    model: Path | None,
    solutions: tuple[str, ...],
    reading: Reading,
    problems: tuple[str, ...],
    benchmark: tuple[str, ...],
    deepscaler: tuple[str, ...],
    study: Study | None,
    out: Path | None,
    ray_workers: int | None,
    dry_run: bool,
    markdown: bool,
    as_json: bool,
) -> int:
    """The paper's tables and figures, beside what comes here.

    Without a table, figure or run: what there is, the command for each, the paper's numbers, and ours where OUT has
    some. With them: the traces, trainings and evaluations that they are made of, as the verbs you would type, and a
    table of ours beside the paper's. Settings that make a run what it is are its own (deploy/paper); the rest is
    --config, or the paper's preset without it. Ctrl-C loses nothing: the same command goes on.
    """
    asked = [*(f"table-{number}" for number in tables), *(f"figure-{number}" for number in figures)]
    exhibits = list({one.key: one for one in (*(exhibit(key) for key in asked), *by_themselves(runs))}.values())
    if not exhibits:
        given = {"--model": model, "--solutions": solutions, "--problems": problems, "--benchmark": benchmark,
                 "--study": study, "--deepscaler": deepscaler, "--dry-run": dry_run}  # fmt: skip
        if named := [name for name, value in given.items() if value]:
            raise UsageError(f"{named[0]} is given, and nothing to run; name --table, --figure or --run")
        return _print_contents(out, markdown, as_json)
    if markdown:
        raise UsageError("--markdown is the table of contents, without --table, --figure and --run; leave it out")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, with all children
    chosen = shared(chosen.told("engine", model=model and model.resolve()), study := study_of(exhibits, study))
    if all(one.shows == "settings" for one in exhibits):
        return _print_settings(exhibits, as_json)
    plan = plan_of(exhibits, chosen, study, solutions, reading, (problems, benchmark), deepscaler, out, ray_workers)
    begin_in(plan)
    with Children(plan.out / "logs") as children:
        steps = Steps(plan, cast(Children, Printed()) if dry_run else children, dry_run)
        results = steps.all()
    if not dry_run:
        _print_results(plan, results, as_json)
    return EXIT_OK


def _print_contents(out: Path | None, markdown: bool, as_json: bool) -> int:
    results = read_results(out / RESULTS_FILE if out else paper_results.PUBLISHED)
    if out and not results:
        say(f"note: {out} has no {RESULTS_FILE}; the --out of a call with --table, --figure or --run has")
    if as_json:
        emit([
            {**one.model_dump(mode="json"), "command": one.command or f"dail paper {one.flags}",
             "paper": paper_says(one), "ours": ours_says(one, results)}
            for one in contents()
        ])  # fmt: skip
    else:
        click.echo(as_markdown(results) if markdown else as_blocks(results))
    return EXIT_OK


def _print_settings(exhibits: Sequence[Exhibit], as_json: bool) -> int:
    if as_json:
        found = {
            one.key: {name: [value, setting_of(one, name)] for name, value in one.settings.items()} for one in exhibits
        }
        emit({"settings": found})
        return EXIT_OK
    for one in exhibits:
        click.echo(f"{one.name}: {one.title}\n  paper  {paper_says(one)}\n  ours   {ours_says(one, None)}")
    return EXIT_OK


def _print_results(plan: Plan, results: Results, as_json: bool) -> None:
    if as_json:
        rows = {one.key: beside(one, results) for one in plan.exhibits}
        emit({"results": str(plan.out / RESULTS_FILE), "exhibits": rows, "figures": results.figures})
    else:
        from rich.console import Console

        for one in plan.exhibits:
            if lines := beside(one, results):
                Console().print(as_table(one, lines))
            elif said := ours_says(one, results):
                click.echo(f"{one.name}: {one.title}\n  paper  {paper_says(one)}\n  ours   {said}")
    for page in dict.fromkeys(found.report for one in plan.exhibits for found in results.of(one)):
        say(f"{plan.out / page} shows it")
    say(f"results: {plan.out / RESULTS_FILE}; `dail paper --out {plan.out}` shows them in the table of contents")
