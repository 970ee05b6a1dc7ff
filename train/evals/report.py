"""report.html: one file that shows what was run, what it gained, what was written, how training went, and who wrote
which token.

It opens from a disk without a network. It holds no script, and its policy forbids one; whatever a model or an expert
wrote is escaped text, its formulas MathML of known elements. Tokens are the buttons of a radio group, which browsers
let keyboards and fingers reach without a script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jinja2
from markupsafe import Markup

from dail.synth.core.errors import DailError
from dail.synth.core.extensions import label
from dail.synth.method.prompts import Prompts
from dail.synth.schema.manifest import Manifest
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import RULES, Synthesis
from dail.synth.schema.trace_tokens import student_share
from dail.train.charts import curves_of, training_curves
from dail.train.comparison import facts_of
from dail.train.evals.arms import Subject
from dail.train.evals.charts import Chart, legend_of, looks_of, pass_curves, sweeps_of
from dail.train.evals.config import EvalConfig
from dail.train.evals.examples import ProblemExamples
from dail.train.evals.formulas import as_formula, marked, visible, with_formulas
from dail.train.evals.lineage import Adapter
from dail.train.evals.results import ArmRef, Evaluation, GroupResult, PassAtK
from dail.train.evals.traces import Trace, some_traces
from dail.train.record import Provenance

if TYPE_CHECKING:
    from dail.train.evals.controls import Comparison  # which words its sentences with the words of this page

_T = TypeVar("_T")
_HERE = Path(__file__).parent
_MANY_CHARTS = 36
_MANY_PROBLEMS = 400  # the table of single problems holds no more; eval.json has all


@dataclass(frozen=True)
class Lineage:
    """What is known of where the adapter came from; `notes` say what could not be shown and why."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    manifest: Manifest | None = None
    traces: list[Trace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def trace_lineages(subjects: Sequence[Subject]) -> dict[str, Lineage]:
    """Of each adapter, by the subject's name."""
    tokenizer = Prompts(subjects[0].folder).tokenizer

    @cache  # adapters of one sweep have their traces in common
    def traces_of(manifest: Path) -> tuple[Manifest, list[Trace]]:
        return some_traces(manifest, lambda ids: str(tokenizer.decode(ids)))

    return {one.name: _trace_lineage(one.adapter, traces_of) for one in subjects if one.adapter}


def _trace_lineage(adapter: Adapter, traces_of: Callable[[Path], tuple[Manifest, list[Trace]]]) -> Lineage:
    """Reads what an adapter's provenance points to. What is missing or damaged is a note, not an error."""
    notes = [adapter.note] if adapter.note else []
    metrics = adapter.metrics()
    if not metrics:
        notes.append("The training run's metrics.jsonl was not found: no training curves.")
    path = adapter.manifest()
    if path is None:
        notes.append("The manifest that the adapter was trained on was not found: no traces.")
        return Lineage(metrics, notes=notes)
    try:
        manifest, traces = traces_of(path)
    except DailError as error:
        return Lineage(metrics, notes=[*notes, f"No traces: {error}"])
    trained_on = adapter.provenance.run.manifest_digest if adapter.provenance else manifest.digest
    if trained_on != manifest.digest:
        notes.append(f"{path} is no longer the manifest that the adapter was trained on ({trained_on}).")
    return Lineage(metrics, manifest, traces, notes)


def page_style() -> str:
    """The style sheet of our pages."""
    return (_HERE / "report.css").read_text("utf-8")


def page_environment() -> jinja2.Environment:
    """Templates of this folder; all that is put into them is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent, "points": points, "formulas": with_formulas, "formula": as_formula, "visible": visible,
        "figure": figure, "marked": marked, "label": label,
    }  # fmt: skip
    return environment


def render(
    evaluation: Evaluation,
    lineages: Mapping[str, Lineage],
    examples: Sequence[ProblemExamples] = (),
    comparison: Comparison | None = None,
) -> str:
    """The page. `lineages` are the adapters', by subject; `comparison` is of DAIL with its controls among them."""
    style = page_style()
    return (
        page_environment()
        .get_template("report.html.jinja")
        .render(
            run=evaluation,
            lineages=lineages,
            looks=looks_of(evaluation),
            legend=legend_of(evaluation),
            facts=facts(evaluation, lineages),
            findings=findings(evaluation),
            problems=evaluation.problems[:_MANY_PROBLEMS],
            shown=evaluation.shown_arms,
            # our own files and matplotlib's drawing, whose texts matplotlib escapes; all else is escaped here
            style=Markup(style),
            pass_curves=[_as_markup(charts) for charts in _of_groups(evaluation, pass_curves)],
            sweeps=_sweeps(evaluation),
            comparison=comparison,
            training_curves={name: _training(lineage) for name, lineage in lineages.items()},
            examples=examples,
            policy=page_policy(style),
        )
    )


def _of_groups(
    evaluation: Evaluation, draw: Callable[[Evaluation, GroupResult], Sequence[_T]]
) -> Iterator[Sequence[_T]]:
    """What is drawn of each group; of all problems alone where it would be too much for a page."""
    first = draw(evaluation, evaluation.groups[0])
    yield first
    if len(first) * len(evaluation.groups) <= _MANY_CHARTS:
        for group in evaluation.groups[1:]:
            yield draw(evaluation, group)


def _sweeps(evaluation: Evaluation) -> list[tuple[str, list[list[tuple[str, Markup]]]]]:
    """Title → of each group that is drawn its charts."""
    return [
        (title, [_as_markup(charts) for charts in _of_groups(evaluation, sweep)])
        for title, sweep in sweeps_of(evaluation).items()
    ]


def _as_markup(charts: Sequence[Chart]) -> list[tuple[str, Markup]]:
    return [(chart.condition, Markup(chart.svg)) for chart in charts]


def _training(lineage: Lineage) -> list[Markup]:
    curves = [training_curves(lineage.metrics, key) for key in curves_of(lineage.metrics)]
    return [Markup(curve) for curve in curves if curve]


def page_policy(style: str) -> str:
    """No script, no request of any kind; of styles only ours, and the attributes in matplotlib's drawings."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src-elem 'sha256-{digest}'; style-src-attr 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def facts(evaluation: Evaluation, lineages: Mapping[str, Lineage]) -> dict[str, dict[str, str]]:
    """The header: what was run, by room. What is not known is left out."""
    found = {"Evaluation": _evaluation_facts(evaluation)}
    is_lone = len(lineages) == 1
    for subject in evaluation.subjects[1:]:
        if subject.adapter is None:
            found[f"Model {subject.name}"] = _model_facts(subject.model, evaluation.model)
            continue
        adapter, lineage = subject.adapter, lineages.get(subject.name, Lineage())
        found["Adapter" if is_lone else f"Adapter {subject.name}"] = {
            "folder": adapter.folder,
            "rank": str(adapter.rank),
            "digest": _short(adapter.digest),
            **(training_facts(adapter.provenance) if adapter.provenance else {}),
        }
        if lineage.manifest is not None:
            found["Traces" if is_lone else f"Traces of {subject.name}"] = trace_facts(lineage.manifest)
    return found


def _evaluation_facts(evaluation: Evaluation) -> dict[str, str]:
    settings = evaluation.settings
    thinking = "as the template has it" if settings.thinking is None else "on" if settings.thinking else "off"
    temperatures = ", ".join(f"{one:g}" for one in settings.drawn_at)
    return {
        "model": evaluation.model.name,
        "revision": _short(evaluation.model.revision),
        "problems": f"{len(evaluation.problems)} in {evaluation.problems_file or 'a list'}",
        **({"protocol": _protocol(evaluation, settings.protocol)} if settings.protocol else {}),
        "completions": f"{settings.samples} per problem, {', '.join([f'temperature {temperatures}', *settings.cuts])}, "
        f"at most {settings.max_tokens or 'the context’s'} tokens, thinking {thinking}, seed {settings.seed}",
        **({"budgets of thought": _budgets(settings)} if settings.budgets else {}),
        "prompts": label(settings.prompts),
        **({"shortcuts": label(settings.marks)} if settings.marks else {}),
        "grader": f"{label(settings.grader)}, at most {settings.grade_timeout_s:g} s a completion",
        "engine": ", ".join(evaluation.engines),
        "versions": ", ".join(f"{name} {version}" for name, version in evaluation.versions.items()),
        "when": f"{evaluation.started_at:%Y-%m-%d %H:%M} to {evaluation.finished_at:%H:%M %Z}",
    }


def _protocol(evaluation: Evaluation, name: str) -> str:
    changes = ", ".join(f"{key} {got} instead of {wanted}" for key, (wanted, got) in evaluation.departs.items())
    return f"{name}, but for {changes}" if changes else name


def _budgets(settings: EvalConfig) -> str:
    announced = ", announced" if settings.announce else ""
    return (
        f"{', '.join(map(str, settings.budgets))} tokens, then an answer of up to {settings.answer_tokens}{announced}"
    )


def _model_facts(model: ModelIdentity, base: ModelIdentity) -> dict[str, str]:
    """With what makes its prompts other token ids than the base's."""
    kinds = {"tokenizer": "tokenizer_hash", "chat template": "template_hash"}
    own = [name for name, key in kinds.items() if getattr(model, key) != getattr(base, key)]
    prompts = f"its own {' and '.join(own)}" if own else f"the tokens that {base.name} has"
    return {"model": model.name, "revision": _short(model.revision), "prompts": prompts}


def training_facts(provenance: Provenance) -> dict[str, str]:
    run = provenance.run
    return {
        **{name: str(value) for name, value in facts_of(run.config).items()},
        **{key: str(getattr(run.config, key)) for key in ("epochs", "lr")},
        "trained on": _short(run.manifest_digest),
        "steps": str(provenance.steps),
        **({"gate": run.gate.line} if run.gate else {}),
        "when": f"{provenance.finished_at:%Y-%m-%d %H:%M %Z}",
        "dail": run.tool_version,
    }


def trace_facts(manifest: Manifest) -> dict[str, str]:
    drawn = manifest.synthesis
    share = student_share(
        sum(shard.student_tokens for shard in manifest.shards),
        sum(shard.attributed_tokens for shard in manifest.shards),
    )
    return {
        "manifest": _short(manifest.digest),
        "batch": f"{manifest.batch_id}, generation {manifest.generation}",
        "size": f"{manifest.rows:,} traces, {manifest.tokens:,} tokens",
        "method": drawn.method,
        "prompts and waypoints": f"{label(drawn.prompts)}, {label(drawn.extractor)}",
        "a student's token was accepted": _rule(drawn),
        "temperature": f"{drawn.temperature:g}",
        "by the student": "unknown"
        if share is None
        else f"{_about(manifest)}{percent(share)} of the tokens whose writer is known",
        "when": f"{manifest.created_at:%Y-%m-%d %H:%M %Z}",
    }


def _about(manifest: Manifest) -> str:
    """≈ where the student's tokens are an expected number: some have their writer as a probability alone."""
    return "" if all(float(shard.student_tokens).is_integer() for shard in manifest.shards) else "≈ "


def _rule(drawn: Synthesis) -> str:
    if drawn.acceptance == "topk":
        return f"if at most {drawn.acceptance_k} tokens were as likely for the privileged student"
    if drawn.acceptance not in RULES:
        return f"by {label(drawn.acceptance)} at tau {drawn.tau:g}, {drawn.probability_space} probabilities"
    largest = " of the largest probability" if drawn.acceptance == "relative" else ""
    return f"from tau {drawn.tau:g}{largest}, {drawn.probability_space} probabilities"


def _short(text: str) -> str:
    """A digest's first 16 digits, enough to compare by eye; eval.json has the whole. Other text as it is."""
    return text[:23] + "…" if text.startswith("sha256:") else text


def findings(evaluation: Evaluation) -> list[str]:
    """pass@k of all problems at the smallest and the largest k in words, with how sure each difference is."""
    everything, arms = evaluation.groups[0], evaluation.shown_arms
    ends = sorted({0, len(everything.passes[arms[0].name]) - 1})
    compared = [arm for arm in arms if arm.against is not None]
    if len(compared) > 1:
        return [_told_briefly(everything, arm, ends) for arm in compared]
    if len(compared) == 1:
        return [_compared(everything, str(compared[0].against), compared[0].name, place) for place in ends]
    return [
        f"pass@{everything.passes[arm.name][place].k}{f' of {arm.name}' if len(arms) > 1 else ''}: "
        f"{_with_interval(everything.passes[arm.name][place])}."
        for place in ends
        for arm in arms
    ]


def _told_briefly(everything: GroupResult, arm: ArmRef, ends: Sequence[int]) -> str:
    said = []
    for place in ends:
        point, gain = everything.passes[arm.name][place], everything.difference[arm.name][place]
        sure = "" if gain.low > 0 or gain.high < 0 else ": no clear difference"
        said.append(
            f"pass@{point.k} {percent(point.mean)}, {points(gain.mean)} points ({points(gain.low)} to "
            f"{points(gain.high)}{sure})"
        )
    return f"{arm.name} beside {arm.against}: {'; '.join(said)}."


def _compared(everything: GroupResult, against: str, arm: str, place: int) -> str:
    base, point, gain = (of[who][place] for of, who in (
        (everything.passes, against), (everything.passes, arm), (everything.difference, arm)))  # fmt: skip
    sure = "clear of zero" if gain.low > 0 or gain.high < 0 else "which holds zero: no clear difference"
    return (
        f"pass@{base.k}: {against} {percent(base.mean)}, {arm} {percent(point.mean)}; {points(gain.mean)} points "
        f"(95 % interval {points(gain.low)} to {points(gain.high)}, {sure})."
    )


def _with_interval(point: PassAtK) -> str:
    return f"{percent(point.mean)} (95 % interval {percent(point.low)} to {percent(point.high)})"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def figure(value: float | None) -> str:
    """Three digits and a true minus; a dash for what is not known."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def points(difference: float) -> str:
    """Percentage points with a sign, and a true minus."""
    return f"{100 * difference:+.1f}".replace("-", "−")
