"""A whole evaluation: problems in; the result, eval.json, samples.jsonl and report.html out.

`dail eval` calls it; from Python:

    from dail.train.evals import evaluate
    evaluation = evaluate(
        "deploy/demo/eval_problems.jsonl", "runs/eval", adapter="runs/train/adapter", model="deploy/demo/model"
    )
    print(evaluation.groups[0].passes["adapter"][0].mean)
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dail.synth.config import EngineConfig
from dail.synth.core.config import fingerprint
from dail.synth.core.errors import StorageError, UsageError
from dail.synth.core.progress import OnProgress, told_to
from dail.synth.data.account import Account
from dail.synth.data.reader import Reading
from dail.synth.method.grading import BY_BOX, GRADERS
from dail.synth.method.prompts import role_templates
from dail.synth.schema.synthesis import PROMPTS
from dail.train.evals import run
from dail.train.evals.arms import BASE, Named, Subject, arms_of, name_adapters, name_models, read_subjects
from dail.train.evals.completions import day_begun
from dail.train.evals.config import EvalConfig
from dail.train.evals.controls import compare_within
from dail.train.evals.examples import choose
from dail.train.evals.gate import compare
from dail.train.evals.marks import MARKS, Marker, find_marks
from dail.train.evals.problems import EvalProblem, check_for_math, read_problems
from dail.train.evals.report import render, trace_lineages
from dail.train.evals.results import EVALUATION_FILE as EVALUATION_FILE
from dail.train.evals.results import ArmRef, Evaluation, SubjectRef, by_group, count, same_text, summarise, versions

SAMPLES_FILE, REPORT_FILE = "samples.jsonl", "report.html"


def evaluate(
    problems: str | Path | Iterable[str | Path] | Iterable[EvalProblem | Mapping[str, Any]],
    out: str | Path,
    adapter: str | Path | None = None,
    config: EvalConfig | None = None,
    *,
    model: str | Path | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    models: Mapping[str, str | Path] | None = None,
    reading: Reading | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """pass@k of a base model and of adapters and other models beside it, with intervals, by group of problems.

    Blocks; works in a script, a thread and a notebook. Prints nothing: messages go to the loggers under `dail`. A rerun
    reuses the completions that were drawn with the same settings.

    Args:
        problems: a file, a folder or `hf:OWNER/NAME`, or a list of them, or the problems themselves.
        out: folder that receives eval.json, samples.jsonl and report.html.
        adapter: folder of a LoRA adapter; the base model alone without.
        config: of the draws, the grader and the engine, which names the model; defaults if only `model` is given.
        model: folder of the base model, instead of the one in `config`.
        adapters: several adapters of the base model, by the names they are to have, instead of `adapter`.
        models: several models, by name, instead of `model`; the first is the base that all others are held against.
        reading: which columns are which fields, and what becomes of rows that cannot be used; these are refused, and
            written to `out`/invalid.jsonl if they are to be skipped.
        on_progress: called in the thread that does the work; what it raises ends the evaluation.

    Raises:
        DailError: of the kind that fits.
    """
    judged = _given("model", model, models, name_models)
    config = _with_model(config, next(iter(judged.values()), None))
    beside = _given("adapter", adapter, adapters, name_adapters)
    read = read_problems(problems, (reading or Reading()).writing_to(Path(out)))
    with told_to(on_progress):
        return _evaluate(read.items, read.account, Path(out), judged or {BASE: config.engine.model}, beside, config)


def _given(
    what: str,
    one: str | Path | None,
    several: Mapping[str, str | Path] | None,
    naming: Callable[[Sequence[Named]], dict[str, Path]],
) -> dict[str, Path]:
    if one is not None and several is not None:
        raise UsageError(f"{what} and {what}s are both given; give one of them")
    if several is not None:
        return {name: Path(folder) for name, folder in several.items()}
    return naming([(None, Path(one))]) if one is not None else {}


def _with_model(config: EvalConfig | None, model: Path | None) -> EvalConfig:
    if model is None:
        if config is None:
            raise UsageError("no model is named; give model=FOLDER, or a config whose engine has one")
        return config
    if config is None:
        return EvalConfig(engine=EngineConfig(model=model))
    return config.model_copy(update={"engine": config.engine.model_copy(update={"model": model})})


def _evaluate(
    problems: list[EvalProblem],
    read: Account,
    out: Path,
    models: Mapping[str, Path],
    adapters: Mapping[str, Path],
    config: EvalConfig,
) -> Evaluation:
    started = dt.datetime.now(dt.UTC)
    config = _pinned(config)
    role_templates(config.prompts)  # refused now, rather than after the engine's start
    if config.grader in BY_BOX:
        check_for_math(problems)
    subjects = read_subjects(models, adapters, config.prompts)
    arms = arms_of(subjects, config.drawn_at, config.budgets)
    config = _rendered(config, subjects, day_begun(out / SAMPLES_FILE) or dt.date.today())
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror}; give a folder that can be written") from None
    judged = run.evaluate(config, problems, arms, out / SAMPLES_FILE)
    marks = find_marks(config.marks, judged, problems) if config.marks else None
    counted = count(problems, judged, marks)
    refs = tuple(map(ArmRef.of, arms))
    evaluation = Evaluation(
        settings=config,
        subjects=tuple(map(SubjectRef.of, subjects)),
        arms=refs,
        problems_file=", ".join(source.file for source in read.sources) or None,
        problems_digest=fingerprint([problem.model_dump(mode="json") for problem in problems]),
        engines=tuple(sorted({one.completion.engine for one in judged})),
        versions=versions(),
        started_at=started,
        finished_at=dt.datetime.now(dt.UTC),
        groups=by_group(counted, refs, config),
        summary=summarise(counted, config.grader),
        num_same_text=same_text(judged, arms),
        problems=counted,
        gate=compare(problems, counted, judged, refs, config.gate, config.seed),
    )
    write_whole(
        out / EVALUATION_FILE, json.dumps(evaluation.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    )
    lineages = trace_lineages(subjects)
    examples = choose(problems, judged, refs, marks)
    write_whole(out / REPORT_FILE, render(evaluation, lineages, examples, compare_within(evaluation)))
    return evaluation


def _pinned(config: EvalConfig) -> EvalConfig:
    """With the digests of what the user brought along. ExtensionError: there is no such thing, or it cannot be loaded:
    refused now, rather than when all is drawn."""
    if config.marks:
        with Marker(marks := MARKS.pin(config.marks)):
            config = config.model_copy(update={"marks": marks})
    return config.model_copy(update={"grader": GRADERS.pin(config.grader), "prompts": PROMPTS.pin(config.prompts)})


def _rendered(config: EvalConfig, subjects: Sequence[Subject], today: dt.date) -> EvalConfig:
    """With the date, if a template prints one. UsageError: the prompts' settings say what a template does not read."""
    for model in dict.fromkeys(subject.model for subject in subjects):
        config = config.dated(model.template_reads, today)
        try:
            config.check(model.template_reads)
        except UsageError as error:
            raise UsageError(f"model {model.name}: {error}") from None
    return config


def write_whole(path: Path, text: str) -> None:
    """All or nothing, so that an interrupted run leaves no half page."""
    staged = path.with_name(path.name + ".part")
    try:
        # a token that is no character may decode to a lone surrogate
        staged.write_bytes(text.encode("utf-8", errors="replace"))
        os.replace(staged, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; free some space and rerun") from None
