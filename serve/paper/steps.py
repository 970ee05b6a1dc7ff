"""The steps of the paper's runs, each a verb in a process of its own, and none done twice.

    OUT/settings/RUN.toml   traces/   selected/   train/   references/   eval/   results.json

A step's folder is named by a digest of what it is made of, and step.json in it says that it is done and what it left.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from dail.serve.begun import write
from dail.serve.children import Children
from dail.serve.paper.contents import BASE, Exhibit, JudgedOn, NamedRun, runs_named
from dail.serve.paper.plan import GROWS, SOLUTIONS, TRAINED_ON, Plan, digest, why_refused
from dail.serve.paper.results import RESULTS_FILE, Results, collect, read_results, write_results
from dail.synth.core.config import Frozen, fingerprint
from dail.synth.core.console import say
from dail.synth.core.errors import EXIT_GATE, EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE, IntegrityError, describe
from dail.synth.core.settings import free_on_resume, model_of
from dail.synth.schema.adapters import ADAPTER_CONFIG, adapter_digest
from dail.synth.schema.manifest import read_manifest
from dail.synth.schema.models import identify

_DONE = "step.json"
_TEMPERATURES = (0.8, 1.0, 1.2)  # §3.1; the first of the four, 0.6, is the temperature of every other evaluation
_BUDGETS, _ANSWER_TOKENS = (512, 1024, 2048, 4096), 2048  # §3.3, Table 1


class Step(Frozen):
    """step.json: a step that is done, and what it left, relative to OUT."""

    result: str


class Printed:
    """In place of processes, for --dry-run: prints the command, and answers where its result would lie."""

    def result(self, name: str, *args: object, allowed: object = ()) -> str:
        words = list(map(str, args))
        click.echo(" ".join(["dail", *(word if "*" in word else shlex.quote(word) for word in words)]))
        out = Path(words[words.index("--out") + 1]) if "--out" in words else Path()
        if name == "select":
            return json.dumps({"manifest": str(Path(words[1]).with_name("*.json"))})
        return json.dumps(
            {"manifest": f"{out}/manifests/*/v1.json", "adapter": f"{out}/adapter", "folder": f"{out}/adapter"}
        )


class _NothingLeft(Exception):
    """No trace is one that the run is trained on: a result, and no fault. STaR may find no right rationalisation."""


class Steps:
    """The steps in their order. `children` runs the verbs, or prints them."""

    def __init__(self, plan: Plan, children: Children, dry_run: bool) -> None:
        self._plan, self._children, self._dry_run = plan, children, dry_run
        found = read_results(plan.out / RESULTS_FILE)
        self._results = found or Results(study=plan.study, model=plan.model.resolve().name)
        self._folders: dict[str, Path] = {}  # of runs that two names have, by digest
        self._done: dict[Path, Path] = {}

    def all(self) -> Results:
        plan = self._plan
        for one in plan.exhibits:
            say(f"\n{one.name}: {one.title}")
            if one.shows == "lengths":
                self._lengths(one)
            elif one.shows == "calibration":
                self._calibration(one)
            elif one.shows == "curve":
                self._curve(one)
        places = dict.fromkeys(place for one in plan.exhibits for place in one.judged_in(plan.study))
        places.pop("deduplicated", None)  # a part of what is judged anyway
        # the base model first: what cannot be judged is found before anything is trained
        alone = [place for place in places if not (self._judged_in(place) / "eval.json").exists()]
        for place in alone:
            self._judge(place, {})
        trained = {place: self._runs_judged_on(place) for place in places}
        for place, runs in trained.items():
            if runs or place not in alone:
                self._judge(place, runs)
        return self._results

    # --- traces ------------------------------------------------------------------------------------------------------

    def _traces_folder(self, run: NamedRun) -> Path:
        plan, synthesis = self._plan, self._plan.synthesis(run)
        inputs = [plan.identity, digest(plan.items), synthesis.pinned().identity()]
        inputs += [synthesis.samples_per_item, synthesis.enough, synthesis.grader]
        kind = f"{synthesis.method}-of-answers" if synthesis.shown == "answer" else synthesis.method
        return self._folder("traces", kind, inputs)

    def _traces(self, run: NamedRun) -> Path:
        """The manifest of a run's traces, which other runs that draw alike share."""
        plan, folder = self._plan, self._traces_folder(run)

        def draw() -> str:
            say(f"traces, {folder.name}: {len(plan.items)} expert solutions")
            drawn = self._children.result(
                "synth", "synth", plan.out / SOLUTIONS, "--out", folder, *self._shared(run), "--json",
                allowed=(EXIT_OK, EXIT_SOME_FAILED),
            )  # fmt: skip
            return str(json.loads(drawn)["manifest"])

        return self._once(folder, draw)

    def _chosen(self, run: NamedRun) -> Path:
        """Those that are trained on."""
        manifest = self._traces(run)
        if run.sheet.keep == "all":
            return manifest
        folder = self._folder("selected", run.name, [self._traces_folder(run).name, run.sheet.keep])

        def select() -> str:
            said = json.loads(
                self._children.result(
                    "select", "select", manifest, "--keep", run.sheet.keep, "--json", allowed=(EXIT_OK, EXIT_USAGE)
                )
            )
            if "error" in said:
                raise _NothingLeft(said["message"])
            return str(said["manifest"])

        return self._once(folder, select)

    # --- training ----------------------------------------------------------------------------------------------------

    def _trained(self, run: NamedRun) -> Path:
        return self._trained_on_traces(run) if run.sheet.trains_on == "traces" else self._trained_by_rewards(run)

    def _trained_on_traces(self, run: NamedRun) -> Path:
        manifest, settings = self._chosen(run), self._plan.settings(run).load(model_of("train"), "train")
        decisive = settings.model_dump(mode="json", exclude=set(free_on_resume(settings)))
        traces = [self._traces_folder(run).name, run.sheet.keep]
        folder = self._folder("train", run.name, [*traces, decisive], of_run=False)
        ranks = ("--ray-workers", self._plan.ray_workers) if self._plan.ray_workers else ()
        # one cache of references for all runs on the same traces
        references = self._plan.out / "references" / fingerprint(traces)[7:15]

        def train() -> str:
            say(f"training: {run.name}, {run.sheet.title}")
            trained = self._children.result(
                "train", "train", "--manifest", manifest, "--out", folder, *self._shared(run), "--references",
                references, *ranks, "--json",
            )  # fmt: skip
            return str(json.loads(trained)["adapter"])

        return self._once(folder, train)

    def _trained_by_rewards(self, run: NamedRun) -> Path:
        plan, settings = self._plan, self._plan.settings(run).load(model_of("grpo"), "grpo")
        decisive = settings.model_dump(mode="json", exclude=set(free_on_resume(settings)))
        files = plan.deepscaler if run.sheet.items == "deepscaler" else (plan.out / SOLUTIONS,)
        before = self._trained_by_rewards(runs_named(run.sheet.after)[0]).parent if run.sheet.after else None
        after = ("--after", before) if before else ()
        folder = self._folder(
            "train", run.name, [list(map(str, files)), digest(plan.items), decisive, before and before.name]
        )

        def train() -> str:
            say(f"training: {run.name}, {run.sheet.title}")
            trained = self._children.result(
                "grpo", "grpo", *files, "--model", plan.model, "--out", folder, "--config",
                plan.settings_file(run.name), *after, "--json",
            )  # fmt: skip
            return str(json.loads(trained)["folder"])

        return self._once(folder, train)

    # --- judging -----------------------------------------------------------------------------------------------------

    def _problems(self, place: JudgedOn) -> tuple[str, ...]:
        return ("--problems", f"train={self._plan.out / TRAINED_ON}") if place == "train" else self._plan.judge

    def _judged_in(self, place: JudgedOn) -> Path:
        plan = self._plan
        given = {key: value for key, value in plan.chosen.values["eval"].items() if key not in GROWS}
        return self._folder("eval", place, [plan.identity, given, self._condition(place), list(self._problems(place))])

    def _judge(self, place: JudgedOn, trained: dict[str, Path]) -> None:
        """One evaluation of all runs beside each other that are to be judged there, and those that were before."""
        plan, folder = self._plan, self._judged_in(place)
        subjects = self._subjects(folder, trained)
        runs: dict[str, list[str]] = {}  # what is one adapter is judged once
        for name, where in subjects.items():
            runs.setdefault(str(where) if self._dry_run else _content(where), []).append(name)
        for name, *others in runs.values():
            if others:
                say(f"{', '.join(others)}: the same weights as {name}, and judged as these")
        named = [word for name, *_ in runs.values() for word in (self._as_subject(name), f"{name}={subjects[name]}")]
        more = [word for setting in self._condition(place) for word in ("--set", setting)]
        say(f"judging on {place}: {', '.join([BASE, *subjects])}")
        self._children.result(
            "eval", "eval", "--model", f"{BASE}={plan.model}", *named, *self._problems(place), "--out", folder,
            "--config", plan.settings_file("shared"), *more, "--json", allowed=(EXIT_OK, EXIT_GATE),
        )  # fmt: skip
        if not self._dry_run:
            found = collect(folder, place, {BASE: [BASE], **{names[0]: names for names in runs.values()}}, plan.out)
            self._keep(self._results.with_judged(*found))

    def _condition(self, place: JudgedOn) -> list[str]:
        """What else is set, where that is not said."""
        said = self._plan.chosen
        if place == "temperatures":
            return [f"eval.temperatures=[{', '.join(map(str, _TEMPERATURES))}]"]
        if place == "budgets":
            own = {"budgets": f"[{', '.join(map(str, _BUDGETS))}]", "answer_tokens": _ANSWER_TOKENS}
            is_said = said.has("eval", "protocol")  # which has budgets of its own
            return [f"eval.{key}={value}" for key, value in own.items() if not (is_said or said.has("eval", key))]
        return []

    def _runs_judged_on(self, place: JudgedOn) -> dict[str, Path]:
        """By name, what was trained; temperatures are of the base model alone (§3.1)."""
        asked = [one for one in self._plan.exhibits if place in one.judged_in(self._plan.study)]
        runs = {run.name: run for one in asked for run in one.runs_of(self._plan.study) if place != "temperatures"}
        found = {}
        for name, run in runs.items():
            if run.sheet.trains_on != "nothing" and self._can_run(run):
                try:
                    found[name] = self._trained(run)
                except _NothingLeft as error:
                    say(f"{name} is not run: {error}")
        return found

    def _subjects(self, folder: Path, trained: dict[str, Path]) -> dict[str, Path]:
        """With the runs of earlier calls first: their completions are kept, and shown again."""
        known = folder / "subjects.json"
        found = {name: self._plan.out / where for name, where in _json(known).items()} | trained
        if not self._dry_run:
            lines = {name: self._relative(where) for name, where in found.items()}
            write(known, json.dumps(lines, indent=1) + "\n")
        return found

    def _can_run(self, run: NamedRun) -> bool:
        if why := why_refused(self._plan, run):
            say(f"{run.name} is not run: {why}")
        elif run.sheet.items == "deepscaler" and not self._plan.deepscaler:
            why = "it takes --deepscaler FILE, the problems of that set"
            say(f"{run.name} is not run: {why}")
        return not why

    def _as_subject(self, name: str) -> str:
        run = runs_named(name)[0]
        table = "train" if run.sheet.trains_on == "traces" else "grpo"
        settings: Any = self._plan.settings(run).load(model_of(table), table)
        return "--model" if settings.tune == "full" else "--adapter"

    # --- what is no pass@k -------------------------------------------------------------------------------------------

    def _lengths(self, one: Exhibit) -> None:
        """Tokens of a trace ÷ those of its expert solution, which is a trace of the run `sft`; a mean over items."""
        traces, solutions = (self._traces(run) for run in one.runs_of(self._plan.study))
        if self._dry_run:
            return
        written, given = _tokens(traces), _tokens(solutions)
        ratios = [written[name] / given[name] for name in written if given.get(name)]
        self._figure(one.key, {"traces_to_solutions": sum(ratios) / len(ratios), "items": len(ratios)})

    def _curve(self, one: Exhibit) -> None:
        for run in one.runs_of(self._plan.study):
            folder = self._trained(run).parent
            if not self._dry_run:
                self._figure(one.key, {"losses": self._relative(folder / "curves.svg")})

    def _calibration(self, one: Exhibit) -> None:
        (run,) = one.runs_of(self._plan.study)  # whose settings, but for tau, all values share
        out = self._plan.out / "calibration"
        grid = () if self._plan.chosen.has("calibrate", "grid") else ("--grid", "paper")
        self._children.result(
            "calibrate", "calibrate", self._plan.out / SOLUTIONS, "--out", out, "--model", self._plan.model,
            *grid, "--config", self._plan.settings_file(run.name), "--json",
        )  # fmt: skip
        if not self._dry_run:
            found = _json(out / "calibration.json").get("recommendation", {})
            self._figure(one.key, {"tau": found.get("tau"), "report": "calibration/calibration.html"})

    # --- the folders -------------------------------------------------------------------------------------------------

    def _folder(self, kind: str, name: str, inputs: list[Any], of_run: bool = True) -> Path:
        """Named by what it is made of, so that nothing of other settings is taken for it.

        Args:
            of_run: the name counts; else the first run that is made of these inputs gives it.
        """
        named = fingerprint([*inputs, name] if of_run else inputs)[7:15]
        there = sorted((self._plan.out / kind).glob(f"*-{named}"))
        return self._folders.setdefault(
            f"{kind}/{named}", there[0] if there else self._plan.out / kind / f"{name}-{named}"
        )

    def _once(self, folder: Path, work: Callable[[], str]) -> Path:
        """What a step left, made now if it has not been."""
        if folder not in self._done:
            self._done[folder] = self._left(folder / _DONE) or self._made(folder / _DONE, work)
        return self._done[folder]

    def _made(self, path: Path, work: Callable[[], str]) -> Path:
        left = Path(work())
        if not self._dry_run:
            write(path, Step(result=self._relative(left)).model_dump_json() + "\n")
        return left

    def _left(self, path: Path) -> Path | None:
        try:
            left = self._plan.out / Step.model_validate_json(path.read_bytes()).result
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            why = describe(error) if isinstance(error, ValidationError) else str(error)
            raise IntegrityError(f"{path} cannot be read ({why}); remove it to do the step again") from None
        if not left.exists():
            raise IntegrityError(f"{path} names {left}, which is gone; remove {path.parent} to do the step again")
        return left

    def _relative(self, path: Path) -> str:
        """To OUT, which may be moved."""
        return path.relative_to(self._plan.out).as_posix() if path.is_relative_to(self._plan.out) else str(path)

    def _shared(self, run: NamedRun) -> tuple[object, ...]:
        return "--model", self._plan.model, "--config", self._plan.settings_file(run.name)

    def _figure(self, key: str, found: dict[str, Any]) -> None:
        figures = {**self._results.figures, key: {**self._results.figures.get(key, {}), **found}}
        self._keep(self._results.model_copy(update={"figures": figures}))

    def _keep(self, results: Results) -> None:
        self._results = results
        write_results(self._plan.out / RESULTS_FILE, results)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); remove it") from None


def _tokens(manifest: Path) -> dict[str, float]:
    """By item, the mean length of its traces."""
    lengths: dict[str, list[int]] = {}
    for shard in read_manifest(manifest).shards:
        lengths.setdefault(shard.item_id, []).append(shard.tokens)
    return {name: sum(found) / len(found) for name, found in lengths.items()}


def _content(folder: Path) -> str:
    """What an adapter or a model is, wherever it lies: a value of a sweep may be another run, and GRPO without a single
    right rollout leaves what it began with."""
    return adapter_digest(folder) if (folder / ADAPTER_CONFIG).exists() else str(identify(folder).identity())
