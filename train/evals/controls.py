"""DAIL beside its control runs: what part of its gain do they explain?

A control is the same training on traces that lack one thing the method says it needs (`synth/schema/controls.py` names
them); if it gains as much, that thing was not why. `dail compare` calls `compare_runs`. Which control a run is, its
adapter's dail.json says by the settings of its traces and its training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from dail.synth.core.config import Frozen
from dail.synth.core.errors import UsageError, describe
from dail.synth.core.extensions import label
from dail.synth.schema.controls import CONTROLS, control_of
from dail.synth.schema.synthesis import Synthesis
from dail.train.evals.evaluation import EVALUATION_FILE
from dail.train.evals.passk import LEVEL, Interval, bootstrap, resampled
from dail.train.evals.report import percent, points
from dail.train.evals.results import Evaluation, ProblemResult
from dail.train.record import RunRecord

DAIL = "DAIL"
# Of an evaluation's settings, those that its figures depend on. Two runs that differ in one cannot be compared.
_COMPARED = ("samples", "temperature", "max_tokens", "seed", "thinking", "template_args", "opening", "date")


class RunGain(Frozen):
    """One run's pass@1 beside the base model's, with 95 % intervals, paired by problem.

    `explained` is its gain ÷ DAIL's, from `low` to `high`; none for DAIL itself, and where `note` says why.
    `differs` lists what else of its settings is not as DAIL's.
    """

    name: str
    folder: str
    base: float
    adapter: float
    gain: float
    gain_low: float
    gain_high: float
    explained: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    differs: tuple[str, ...] = ()

    @property
    def is_clear(self) -> bool:
        """Whether the gain's interval does not hold 0."""
        return self.gain_low > 0 or self.gain_high < 0


class Comparison(Frozen):
    """What `dail compare --json` prints."""

    format: Literal["dail.controls/1"] = "dail.controls/1"
    model: str
    num_problems: int
    samples: int
    dail: RunGain
    controls: tuple[RunGain, ...] = Field(min_length=1)


def read_evaluation(path: str | Path) -> Evaluation:
    """The eval.json of a folder, or the file itself. Raises UsageError."""
    path = Path(path)
    file = path / EVALUATION_FILE if path.is_dir() else path
    try:
        return Evaluation.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}; give the --out folder of a `dail eval` with an adapter"
        ) from None
    except ValidationError as error:
        raise UsageError(f"{file} is no eval.json of this version ({describe(error)}); run `dail eval` again") from None


def compare_runs(dail: str | Path, controls: Sequence[str | Path]) -> Comparison:
    """DAIL's evaluation beside those of its controls.

    Args:
        dail: folder (or eval.json) of the evaluation of the adapter that was trained as DAIL says.
        controls: those of its controls, in the order in which they are to be shown.

    Raises:
        UsageError: one cannot be read, has no adapter, is not what its place says, or was judged on other problems, on
            another model or with other draws.
    """
    if not controls:
        raise UsageError("there is one evaluation alone; give those of the control runs behind it")
    first = read_evaluation(dail)
    name, run = _run_of(first, dail)
    if name != DAIL:
        raise UsageError(
            f"{dail} is a control ({name}); give the evaluation of DAIL itself first, and its controls behind"
        )
    found = []
    own = _gains(first)
    for folder in controls:
        other = read_evaluation(folder)
        _refuse_others(first, dail, other, folder)
        its_name, its_run = _run_of(other, folder)
        if its_name == DAIL:
            raise UsageError(
                f"{folder} is no control: its traces show each problem's own solution and waypoints; make one by "
                f"`dail synth --control {'|'.join(CONTROLS)}`, or leave it out"
            )
        found.append(
            _explained(_run_gain(its_name, folder, other, _differences(run, its_run, its_name)), own, _gains(other))
        )
    return Comparison(
        model=first.model.name,
        num_problems=len(first.problems),
        samples=first.settings.samples,
        dail=_run_gain(DAIL, dail, first),
        controls=tuple(found),
    )


def _run_of(evaluation: Evaluation, folder: str | Path) -> tuple[str, RunRecord]:
    """The name of the control that the adapter is, or `DAIL`, and the run that trained it. UsageError: nobody knows."""
    if evaluation.adapter is None:
        raise UsageError(f"{folder} judges the base model alone; run `dail eval` with --adapter")
    provenance = evaluation.adapter.provenance
    if provenance is None:
        raise UsageError(
            f"{folder}: the adapter came without a dail.json that can be read, so nobody knows which control it is; "
            "train it with `dail train`"
        )
    run = provenance.run
    return control_of(run.synthesis, run.config.model_dump(mode="json")) or DAIL, run


def _gains(evaluation: Evaluation) -> list[float]:
    """Adapter − base of pass@1, problem by problem."""
    return [_share(problem, "adapter") - _share(problem, "base") for problem in evaluation.problems]


def _share(problem: ProblemResult, who: Literal["base", "adapter"]) -> float:
    return problem.num_correct[who] / len(problem.judgements[who])


def _run_gain(name: str, folder: str | Path, evaluation: Evaluation, differs: tuple[str, ...] = ()) -> RunGain:
    gain = bootstrap(_gains(evaluation), evaluation.settings.seed, least=-1.0)
    base, adapter = (
        sum(_share(one, who) for one in evaluation.problems) / len(evaluation.problems) for who in ("base", "adapter")
    )
    return RunGain(
        name=name, folder=str(folder), base=base, adapter=adapter, gain=gain.mean, gain_low=gain.low,
        gain_high=gain.high, differs=differs,
    )  # fmt: skip


def _explained(control: RunGain, own: Sequence[float], its: Sequence[float]) -> RunGain:
    """With its part of DAIL's gain, if DAIL has a gain that is clear of chance."""
    import numpy as np

    whole = bootstrap(own, 0, least=-1.0)
    if why := _nothing_to_explain(whole):
        return control.model_copy(update={"note": why})
    # one seed draws the same problems of both, so what makes a problem hard falls out of the quotient
    draws = resampled(its, 0) / resampled(own, 0)
    low, high = (float(end) for end in np.quantile(draws[np.isfinite(draws)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return control.model_copy(update={"explained": sum(its) / sum(own), "low": low, "high": high})


def _nothing_to_explain(gain: Interval) -> str:
    ends = f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f} points"
    if gain.low <= 0 <= gain.high:
        return f"DAIL's own gain is within noise ({ends}), so no part of it can be told"
    return f"DAIL itself lost ({ends}), so there is no gain to explain" if gain.high < 0 else ""


def _refuse_others(first: Evaluation, dail: str | Path, other: Evaluation, folder: str | Path) -> None:
    differences = [
        f"{name} {there} there, {here} here" for name, (here, there) in _compared(first, other).items() if here != there
    ]
    if differences:
        raise UsageError(
            f"{folder} cannot be compared with {dail} (there {'; '.join(differences)}); run `dail eval` of both on the "
            "same problems with the same settings"
        )


def _compared(one: Evaluation, other: Evaluation) -> dict[str, tuple[Any, Any]]:
    ours, theirs = _facts(one), _facts(other)
    return {name: (ours[name], theirs[name]) for name in ours}


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    """All that pass@1 depends on but the adapter."""
    settings, model = evaluation.settings, evaluation.model
    return {
        "problems": evaluation.problems_digest,
        "model revision": model.revision,
        "tokenizer": model.tokenizer_hash,
        "chat template": model.template_hash,
        **{name: getattr(settings, name) for name in _COMPARED},
        "prompts": label(settings.prompts),
        "grader": label(settings.grader),
        "engine.dtype": settings.engine.dtype,
        "engine.model_tokens": settings.engine.model_tokens,
    }


def _differences(ours: RunRecord, theirs: RunRecord, control: str) -> tuple[str, ...]:
    """Settings of training and traces that are not the same, beside those that make the control."""
    made_by = {f"{table}.{key}" for table in ("synthesis", "train") for key in CONTROLS[control].sets(table)}
    one, other = _settings(ours), _settings(theirs)
    return tuple(
        f"{key} {other.get(key)} instead of {one.get(key)}"
        for key in sorted((one.keys() | other.keys()) - made_by - {"train.manifest digest"})
        if one.get(key) != other.get(key)
    )


def _settings(run: RunRecord) -> dict[str, Any]:
    synthesis: Synthesis = run.synthesis
    drawn = synthesis.model_dump(mode="json") | synthesis.labels()
    return {f"train.{key}": value for key, value in run.decisive().items()} | {
        f"synthesis.{key}": value for key, value in drawn.items()
    }


def findings(comparison: Comparison) -> list[str]:
    """The comparison in sentences: DAIL's gain, and of each control what part of it it explains."""
    dail = comparison.dail
    sentences = [
        f"DAIL: pass@1 {percent(dail.base)} → {percent(dail.adapter)}, {points(dail.gain)} points (95 % interval "
        f"{points(dail.gain_low)} to {points(dail.gain_high)}"
        f"{'' if dail.is_clear else ', which holds zero: no clear gain'})."
    ]
    for one in comparison.controls:
        told = f"{one.name}: {points(one.gain)} points"
        if one.explained is None:
            sentences.append(f"{told}; {one.note}.")
        else:
            sentences.append(f"{told}, which is {part(one)} of DAIL's gain.")
    return sentences


def part(control: RunGain) -> str:
    """`40 % (12 to 71 %)`, or a dash."""
    if control.explained is None or control.low is None or control.high is None:
        return "–"
    low, high = (f"{100 * end:.0f}".replace("-", "−") for end in (control.low, control.high))
    return f"{100 * control.explained:.0f} % ({low} to {high} %)".replace("-", "−")
