"""`dail eval`: pass@k of a base model, and of adapters and other models beside it, and a report with pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

from dail.synth.config import load_engine
from dail.synth.core.console import emit, say
from dail.synth.core.errors import EXIT_GATE, EXIT_OK
from dail.synth.core.options import ModelFolder, verb
from dail.synth.core.settings import Chosen
from dail.synth.data import options
from dail.synth.data.reader import Reading
from dail.train.evals.arms import BASE, Named, name_adapters, name_models
from dail.train.evals.benchmarks import HELP as BENCHMARKS_HELP
from dail.train.evals.config import EvalConfig
from dail.train.evals.evaluation import evaluate as run_evaluation
from dail.train.evals.problems import named_sources
from dail.train.evals.protocols import ProtocolName, protocolled
from dail.train.evals.report import percent, points
from dail.train.evals.results import ArmRef, Estimate, Evaluation, GroupResult, PassAtK
from dail.train.gate import GateConfig


class NamedFolder(click.ParamType):
    """`FOLDER`, or `NAME=FOLDER`: a pair, whose name is none where none was given."""

    name = "[NAME=]FOLDER"

    def __init__(self, folder: click.ParamType | None = None) -> None:
        self._folder: Any = folder or click.Path(exists=True, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Named:
        name, sep, folder = value.partition("=")
        if not sep or Path(value).is_dir():  # a folder may be called epochs=3
            return None, self._folder.convert(value, param, ctx)
        return name, self._folder.convert(folder, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        completed: list[CompletionItem] = self._folder.shell_complete(ctx, param, incomplete)
        return completed


@verb("eval")
@click.option(
    "--model",
    multiple=True,
    type=NamedFolder(ModelFolder()),
    help="Base model folder; engine.model. Repeatable: further ones are models held against the first.",
)
@click.option(
    "--adapter",
    multiple=True,
    type=NamedFolder(),
    help="LoRA adapter folder, on the first model; repeatable. The models alone without.",
)
@click.option(
    "--problems",
    multiple=True,
    type=click.Path(),
    metavar="[GROUP=]FILE",
    help=f"{options.FILES}; repeatable. GROUP: what its problems are reported under.",
)
@click.option("--benchmark", multiple=True, metavar="NAME[=FILE]", help=BENCHMARKS_HELP)
@click.option(
    "--trained-on",
    multiple=True,
    metavar="FILE",
    help="A manifest (its path or URL), or problems, that a model was trained on; repeatable. Those of adapters are "
    "looked at anyway.",
)
@options.reading("OUT/invalid.jsonl")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the results.")
@click.option(
    "--protocol",
    type=click.Choice(get_args(ProtocolName)),
    help="The paper's evaluation, or that of its authors' code: sets what no other option and no --set does.",
)
@click.option("--samples", type=int, help="As --set eval.samples=….")
@click.option("--temperature", type=float, help="As --set eval.temperature=….")
@click.option("--max-tokens", type=int, help="As --set eval.max_tokens=….")
@click.option("--seed", type=int, help="As --set eval.seed=….")
@click.option("--thinking/--no-thinking", default=None, help="As --set eval.thinking=….")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output instead of tables.")
def evaluate(
    chosen: Chosen,
    model: tuple[Named, ...],
    adapter: tuple[Named, ...],
    problems: tuple[str, ...],
    benchmark: tuple[str, ...],
    trained_on: tuple[str, ...],
    reading: Reading,
    out: Path,
    as_json: bool,
    protocol: ProtocolName | None,
    **flags: Any,
) -> int:
    """pass@k of models and adapters, and a report with pictures.

    Writes eval.json, samples.jsonl and report.html. A rerun reuses the completions that were drawn with the same
    settings.
    """
    # Read when torch is imported, which here the tokenizer does before the engine; spinning is 17 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sources = named_sources(problems, benchmark)
    models, adapters = name_models(model), name_adapters(adapter)
    chosen = protocolled(chosen, protocol, flags)
    engine = load_engine(chosen, next(iter(models.values()), None))
    config = chosen.load(EvalConfig, "eval", engine=engine, gate=chosen.load(GateConfig, "gate"))
    evaluation = run_evaluation(
        sources,
        out,
        config=config,
        models=models or {BASE: engine.model},
        adapters=adapters,
        trained_on=trained_on,
        reading=reading,
    )
    if as_json:
        emit(_summary(evaluation, out))
    else:
        _print_tables(evaluation)
    if evaluation.warning:
        say(f"warning: {evaluation.warning}")
    say(f"{out / 'report.html'} shows it all; eval.json and samples.jsonl lie beside it")
    if any(seen.stops for seen in evaluation.gate.values()):
        say("exit code 6, by gate.action=stop; another threshold of [gate] judges the same completions anew")
        return EXIT_GATE
    return EXIT_OK


@click.command("compare")
@click.argument("dail", type=click.Path(), metavar="DAIL")
@click.argument("controls", nargs=-1, required=True, type=click.Path(), metavar="CONTROL...")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File for the page, as controls.html.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output instead of a table.")
def compare(dail: str, controls: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """DAIL beside its control runs: what part of its gain they explain.

    Takes the --out folders of `dail eval`, first that of the adapter that was trained as DAIL says; FOLDER:ARM where
    several adapters were judged, so that all may come from one evaluation. Which control each of the others is (`dail
    synth --control` and `dail train --control` have their names), its adapter's dail.json says.
    All must be judged on the same problems with the same settings.
    """
    from dail.train.evals.controls import compare_runs, findings
    from dail.train.evals.controls_page import controls_table, write_page

    comparison = compare_runs(dail, controls)
    if as_json:
        emit(comparison.model_dump(mode="json"))
    else:
        from rich.console import Console

        Console().print(controls_table(comparison))
    for sentence in findings(comparison):
        say(sentence)
    for one in comparison.controls:
        for difference in one.differs:
            say(f"warning: {one.folder} differs from DAIL in more than the control: {difference}")
    if out:
        write_page(comparison, out)
        say(f"{out} shows it")


def _summary(evaluation: Evaluation, out: Path) -> dict[str, Any]:
    return {
        "eval": str(out / "eval.json"),
        "samples": str(out / "samples.jsonl"),
        "report": str(out / "report.html"),
        "warning": evaluation.warning,
        "gate": {arm: seen.model_dump(mode="json") for arm, seen in evaluation.gate.items()},
        "groups": [group.model_dump(mode="json") for group in evaluation.groups],
        "contamination": evaluation.contamination and evaluation.contamination.model_dump(mode="json"),
        "without": [group.model_dump(mode="json") for group in evaluation.without],
    }


def _print_tables(evaluation: Evaluation) -> None:
    from rich.console import Console

    console = Console()
    for group in evaluation.groups:
        console.print(_table(group, evaluation.arms, ", trained on" if group.is_trained_on else ""))
    for group in evaluation.without:
        console.print(_table(group, evaluation.arms, " that were not trained on"))


def _table(group: GroupResult, arms: Sequence[ArmRef], which: str = "") -> Any:
    from rich.table import Table
    from rich.text import Text

    # Text, since a group's name, or an arm's, may hold what rich takes for markup
    table = Table(title=Text(f"{group.group}, {group.num_problems} problems{which}: pass@k in %"), title_justify="left")
    table.add_column("", overflow="fold")
    base = arms[0].subject  # at the temperature and budget of the row
    is_forced = any(arm.budget for arm in arms)
    beside = ["cut", *(["forced"] if is_forced else []), *(["with a shortcut"] if group.marked else [])]
    for name in (*(f"k = {point.k}" for point in group.passes[arms[0].name]), *beside):
        table.add_column(name, justify="right")
    for arm in arms:
        all_ = group.summary[arm.name]
        ends = [percent(all_.cut_share), *([percent(all_.forced_share)] if is_forced else [])]
        shares = [group.marked[arm.name]] if group.marked else []
        row = [*map(_share, group.passes[arm.name]), *ends, *map(_share, shares)]
        table.add_row(Text(arm.name), *row)
    for arm in arms:
        if arm.against is not None:
            blank = [""] * (1 + is_forced)
            rises = [group.marked_difference[arm.name]] if group.marked else []
            row = [*map(_difference, group.difference[arm.name]), *blank, *map(_difference, rises)]
            table.add_row(Text(f"{arm.name} − {base}"), *row)
    return table


def _share(point: PassAtK | Estimate) -> str:
    return _cell(f"{100 * point.mean:.1f}", f"{100 * point.low:.0f} to {100 * point.high:.0f}")


def _difference(point: PassAtK | Estimate) -> str:
    cell = _cell(points(point.mean), f"{points(point.low)} to {points(point.high)}")
    return f"[bold]{cell}[/bold]" if point.low > 0 or point.high < 0 else cell


def _cell(mean: str, interval: str) -> str:
    return f"{mean}\n[dim]{interval}[/dim]"
