"""What is to be run for the tables and figures that were asked for, and whether it can be: before anything costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from dail.serve.begun import begin, write
from dail.serve.paper.contents import BASE, PRESETS, Exhibit, NamedRun, Study, contents, runs_named
from dail.synth.core.config import fingerprint
from dail.synth.core.console import say
from dail.synth.core.errors import UsageError, few
from dail.synth.core.settings import Chosen, as_toml, free_on_resume, model_of, read, tables_of
from dail.synth.data.reader import Reading, read_solutions
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import resolve
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis

MARKER, SOLUTIONS, TRAINED_ON = "paper.json", "solutions.jsonl", "trained-on.jsonl"
GROWS = frozenset(
    {"samples", "grader", "grade_timeout_s", "actors", "marks"}
)  # of [eval]: no completion is another for them


@dataclass(frozen=True)
class Plan:
    """What all steps share. `judge` are the options that name problems; `deepscaler` the files of that set."""

    out: Path
    model: Path
    study: Study
    exhibits: tuple[Exhibit, ...]
    items: tuple[ExpertSolution, ...]
    chosen: Chosen
    judge: tuple[str, ...]
    deepscaler: tuple[str, ...]
    ray_workers: int | None

    @cached_property
    def identity(self) -> Any:
        return identify(self.model).identity()

    @cached_property
    def runs(self) -> dict[str, NamedRun]:
        """Every run that is needed, those that others go on from first."""
        found: dict[str, NamedRun] = {}
        for run in (run for one in self.exhibits for run in one.runs_of(self.study)):
            for needed in (*(runs_named(run.sheet.after) if run.sheet.after else ()), run):
                found.setdefault(needed.name, needed)
        return found

    def settings(self, run: NamedRun) -> Chosen:
        return run.settings(self.chosen)

    def synthesis(self, run: NamedRun) -> Synthesis:
        return self.settings(run).load(Synthesis, "synthesis")

    def settings_file(self, name: str) -> Path:
        return self.out / "settings" / f"{name}.toml"


def by_themselves(names: Sequence[str]) -> list[Exhibit]:
    """Runs beside the base model, as exhibits of their own; those that an appendix is made of are that."""
    found = []
    for name in names:
        runs_named(name)
        known = [one for one in contents() if one.key.startswith("appendix") and name in sum(one.runs.values(), ())]
        both: dict[Study, tuple[str, ...]] = dict.fromkeys(PRESETS, (BASE, name))
        found += known or [
            Exhibit(
                key=f"run-{name}", title=f"the run {name}", section="", shows="judged", studies=tuple(PRESETS),
                runs=both, judged_on=("test",),
            )
        ]  # fmt: skip
    return found


def study_of(exhibits: Sequence[Exhibit], asked: Study | None) -> Study:
    """The one of which all of them are."""
    studies = [study for study in PRESETS if all(study in one.studies for one in exhibits)]
    if asked in studies or len(studies) == 1:
        if asked is not None and asked not in studies:
            raise UsageError(f"--study {asked}: {exhibits[0].name} is of {studies[0]}; leave it out")
        return asked or studies[0]
    if studies and asked is None:
        raise UsageError(
            "this is of both studies, Qwen2.5 on e1-verifiable and Qwen3 (thinking) on e1-proof; give --study "
            "verifiable or --study proof"
        )
    of = "; ".join(f"{one.name} is of {' and '.join(one.studies)}" for one in exhibits)
    raise UsageError(f"one call is of one model and one study: {of}; ask for them apart, each with an --out")


def shared(chosen: Chosen, study: Study) -> Chosen:
    """What all runs share: --config, else the paper's preset, below what the command line says."""
    if chosen.file is None:
        preset = read("paper", PRESETS[study])
        say(f"settings: the paper's, --config {PRESETS[study]}")
        values = {table: {**preset.values[table], **chosen.values[table]} for table in chosen.values}
        chosen = replace(chosen, file=preset.file, in_file=preset.in_file, values=values)
    thinking = chosen.values["synthesis"].get("thinking")
    if thinking is not None and not chosen.has("eval", "thinking"):
        say(f"eval.thinking={str(thinking).lower()}, as synthesis.thinking")
        chosen = replace(chosen, values={**chosen.values, "eval": {**chosen.values["eval"], "thinking": thinking}})
    return chosen


def plan_of(
    exhibits: Sequence[Exhibit],
    chosen: Chosen,
    study: Study,
    solutions: tuple[str, ...],
    reading: Reading,
    judge: tuple[tuple[str, ...], tuple[str, ...]],
    deepscaler: tuple[str, ...],
    out: Path | None,
    ray_workers: int | None,
) -> Plan:
    """Raises UsageError, before anything costs: something is missing, or some run cannot work."""
    judges = any(place != "train" for one in exhibits for place in one.judged_in(study))
    missing = {
        "--model FOLDER": chosen.has("engine", "model"), "--solutions FILE": solutions, "--out OUT": out,
        "--problems FILE or --benchmark NAME": not judges or any(judge),
    }  # fmt: skip
    if lacking := [name for name, given in missing.items() if not given]:
        raise UsageError(f"{exhibits[0].name} takes {' and '.join(lacking)}; give {lacking[0]}")
    assert out is not None
    out = out.resolve()
    engine: Any = chosen.load(model_of("engine"), "engine")
    chosen.load(model_of("worker"), "worker", engine=engine)
    gate = chosen.load(model_of("gate"), "gate")
    chosen.load(model_of("eval"), "eval", engine=engine, gate=gate)
    items = read_solutions(solutions, reading.writing_to(out)).items
    problems = [word for file in judge[0] for word in ("--problems", file)]
    benchmarks = [word for name in judge[1] for word in ("--benchmark", name)]
    plan = Plan(
        out, Path(engine.model), study, tuple(exhibits), tuple(items), chosen, (*problems, *benchmarks), deepscaler,
        ray_workers,
    )  # fmt: skip
    for run in plan.runs.values():
        _check_run(plan, run)
    return plan


def _check_run(plan: Plan, run: NamedRun) -> None:
    """Its settings are possible, and the items have what it needs. Raises UsageError."""
    chosen, needs_answers = plan.settings(run), run.sheet.trains_on == "rewards" and run.sheet.items == "solutions"
    synthesis = chosen.load(Synthesis, "synthesis")
    if run.sheet.trains_on == "traces":
        if why_refused(plan, run) is None:
            chosen.load(model_of("train"), "train")
        needs_answers = synthesis.shown == "answer"
    elif run.sheet.trains_on == "rewards":
        chosen.load(model_of("grpo"), "grpo")
    without = [str(one.id) for one in plan.items if resolve(one, synthesis.lone_box).kind == "proof"]
    if needs_answers and without:
        raise UsageError(
            f"the run {run.name} takes answers, and {len(without)} of {len(plan.items)} expert solutions have none: "
            f"{few(without)}; leave them out, or ask for tables and figures without it"
        )


def why_refused(plan: Plan, run: NamedRun) -> str | None:
    """Why a value of a sweep cannot be trained with, as the paper's gamma of 1; a run that has no sweep must work."""
    if run.sheet.vary is None:
        return None
    try:
        plan.settings(run).load(model_of("train"), "train")
    except UsageError as error:
        return str(error).partition(": ")[2]  # whose file it is plays no part: the value is the sweep's
    return None


def begin_in(plan: Plan) -> None:
    """OUT, the runs' settings and the solutions in it; UsageError if it was begun with others."""
    free: dict[str, frozenset[str]] = {"eval": GROWS | {"budgets"}, "engine": frozenset(plan.chosen.values["engine"])}
    free |= {table: frozenset(plan.chosen.values[table]) for table in ("worker", "gate", "calibrate")}
    for table in ("train", "grpo"):
        free[table] = free_on_resume(cast(Any, model_of(table)).model_construct())
    decided = {"study": plan.study, "model": plan.identity, "expert solutions": digest(plan.items)} | {
        f"{table}.{key}": value
        for table, values in plan.chosen.values.items()
        for key, value in values.items()
        if key not in free.get(table, ())
    }
    lines = [json.dumps(one.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False) for one in plan.items]
    judged = [
        json.dumps({"id": one.id, "problem": one.problem_text, "answer": found.answer}, ensure_ascii=False)
        for one in plan.items
        if (found := resolve(one)).kind == "verifiable"
    ]
    files = {SOLUTIONS: lines, TRAINED_ON: judged}
    begin(
        plan.out, MARKER, "runs of the paper", decided, {name: "\n".join(text) + "\n" for name, text in files.items()}
    )
    for name, settings in {run.name: plan.settings(run) for run in plan.runs.values()}.items():
        write(plan.settings_file(name), _as_file(settings.values))
    write(plan.settings_file("shared"), _as_file(plan.chosen.values))


def _as_file(values: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(as_toml(table, values[table]) for table in tables_of("paper") if values.get(table))


def digest(items: Sequence[ExpertSolution]) -> str:
    return fingerprint([one.model_dump(mode="json") for one in items])
