"""DAIL beside its control runs: what part of its gain do they explain?

A control is the same training on traces that lack one thing the method says it needs (`synth/schema/controls.py` names
them); if it gains as much, that thing was not why. `dail compare` calls `compare_runs`. Which control a run is, its
adapter's dail.json says by the settings of its traces and its training. A run is an evaluation's folder, or FOLDER:ARM
where it judged several adapters; DAIL and its controls may be arms of one evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from dail.synth.core.config import Frozen
from dail.synth.core.errors import UsageError, describe
from dail.synth.core.extensions import label
from dail.synth.schema.controls import CONTROLS, control_of
from dail.synth.schema.synthesis import Synthesis
from dail.train.evals.passk import LEVEL, Interval, bootstrap, resampled
from dail.train.evals.report import percent, points
from dail.train.evals.results import EVALUATION_FILE, ArmRef, Evaluation, ProblemResult
from dail.train.record import RunRecord

DAIL = "DAIL"
# Of an evaluation's settings, those that its figures depend on. Two runs that differ in one cannot be compared.
_COMPARED = ("samples", "max_tokens", "seed", "thinking", "template_args", "opening", "date")


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

    @property
    def part(self) -> str:
        """`40 % (12 to 71 %)`, or a dash."""
        if self.explained is None or self.low is None or self.high is None:
            return "–"
        low, high = (f"{100 * end:.0f}".replace("-", "−") for end in (self.low, self.high))
        return f"{100 * self.explained:.0f} % ({low} to {high} %)".replace("-", "−")


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


@dataclass(frozen=True)
class _Run:
    """One adapter of an evaluation, as it was named (`place`), and the run that trained it.

    `control` is its name, or `DAIL`.
    """

    place: str
    evaluation: Evaluation
    arm: ArmRef
    against: str
    control: str
    trained: RunRecord

    def share(self, problem: ProblemResult, who: str) -> float:
        return problem.num_correct[who] / len(problem.judgements[who])

    @property
    def gains(self) -> list[float]:
        """Adapter − base of pass@1, problem by problem."""
        return [self.share(one, self.arm.name) - self.share(one, self.against) for one in self.evaluation.problems]

    def mean(self, who: str) -> float:
        return sum(self.share(one, who) for one in self.evaluation.problems) / len(self.evaluation.problems)


def compare_runs(dail: str | Path, controls: Sequence[str | Path]) -> Comparison:
    """DAIL's evaluation beside those of its controls.

    Args:
        dail: folder (or eval.json) of the evaluation of the adapter that was trained as DAIL says; with `:ARM` behind
            it where several adapters were judged.
        controls: those of its controls, in the order in which they are to be shown.

    Raises:
        UsageError: one cannot be read, has no adapter, is not what its place says, or was judged on other problems, on
            another model or with other draws.
    """
    if not controls:
        raise UsageError("there is one evaluation alone; give those of the control runs behind it")
    first = _read_run(dail)
    if first.control != DAIL:
        raise UsageError(
            f"{dail} is a control ({first.control}); give the evaluation of DAIL itself first, and its controls behind"
        )
    others = []
    for place in controls:
        other = _read_run(place)
        _refuse_others(first, other)
        if other.control == DAIL:
            raise UsageError(
                f"{place} is no control: its traces show each problem's own solution and waypoints; make one by "
                f"`dail synth --control {'|'.join(CONTROLS)}`, or leave it out"
            )
        others.append(other)
    return _compared(first, others)


def compare_within(evaluation: Evaluation) -> Comparison | None:
    """DAIL beside its controls among the adapters of one evaluation, at its first temperature and last budget; none
    where there is not one DAIL and a control of it."""
    held = evaluation.arms[0].temperature, evaluation.settings.budgets[-1:] or (None,)
    runs = [
        run
        for arm in evaluation.arms
        if (arm.temperature, (arm.budget,)) == held and (run := _run_of(evaluation, arm, arm.name)) is not None
    ]
    firsts, others = ([run for run in runs if (run.control == DAIL) is is_it] for is_it in (True, False))
    return _compared(firsts[0], others) if len(firsts) == 1 and others else None


def _compared(first: _Run, others: Sequence[_Run]) -> Comparison:
    return Comparison(
        model=first.evaluation.model.name,
        num_problems=len(first.evaluation.problems),
        samples=first.evaluation.settings.samples,
        dail=_run_gain(first),
        controls=tuple(
            _explained(
                _run_gain(other, _differences(first.trained, other.trained, other.control)), first.gains, other.gains
            )
            for other in others
        ),
    )


def _read_run(place: str | Path) -> _Run:
    """Raises UsageError: it cannot be read, or nobody knows which of its adapters is meant, or what it is."""
    path, name = _split(str(place))
    evaluation = read_evaluation(path)
    run = _run_of(evaluation, _arm_of(evaluation, path, name), str(place))
    if run is None:
        raise UsageError(
            f"{place}: the adapter came without a dail.json that can be read, so nobody knows which control it is; "
            "train it with `dail train`"
        )
    return run


def _run_of(evaluation: Evaluation, arm: ArmRef, place: str) -> _Run | None:
    """None for what is no adapter, or one of which nobody knows how it was trained."""
    adapter = evaluation.subject_of(arm).adapter
    if adapter is None or adapter.provenance is None or arm.against is None:
        return None
    trained = adapter.provenance.run
    control = control_of(trained.synthesis, trained.config.model_dump(mode="json")) or DAIL
    return _Run(place, evaluation, arm, arm.against, control, trained)


def _split(place: str) -> tuple[str, str | None]:
    """FOLDER:ARM, unless there is a folder of that whole name."""
    path, sep, name = place.rpartition(":")
    return (path, name) if sep and not Path(place).exists() and Path(path).exists() else (place, None)


def _arm_of(evaluation: Evaluation, path: str, name: str | None) -> ArmRef:
    arms = {arm.name: arm for arm in evaluation.arms if evaluation.subject_of(arm).adapter}
    if not arms:
        raise UsageError(f"{path} judges no adapter; run `dail eval` with --adapter")
    known = ", ".join(f"{path}:{one}" for one in arms)
    if name is None and len(arms) > 1:
        raise UsageError(f"{path} judges {len(arms)} arms with an adapter; say which is meant: {known}")
    if name is not None and name not in arms:
        raise UsageError(f"{path} has no arm with an adapter that is called {name!r}; there are {known}")
    return arms[name] if name is not None else next(iter(arms.values()))


def _run_gain(run: _Run, differs: tuple[str, ...] = ()) -> RunGain:
    gain = bootstrap(run.gains, run.evaluation.settings.seed, least=-1.0)
    return RunGain(
        name=run.control, folder=run.place, base=run.mean(run.against), adapter=run.mean(run.arm.name), gain=gain.mean,
        gain_low=gain.low, gain_high=gain.high, differs=differs,
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


def _refuse_others(first: _Run, other: _Run) -> None:
    ours, theirs = _facts(first), _facts(other)
    differences = [f"{name} {theirs[name]} there, {ours[name]} here" for name in ours if ours[name] != theirs[name]]
    if differences:
        raise UsageError(
            f"{other.place} cannot be compared with {first.place} (there {'; '.join(differences)}); run `dail eval` of "
            "both on the same problems with the same settings"
        )


def _facts(run: _Run) -> dict[str, Any]:
    """All that pass@1 depends on but the adapter."""
    settings, model = run.evaluation.settings, run.evaluation.model
    return {
        "problems": run.evaluation.problems_digest,
        "model revision": model.revision,
        "tokenizer": model.tokenizer_hash,
        "chat template": model.template_hash,
        "temperature": run.arm.temperature,
        "budget": run.arm.budget,
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
            sentences.append(f"{told}, which is {one.part} of DAIL's gain.")
    return sentences
