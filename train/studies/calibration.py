"""`dail calibrate`: which tau to draw traces with, measured on the training set (paper App. B.2).

    OUT/                     what `dail synth` leaves: ledger, shards, and of each value a manifest to train on
    OUT/calibration.json     every figure with its interval, the recommendation and its reason
    OUT/calibration.html     the same to look at, with traces to read

All values are drawn on the same items by one pool of engines, which start once. A run that was killed goes on.

    dail calibrate deploy/demo/expert_solutions.jsonl --model deploy/demo/model --config cpu-tiny --out runs/tau

    from dail.synth import Synthesis
    from dail.train.studies import CalibrateConfig, calibrate
    settings = CalibrateConfig(grid=(0.3, "quick"), items=64)
    found = calibrate("solutions.jsonl", "runs/tau", settings, Synthesis(max_tokens=4096), model="models/qwen3-8b")
    print(found.recommendation.tau, *found.recommendation.reason)
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dail.synth.config import SynthConfig
from dail.synth.core.config import fingerprint
from dail.synth.core.errors import DailError, UsageError
from dail.synth.core.extensions import label
from dail.synth.core.progress import OnProgress, progress, told_to
from dail.synth.core.running import Stop
from dail.synth.data.reader import Reading, read_solutions
from dail.synth.method.prompts import Prompts
from dail.synth.run.local import with_model
from dail.synth.run.several import Drawn, Several, synthesise_several
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import LoneBox, resolve
from dail.synth.schema.synthesis import Synthesis
from dail.train.evals.evaluation import write_whole
from dail.train.evals.results import versions
from dail.train.studies.calibration_page import render
from dail.train.studies.calibration_record import Arm, Calibration, Drawing, Items
from dail.train.studies.measures import Figures, Seen, correctness, leak_interval, measure, see
from dail.train.studies.recommendation import Candidate, Recommendation, recommend
from dail.train.studies.taus import CalibrateConfig

_log = logging.getLogger(__name__)

CALIBRATION_FILE, PAGE_FILE = "calibration.json", "calibration.html"
_FEW_ITEMS = 30
_ATTRIBUTED = 0.9


def calibrate(
    items: str | Path | Iterable[str | Path] | Iterable[ExpertSolution | Mapping[str, Any]],
    out: str | Path,
    settings: CalibrateConfig | None = None,
    synthesis: Synthesis | None = None,
    config: SynthConfig | None = None,
    *,
    model: str | Path | None = None,
    reading: Reading | None = None,
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
) -> Calibration | None:
    """Draws traces at every value of tau, measures them and recommends a value.

    Blocks; works in a script, a thread and a notebook. Prints nothing: messages go to the loggers under `dail`.

    Args:
        items: expert solutions, as for `dail.synth.synthesise`; some must have an answer.
        out: folder of traces, calibration.json and calibration.html; the same call again goes on in it.
        settings: which values, on how many items.
        synthesis: how traces are drawn, but for tau; of method mixed.
        config: of the engines, which names the model; defaults if only `model` is given.
        model: folder of the model, instead of the one in `config`.
        reading, on_progress, stop: as for `dail.synth.synthesise`.

    Returns:
        What was found; none if it was stopped before all was drawn.

    Raises:
        UsageError, InputError: items, model or settings cannot be used; nothing was started.
        EngineDead: no engine could be started, or none survived.
    """
    settings, synthesis, out, started = settings or CalibrateConfig(), synthesis or Synthesis(), Path(out), _now()
    check_synthesis(synthesis)
    config = with_model(config, model)
    read = read_solutions(items, (reading or Reading()).writing_to(out))
    chosen = _lot(read.items, settings.items, synthesis.seed)
    verifiable = _verifiable(chosen, synthesis.lone_box)
    with told_to(on_progress):
        asked = _settings(settings, synthesis)
        drawn = synthesise_several(chosen, out, asked, config, stop=stop)
        if drawn.interrupted:
            return None
        seen = _see(drawn, out)
        tokenizer = Prompts(config.engine.model)
        expert = {item.id or "": len(tokenizer.solution_ids(item)) for item in chosen}
    arms = _arms(drawn, seen, expert, out, synthesis.seed)
    batch = drawn.batches[0].batch
    found = Calibration(
        settings=settings,
        synthesis=synthesis,
        worker=config,
        model=batch.model,
        **batch.synthesis.labels(),
        grader=label(batch.synthesis.grader),
        items=Items(
            all=len(read.items), drawn=len(chosen), verifiable=verifiable, read=read.account,
            digest=fingerprint([item.model_dump(mode="json", exclude_none=True) for item in chosen]),
        ),
        arms=arms,
        recommendation=_recommend(arms, seen, settings, synthesis.seed),
        notes=tuple(_notes(arms, verifiable)),
        drawing=_drawing(drawn, out),
        engines=tuple(sorted({one.engine for traces in seen for one in traces})),
        versions=versions(),
        started_at=started,
        finished_at=_now(),
    )  # fmt: skip
    write_whole(out / CALIBRATION_FILE, json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
    write_whole(out / PAGE_FILE, render(found, seen))
    return found


def check_synthesis(synthesis: Synthesis) -> None:
    """Refuses settings under which tau is nothing to calibrate. Raises UsageError."""
    if synthesis.method != "mixed":
        raise UsageError(
            f"synthesis.method is {synthesis.method}, and tau plays a part in mixed rollouts alone; set "
            "synthesis.method=mixed (what stands beside them is calibrate.beside)"
        )
    if synthesis.acceptance == "topk":
        raise UsageError("synthesis.acceptance is topk, by which tau plays no part; set absolute or relative")
    if synthesis.enough != "all":
        raise UsageError(
            f"synthesis.enough is {synthesis.enough}, which leaves out samples by their verdicts, so that no share of "
            "correct ones could be told; set synthesis.enough=all"
        )


def _lot(items: list[ExpertSolution], most: int | None, seed: int) -> list[ExpertSolution]:
    """So many of the items, in their order, the same on every machine."""
    if most is None or most >= len(items):
        return items
    lots = sorted(items, key=lambda item: hashlib.sha256(f"calibrate {seed} {item.id}".encode()).digest())
    kept = {item.id for item in lots[:most]}
    return [item for item in items if item.id in kept]


def _verifiable(items: Sequence[ExpertSolution], lone_box: LoneBox) -> int:
    found = [resolve(item, lone_box) for item in items]
    count = sum(one.kind == "verifiable" and one.answer is not None for one in found)
    if not count:
        raise UsageError(
            f"no item of the {len(items)} drawn on has an answer that a trace could be held against, in a field or in "
            "a box of its solution, so that no value of tau can be told from another; give verifiable items"
        )
    return count


def _settings(settings: CalibrateConfig, synthesis: Synthesis) -> list[Synthesis]:
    """Of each value, in their order, and behind them of what stands beside."""
    values: list[dict[str, Any]] = [{"tau": tau} for tau in settings.taus]
    values += [{"method": role} for role in settings.beside]
    return [synthesis.model_copy(update={"samples_per_item": settings.samples, **one}) for one in values]


def _see(drawn: Several, out: Path) -> list[list[Seen]]:
    """The traces of each batch."""
    shards = [shard for batch in drawn.batches for shard in batch.shards]
    if not shards:
        first = next(entry.failure for batch in drawn.batches for entry in batch.result.failures)
        raise DailError(f"no trace could be drawn at any value; the first failure: {first and first.detail}")
    with progress("judging", len(shards)) as bar:
        seen = see(out, shards, drawn.batches[0].batch.synthesis.grader, bar.update)
    by_batch: dict[str, list[Seen]] = {batch.batch.batch_id: [] for batch in drawn.batches}
    units = {shard.unit_id: batch.batch.batch_id for batch in drawn.batches for shard in batch.shards}
    for one in seen:
        by_batch[units[one.shard.unit_id]].append(one)
    return list(by_batch.values())


def _arms(
    drawn: Several, seen: Sequence[Sequence[Seen]], expert: Mapping[str, int], out: Path, seed: int
) -> tuple[Arm, ...]:
    rows = sum(batch.rows for batch in drawn.batches)
    is_known = all(batch.row_tokens == batch.result.tokens for batch in drawn.batches)
    return tuple(
        Arm(
            name=name_of(batch),
            tau=batch.batch.synthesis.tau if batch.batch.synthesis.method == "mixed" else None,
            method=batch.batch.synthesis.method,
            batch_id=batch.batch.batch_id,
            manifest=batch.result.manifest and batch.result.manifest.relative_to(out.resolve()).as_posix(),
            failed=batch.result.failed,
            figures=measure(traces, expert, seed) if traces else None,
            rows_per_token=batch.rows / batch.row_tokens if batch.row_tokens else None,
            share_of_rows=batch.rows / rows if is_known and rows else None,
        )
        for batch, traces in zip(drawn.batches, seen, strict=True)
    )


def name_of(batch: Drawn) -> str:
    synthesis = batch.batch.synthesis
    return f"tau {synthesis.tau:g}" if synthesis.method == "mixed" else f"{synthesis.method}"


def _recommend(
    arms: Sequence[Arm], seen: Sequence[Sequence[Seen]], settings: CalibrateConfig, seed: int
) -> Recommendation:
    candidates = [
        Candidate(
            arm.tau,
            correctness(traces),
            leak_interval(arm.figures),
            _known_share(arm.figures),
        )
        for arm, traces in zip(arms, seen, strict=True)
        if arm.tau is not None and arm.figures is not None
    ]
    return recommend(candidates, settings.max_leak, seed)


def _known_share(figures: Figures) -> float | None:
    """None where too few writers are known, as without worker.score_student, to say much of all tokens."""
    is_known = figures.student_share is not None and figures.attributed >= _ATTRIBUTED
    return figures.student_share.value if figures.student_share and is_known else None


def _notes(arms: Sequence[Arm], verifiable: int) -> Iterable[str]:
    """What a reader must know to trust the figures."""
    figures = [arm.figures for arm in arms if arm.figures]
    if verifiable < _FEW_ITEMS:
        yield f"Only {verifiable} items can be judged: intervals are wide, and a difference must be large to be clear."
    if cut := [arm.name for arm in arms if arm.figures and arm.figures.cut.value > 0.1]:
        yield (
            f"More than a tenth of the traces were cut at their limit of tokens ({', '.join(cut)}); a cut trace is not "
            "correct. Where traces are cut on purpose, as of reasoning models, calibrate with a larger "
            "synthesis.max_tokens."
        )
    if given_up := sum(one.given_up for one in figures):
        yield f"On {given_up} traces the grader was given up; they count as not correct."
    if failed := sum(arm.failed for arm in arms):
        yield f"{failed} traces could not be drawn; items are compared where both values have a trace."
    if all(one.leak.value == 0 for one in figures):
        yield (
            "No trace was found to cite a solution or a hint. The search knows phrasings in some languages "
            "(synth/schema/mentions.py); what is taken over without being cited it does not see: read some traces."
        )


def _drawing(drawn: Several, out: Path) -> Drawing | None:
    """Of this call if it drew everything, of an earlier one if that did, and of none if it was several."""
    if drawn.tokens and drawn.tokens == sum(batch.result.tokens for batch in drawn.batches):
        return Drawing(tokens=drawn.tokens, seconds=drawn.seconds)
    if drawn.tokens:
        return None
    try:
        before = Calibration.model_validate_json((out / CALIBRATION_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    same = [arm.batch_id for arm in before.arms] == [batch.batch.batch_id for batch in drawn.batches]
    return before.drawing if same else None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
