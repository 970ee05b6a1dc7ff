"""What came of the paper's runs: results.json, and the tables in which it stands beside the paper's numbers.

Ours is never written down by hand: it is in the results that runs have left, or the place is empty.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from dail.serve.begun import write
from dail.serve.paper.contents import BASE, PRESETS, Exhibit, JudgedOn, Number, Study, contents
from dail.synth.core.config import Frozen
from dail.synth.core.errors import IntegrityError, describe
from dail.synth.core.settings import model_of, read

RESULTS_FILE = "results.json"
PUBLISHED = (
    Path(str(resources.files("dail.paper"))) / "ours.json"
)  # results.json of runs that deploy/reproducing.md shows
_EVAL_FORMAT = "dail.eval/3"


class Judged(Frozen):
    """A run's pass@k on a group of problems, with its 95 % interval; shares, not per cent."""

    run: str
    judged_on: JudgedOn
    group: str
    num_problems: int
    temperature: float
    budget: int | None
    k: int
    mean: float
    low: float
    high: float
    cut_share: float | None = Field(None, description="of completions that ended at a limit of tokens")
    report: str = Field(description="the evaluation's page, relative to the results")


class Results(Frozen):
    """results.json. `figures`: what belongs to an exhibit and is no pass@k, by its key."""

    format: Literal["dail.paper/1"] = "dail.paper/1"
    study: Study
    model: str
    judged: tuple[Judged, ...] = ()
    figures: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)

    def with_judged(self, report: str, found: Sequence[Judged]) -> Results:
        """With an evaluation's figures in place of those that it gave before."""
        kept = [one for one in self.judged if one.report != report]
        return self.model_copy(update={"judged": (*kept, *found)})

    def of(self, one: Exhibit) -> list[Judged]:
        names = {run.name for run in one.runs_of(self.study)}
        places = one.judged_in(self.study)
        return [found for found in self.judged if found.run in names and found.judged_on in places]


def read_results(path: Path) -> Results | None:
    """None: nothing has been run. Raises IntegrityError: the file is damaged."""
    try:
        return Results.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        why = describe(error) if isinstance(error, ValidationError) else str(error)
        raise IntegrityError(f"{path} cannot be read ({why}); remove it, and the same command makes it again") from None


def write_results(path: Path, results: Results) -> None:
    write(path, results.model_dump_json(indent=1) + "\n")


def collect(
    folder: Path, judged_on: JudgedOn, runs: Mapping[str, Sequence[str]], root: Path
) -> tuple[str, list[Judged]]:
    """An evaluation's page, relative to `root`, and its figures.

    Args:
        folder: the --out of `dail eval`.
        runs: by the name of a subject, the runs that it is: two of them may be one adapter.

    Raises:
        IntegrityError: no eval.json of the known format.
    """
    path, page = folder / "eval.json", (folder / "report.html").relative_to(root).as_posix()
    try:
        said = json.loads(path.read_text("utf-8"))
        if said["format"] != _EVAL_FORMAT:
            raise ValueError(f"its format is {said['format']}, wanted {_EVAL_FORMAT}")
        groups = [(judged_on, group) for group in said["groups"]]
        groups += [("deduplicated", group) for group in said.get("without", ())]
        found = [
            Judged(
                run=run, judged_on=place, group=group["group"], num_problems=group["num_problems"],
                temperature=arm["temperature"], budget=arm["budget"], **point, report=page,
                cut_share=group["summary"][arm["name"]]["cut_share"],
            )
            for place, group in groups
            for arm in said["arms"]
            for run in runs.get(arm["subject"], ())
            for point in group["passes"][arm["name"]]
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} cannot be read ({error!r}); remove its folder and run the same again") from None
    return page, found


# --- in words --------------------------------------------------------------------------------------------------------


def paper_says(one: Exhibit) -> str:
    """The paper's numbers, or its words where it prints none."""
    said = [_numbers([number for number in one.numbers if number.study == study]) for study in one.studies]
    return "; ".join(part for part in (*said, _settings(one.settings), one.says) if part)


def _settings(settings: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{name.partition('.')[2]} {value}" for name, value in settings.items())


def setting_of(one: Exhibit, name: str) -> JsonValue:
    """A setting of an exhibit's run, as the paper's preset and the run's file have it."""
    study = one.studies[0]
    table, _, key = name.partition(".")
    run = one.runs_of(study)[0]
    value: JsonValue = getattr(run.settings(read("paper", PRESETS[study])).load(model_of(table), table), key)
    return value


def _numbers(numbers: Sequence[Number]) -> str:
    """`pass@1 at 512/1024 tokens: base 46.2/48.9, mixed 46.9/49.8`."""
    by_k: dict[int, dict[str, list[Number]]] = defaultdict(lambda: defaultdict(list))
    for number in numbers:
        by_k[number.k][number.run].append(number)
    parts = []
    for k, by_run in by_k.items():
        budgets = [str(one.budget) for one in next(iter(by_run.values())) if one.budget]
        at = f" at {'/'.join(budgets)} tokens" if budgets else ""
        runs = ", ".join(f"{run} {'/'.join(f'{one.value:.1f}' for one in found)}" for run, found in by_run.items())
        parts.append(f"pass@{k}{at}: {runs}")
    return "; ".join(parts)


def ours_says(one: Exhibit, results: Results | None) -> str:
    """What runs have left of it, at k = 1 and the largest k, of all problems or of the group that stands for the
    exhibit's; empty where nothing was run."""
    if one.shows == "settings":
        return _settings({name: setting_of(one, name) for name in one.settings})
    if results is None or results.study not in one.studies:
        return ""
    found = results.of(one)
    said = [_said(key, value) for key, value in results.figures.get(one.key, {}).items()]
    groups, most = [judged.group for judged in found], max((judged.k for judged in found), default=1)
    shown = one.in_world if one.in_world in groups else next(iter(groups), None)
    by_place: dict[tuple[Any, ...], dict[str, list[Judged]]] = defaultdict(lambda: defaultdict(list))
    for judged in found:
        if judged.group == shown and judged.k in (1, most):
            condition = (judged.judged_on, judged.num_problems, judged.temperature, judged.budget)
            by_place[judged.report, *condition][judged.run].append(judged)
    for (_, place, problems, temperature, budget), runs in by_place.items():
        if place == "test" and runs.keys() == {BASE}:
            continue  # of what it is about nothing was run
        at = f"temperature {temperature:g}" + (f", {budget} tokens" if budget else "")
        ks = "/".join(f"{judged.k}" for judged in next(iter(runs.values())))
        each = (f"{run} {'/'.join(f'{100 * judged.mean:.1f}' for judged in of_it)}" for run, of_it in runs.items())
        said.append(f"pass@{ks} of {problems} problems ({place}, {at}): {', '.join(each)}")
    return f"{results.model}: {'; '.join(said)}" if said else ""


def _said(key: str, value: JsonValue) -> str:
    return f"{key.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value}"


def as_blocks(results: Results | None) -> str:
    """The table of contents, for a terminal."""
    return "\n".join(_block(one, results) for one in contents())


def _block(one: Exhibit, results: Results | None) -> str:
    lines = [f"{one.name}: {one.title} ({one.section})", f"  command  {one.command or f'dail paper {one.flags} …'}"]
    for study, runs in one.runs.items():
        lines += [f"  runs     {', '.join(runs)} ({study})"] if runs else []
    lines.append(f"  paper    {paper_says(one)}")
    lines.append(f"  ours     {ours_says(one, results) or 'not run'}")
    return "\n".join(lines) + "\n"


def as_markdown(results: Results | None) -> str:
    """The same as deploy/reproducing.md has it."""
    rows = ["| paper | what | command | runs | the paper's number, or its word | ours |", "|---|---|---|---|---|---|"]
    for one in contents():
        runs = "; ".join(dict.fromkeys(", ".join(f"`{name}`" for name in names) for names in one.runs.values()))
        command = one.command or f"dail paper {one.flags}"
        cells = (f"{one.name}, {one.section}" if one.section not in one.name else one.name, one.title, f"`{command}`",
                 runs, paper_says(one), ours_says(one, results))  # fmt: skip
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def beside(one: Exhibit, results: Results) -> list[dict[str, JsonValue]]:
    """Ours and the paper's, line by line: a run on a group, at pass@1 and the largest k there is."""
    rows: dict[tuple[Any, ...], dict[str, JsonValue]] = {}
    for found in results.of(one):
        key = (found.report, found.judged_on, found.group, found.run, found.temperature, found.budget)
        row = rows.setdefault(key, {
            "run": found.run, "judged_on": found.judged_on, "group": found.group, "problems": found.num_problems,
            "temperature": found.temperature, "budget": found.budget, "cut_share": found.cut_share, "pass": {},
        })  # fmt: skip
        passes = row["pass"]
        assert isinstance(passes, dict)
        passes[str(found.k)] = [found.mean, found.low, found.high]
    for number in one.numbers:
        if number.study == results.study:
            _beside_number(number, rows, one)
    return list(rows.values())


def _beside_number(number: Number, rows: dict[tuple[Any, ...], dict[str, JsonValue]], one: Exhibit) -> None:
    """Into the row of its group, which a benchmark's name gives, else into that of all problems of a run."""
    of_run = [
        row
        for row in rows.values()
        if (row["run"], row["budget"]) == (number.run, number.budget) and row["judged_on"] in ("test", "budgets")
    ]
    same = [row for row in of_run if row["group"] == number.group] or of_run[:1]
    for row in same:
        paper = row.setdefault("paper", {})
        assert isinstance(paper, dict)
        paper[f"{number.group} pass@{number.k}"] = number.value


def as_table(one: Exhibit, rows: Sequence[Mapping[str, Any]]) -> Any:
    """`beside`, for a terminal: a table of rich's."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{one.name}: {one.title}"), title_justify="left")
    has_papers = any("paper" in row for row in rows)
    several = len({row["temperature"] for row in rows}) > 1
    for column in ("run", "judged on"):
        table.add_column(column, no_wrap=True)
    for column in ("problems", "pass@1", "pass@most", "cut", *(["paper"] if has_papers else [])):
        table.add_column(column, justify="left" if column in ("problems", "paper") else "right")
    for row in rows:
        ks = sorted(row["pass"], key=int)
        at = [f"{row['budget']} tokens"] if row["budget"] else []
        at += [f"temperature {row['temperature']:g}"] if several else []
        most = f"{_points(row['pass'][ks[-1]])} @{ks[-1]}" if len(ks) > 1 else ""
        paper = ", ".join(f"{name} {value:.1f}" for name, value in row.get("paper", {}).items())
        cut = "" if row["cut_share"] is None else f"{100 * row['cut_share']:.0f} %"
        cells = (row["run"], ", ".join([row["judged_on"], *at]), f"{row['group']}, {row['problems']}",
                 _points(row["pass"][ks[0]]), most, cut, *([paper] if has_papers else []))  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _points(point: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in point)
    return f"{mean:.1f} ({low:.0f} to {high:.0f})"
