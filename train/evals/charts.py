"""pass@k as charts of the report: one line a subject, one panel a condition, so that no panel holds more than tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from dail.train.charts import ARMS, INK, PANEL_IN, panels, style, svg
from dail.train.evals.results import ArmRef, Evaluation, GroupResult, PassAtK

if TYPE_CHECKING:
    from matplotlib.axes import Axes as MatplotlibAxes

_T = TypeVar("_T")

# the base, dashed, and others by place; told apart by their marks too, since colours alone are not enough
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = (0, (4, 2))
_MOST_LINES = len(ARMS)
_MOST_TICKS = 16
_KEYED = 3  # lines that a panel names itself; more have their legend above


@dataclass(frozen=True)
class Panel:
    """What is drawn in one chart: arms under one condition, which is empty if there is but one."""

    condition: str
    arms: tuple[ArmRef, ...]


@dataclass(frozen=True)
class Chart:
    condition: str
    svg: str


@dataclass(frozen=True)
class Sweep:
    """What a budget or a temperature does: `title` as the heading of its charts."""

    title: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class _Line:
    label: str
    look: int
    places: Sequence[float]
    points: Sequence[PassAtK]


@dataclass(frozen=True)
class _Axes:
    """What is along the axes, the same in charts that belong together. `is_log`: places double from line to line."""

    x: str
    y: str
    most: float
    is_log: bool = True
    is_keyed: bool = True


def panels_of(evaluation: Evaluation) -> list[Panel]:
    """Of several subjects one panel a temperature and budget; of one subject one panel, or one a temperature where
    budgets vary too. What is too much for a panel is spread over several, with the base in each."""
    arms, several = evaluation.arms, len(evaluation.subjects) > 1
    varies = [len({getattr(arm, what) for arm in arms}) > 1 for what in ("temperature", "budget")]
    by = [what for what, is_so in zip(("temperature", "budget"), varies, strict=True) if is_so]
    if not several:
        by = by[:1] if all(varies) else []
    found: dict[str, list[ArmRef]] = {}
    for arm in arms:
        found.setdefault(", ".join(_told(arm, what) for what in by), []).append(arm)
    return [Panel(condition, some) for condition, those in found.items() for some in _spread(those)]


def _spread(lines: Sequence[_T]) -> Iterator[tuple[_T, ...]]:
    first, others = lines[0], lines[1:]
    step = _MOST_LINES - 1
    for place in range(0, max(1, len(others)), step):
        yield (first, *others[place : place + step])


def _told(arm: ArmRef, what: str) -> str:
    return f"temperature {arm.temperature:g}" if what == "temperature" else f"{arm.budget} tokens of thought"


def looks_of(evaluation: Evaluation) -> dict[str, int]:
    """Which colour and mark an arm has everywhere on the page: 0 is the base's."""
    if len(evaluation.subjects) > 1:
        places = {one.name: place for place, one in enumerate(evaluation.subjects)}
        return {arm.name: _look(places[arm.subject]) for arm in evaluation.arms}
    return {arm.name: _look(place) for panel in panels_of(evaluation) for place, arm in enumerate(panel.arms)}


def _look(place: int) -> int:
    return 1 + (place - 1) % (_MOST_LINES - 1) if place else 0


def legend_of(evaluation: Evaluation) -> dict[str, int]:
    """Label → look, if there are too many lines for each panel to name its own."""
    if max(len(panel.arms) for panel in panels_of(evaluation)) <= _KEYED:
        return {}
    looks = looks_of(evaluation)
    return {_label(evaluation, arm): looks[arm.name] for arm in evaluation.arms}


@style()
def pass_curves(evaluation: Evaluation, group: GroupResult) -> list[Chart]:
    """pass@k in percent over k, with bands for the intervals; all groups and panels on one scale."""
    looks = looks_of(evaluation)
    axes = _Axes("k", "pass@k, %", _most(evaluation), is_keyed=not legend_of(evaluation))
    charts = []
    for panel in panels_of(evaluation):
        passes = {arm: group.passes[arm.name] for arm in panel.arms}
        lines = [
            _Line(_label(evaluation, arm), looks[arm.name], [point.k for point in points], points)
            for arm, points in passes.items()
        ]
        about = ", ".join(filter(None, [f"pass@k of {_all(lines)}", group.group, panel.condition]))
        charts.append(Chart(panel.condition, _drawn(lines, axes, about)))
    return charts


@style()
def sweeps(evaluation: Evaluation, group: GroupResult) -> list[Sweep]:
    """pass@k at the smallest and the largest k over the budget, over the tokens that were written, and over the
    temperature, one line a subject; as far as there are several."""
    found = []
    if len({arm.budget for arm in evaluation.arms}) > 1:
        over = _over(evaluation, group, "budget", "budget of thought, tokens")
        written = _over(evaluation, group, "budget", "tokens written, mean", by_tokens=True)
        found.append(Sweep("What more tokens buy", (*over, *written)))
    if len({arm.temperature for arm in evaluation.arms}) > 1:
        found.append(Sweep("By temperature", tuple(_over(evaluation, group, "temperature", "temperature"))))
    return found


def _over(
    evaluation: Evaluation, group: GroupResult, what: str, label: str, by_tokens: bool = False
) -> Iterator[Chart]:
    """A chart of the smallest k and of the largest, and one for each value of what is held still."""
    still = "temperature" if what == "budget" else "budget"
    held = list(dict.fromkeys(getattr(arm, still) for arm in evaluation.arms))
    num_k = len(group.passes[evaluation.arms[0].name])
    for value in held:
        arms = [arm for arm in evaluation.arms if getattr(arm, still) == value]
        condition = _told(arms[0], still) if len(held) > 1 else ""
        for at in sorted({0, num_k - 1}):
            for subjects in _spread([one.name for one in evaluation.subjects]):
                lines = [
                    _swept(evaluation, group, [arm for arm in arms if arm.subject == name], what, at, by_tokens)
                    for name in subjects
                ]
                k = lines[0].points[0].k
                axes = _Axes(label, f"pass@{k}, %", _most(evaluation), what == "budget", len(subjects) <= _KEYED)
                about = ", ".join(filter(None, [f"pass@{k} of {_all(lines)} over {label}", group.group, condition]))
                yield Chart(", ".join(filter(None, [f"pass@{k}", condition])), _drawn(lines, axes, about))


def _swept(
    evaluation: Evaluation, group: GroupResult, arms: Sequence[ArmRef], what: str, at: int, by_tokens: bool
) -> _Line:
    arms = sorted(arms, key=lambda arm: float(getattr(arm, what)))
    places = [group.summary[arm.name].mean_tokens if by_tokens else float(getattr(arm, what)) for arm in arms]
    place = [one.name for one in evaluation.subjects].index(arms[0].subject)
    return _Line(arms[0].subject, _look(place), places, [group.passes[arm.name][at] for arm in arms])


def _most(evaluation: Evaluation) -> float:
    """The end of the scale of pass@k, in percent."""
    return 100 * max(point.high for one in evaluation.groups for points in one.passes.values() for point in points)


def _label(evaluation: Evaluation, arm: ArmRef) -> str:
    return arm.subject if len(evaluation.subjects) > 1 else arm.name


def _all(lines: Sequence[_Line]) -> str:
    *first, last = [line.label for line in lines]
    return f"{', '.join(first)} and {last}" if first else last


def _drawn(lines: Sequence[_Line], axes: _Axes, about: str) -> str:
    figure, (panel,) = panels(1, share_y=False, size=PANEL_IN)
    for line in lines:
        colour, dashes = ARMS[line.look], "-" if line.look else _DASHES
        mean, low, high = ([100 * getattr(point, of) for point in line.points] for of in ("mean", "low", "high"))
        panel.plot(
            line.places, mean, label=line.label, color=colour, marker=_MARKS[line.look], linestyle=dashes
        )  # fmt: skip
        panel.fill_between(
            line.places, low, high, color=colour, alpha=0.16 if len(lines) <= _KEYED else 0.08, linewidth=0
        )
        # a band of one place has no width
        if len(line.places) == 1:
            panel.vlines(line.places, low, high, color=colour)
    _scale(panel, sorted({place for line in lines for place in line.places}), axes.is_log)
    panel.set_xlabel(axes.x)
    panel.set_ylabel(axes.y)
    panel.set_ylim(0, max(1.0, 1.04 * axes.most))
    if axes.is_keyed:
        panel.legend(frameon=False, labelcolor=INK, loc="best")
    return svg(figure, about)


def _scale(panel: MatplotlibAxes, places: Sequence[float], is_log: bool) -> None:
    """Ticks at the places themselves where they are few and whole; at round numbers else."""
    if is_log:
        panel.set_xscale("log", base=2)
    are_given = all(place == round(place, 2) for place in places) and len(places) <= _MOST_TICKS
    ticks = places if are_given else [2.0**power for power in range(20) if places[0] <= 2**power <= places[-1]]
    step = 1 + len(ticks) // 7
    panel.set_xticks(ticks, [f"{one:g}" if at % step == 0 else "" for at, one in enumerate(ticks)])
    panel.minorticks_off()
