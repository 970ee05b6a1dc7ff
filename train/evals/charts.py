"""pass@k as charts of the report: one line a subject, one panel a condition, so that no panel holds more than tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dail.train.charts import ARMS, INK, PANEL_IN, panels, style, svg
from dail.train.evals.results import ArmRef, Evaluation, GroupResult, PassAtK

# the base, dashed, and others by place; told apart by their marks too, since colours alone are not enough
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = (0, (4, 2))
_MOST_LINES = len(ARMS)
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
class _Line:
    label: str
    look: int
    places: Sequence[float]
    points: Sequence[PassAtK]


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


def _spread(arms: Sequence[ArmRef]) -> Iterator[tuple[ArmRef, ...]]:
    first, others = arms[0], arms[1:]
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
    most = max(point.high for one in evaluation.groups for points in one.passes.values() for point in points)
    looks, is_keyed = looks_of(evaluation), not legend_of(evaluation)
    charts = []
    for panel in panels_of(evaluation):
        lines = [
            _Line(
                _label(evaluation, arm), looks[arm.name], [p.k for p in group.passes[arm.name]], group.passes[arm.name]
            )
            for arm in panel.arms
        ]
        about = ", ".join(filter(None, [f"pass@k of {_all(lines)}", group.group, panel.condition]))
        charts.append(Chart(panel.condition, _drawn(lines, 100 * most, about, is_keyed)))
    return charts


def _label(evaluation: Evaluation, arm: ArmRef) -> str:
    return arm.subject if len(evaluation.subjects) > 1 else arm.name


def _all(lines: Sequence[_Line]) -> str:
    *first, last = [line.label for line in lines]
    return f"{', '.join(first)} and {last}" if first else last


def _drawn(lines: Sequence[_Line], most: float, about: str, is_keyed: bool) -> str:
    figure, (panel,) = panels(1, share_y=False, size=PANEL_IN)
    for line in lines:
        colour = ARMS[line.look]
        dashes = "-" if line.look else _DASHES
        low, high = [100 * point.low for point in line.points], [100 * point.high for point in line.points]
        panel.plot(
            line.places, [100 * point.mean for point in line.points],
            label=line.label, color=colour, marker=_MARKS[line.look], linestyle=dashes,
        )  # fmt: skip
        panel.fill_between(
            line.places, low, high, color=colour, alpha=0.16 if len(lines) <= _KEYED else 0.08, linewidth=0
        )
        # a band of one place has no width
        if len(line.places) == 1:
            panel.vlines(line.places, low, high, color=colour)
    places = lines[0].places
    panel.set_xscale("log", base=2)
    panel.set_xticks(places, [f"{one:g}" if at % (1 + len(places) // 7) == 0 else "" for at, one in enumerate(places)])
    panel.minorticks_off()
    panel.set_xlabel("k")
    panel.set_ylabel("pass@k, %")
    panel.set_ylim(0, max(1.0, 1.04 * most))
    if is_keyed:
        panel.legend(frameon=False, labelcolor=INK, loc="best")
    return svg(figure, about)
