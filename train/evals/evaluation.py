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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dail.synth.config import EngineConfig
from dail.synth.core.config import fingerprint
from dail.synth.core.errors import StorageError, UsageError
from dail.synth.core.progress import OnProgress, told_to
from dail.synth.data.account import Account
from dail.synth.data.reader import Reading
from dail.synth.method.grading import BY_BOX, GRADERS
from dail.synth.method.prompts import Prompts, role_templates
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import PROMPTS
from dail.train.evals import run
from dail.train.evals.completions import day_begun
from dail.train.evals.config import EvalConfig
from dail.train.evals.examples import choose
from dail.train.evals.gate import compare
from dail.train.evals.lineage import read_adapter
from dail.train.evals.problems import EvalProblem, check_for_math, read_problems
from dail.train.evals.report import render, trace_lineage
from dail.train.evals.results import AdapterRef, Evaluation, by_group, count, same_text, summarise, versions

EVALUATION_FILE, SAMPLES_FILE, REPORT_FILE = "eval.json", "samples.jsonl", "report.html"


def evaluate(
    problems: str | Path | Iterable[str | Path] | Iterable[EvalProblem | Mapping[str, Any]],
    out: str | Path,
    adapter: str | Path | None = None,
    config: EvalConfig | None = None,
    *,
    model: str | Path | None = None,
    reading: Reading | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """pass@k of a base model and of an adapter, with intervals, by group of problems.

    Blocks; works in a script, a thread and a notebook. Prints nothing: messages go to the loggers under `dail`. A rerun
    reuses the completions that were drawn with the same settings.

    Args:
        problems: a file, a folder or `hf:OWNER/NAME`, or a list of them, or the problems themselves.
        out: folder that receives eval.json, samples.jsonl and report.html.
        adapter: folder of a LoRA adapter; the base model alone without.
        config: of the draws, the grader and the engine, which names the model; defaults if only `model` is given.
        model: folder of the base model, instead of the one in `config`.
        reading: which columns are which fields, and what becomes of rows that cannot be used; these are refused, and
            written to `out`/invalid.jsonl if they are to be skipped.
        on_progress: called in the thread that does the work; what it raises ends the evaluation.

    Raises:
        DailError: of the kind that fits.
    """
    config = _with_model(config, model)
    read = read_problems(problems, (reading or Reading()).writing_to(Path(out)))
    with told_to(on_progress):
        return _evaluate(read.items, read.account, Path(out), Path(adapter) if adapter else None, config)


def _with_model(config: EvalConfig | None, model: str | Path | None) -> EvalConfig:
    if model is None:
        if config is None:
            raise UsageError("no model is named; give model=FOLDER, or a config whose engine has one")
        return config
    if config is None:
        return EvalConfig(engine=EngineConfig(model=Path(model)))
    return config.model_copy(update={"engine": config.engine.model_copy(update={"model": Path(model)})})


def _evaluate(
    problems: list[EvalProblem], read: Account, out: Path, adapter_folder: Path | None, config: EvalConfig
) -> Evaluation:
    started = dt.datetime.now(dt.UTC)
    brought = {"grader": GRADERS.pin(config.grader), "prompts": PROMPTS.pin(config.prompts)}
    config = config.model_copy(update=brought)
    role_templates(config.prompts)  # refused now, rather than after the engine's start
    if config.grader in BY_BOX:
        check_for_math(problems)
    model = identify(config.engine.model)
    config = config.dated(model.template_reads, day_begun(out / SAMPLES_FILE) or dt.date.today())
    config.check(model.template_reads)
    adapter = read_adapter(adapter_folder, config.engine.model, model, config.prompts) if adapter_folder else None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror}; give a folder that can be written") from None
    judged = run.evaluate(config, problems, model, adapter, out / SAMPLES_FILE)
    counted = count(problems, judged)
    evaluation = Evaluation(
        settings=config,
        model=model,
        adapter=adapter
        and AdapterRef(
            folder=str(adapter.folder), rank=adapter.rank, digest=adapter.digest, provenance=adapter.provenance
        ),
        problems_file=", ".join(source.file for source in read.sources) or None,
        problems_digest=fingerprint([problem.model_dump(mode="json") for problem in problems]),
        engines=tuple(sorted({one.completion.engine for one in judged})),
        versions=versions(),
        started_at=started,
        finished_at=dt.datetime.now(dt.UTC),
        groups=by_group(counted, config.seed),
        summary=summarise(counted, config.grader),
        num_same_text=same_text(judged),
        problems=counted,
        gate=compare(problems, counted, judged, config.gate, config.seed),
    )
    write_whole(
        out / EVALUATION_FILE, json.dumps(evaluation.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    )
    lineage = trace_lineage(adapter, Prompts(config.engine.model))
    write_whole(out / REPORT_FILE, render(evaluation, lineage, choose(problems, judged)))
    return evaluation


def write_whole(path: Path, text: str) -> None:
    """All or nothing, so that an interrupted run leaves no half page."""
    staged = path.with_name(path.name + ".part")
    try:
        # a token that is no character may decode to a lone surrogate
        staged.write_bytes(text.encode("utf-8", errors="replace"))
        os.replace(staged, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; free some space and rerun") from None
