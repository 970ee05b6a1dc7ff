"""Charts of the report as SVG text: matplotlib draws, the page's style sheet colours, so they follow light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from train.evals.results import GroupResult
from train.evals.samples import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Drawn in these, then replaced by the style sheet's variables of the same meaning.
_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--rule)",
    "#040404": "var(--base)",
    "#050505": "var(--adapter)",
}
_INK, _MUTED, _RULE, _BASE, _ADAPTER = _COLOURS
_LOOK: dict[Subject, dict[str, Any]] = {
    "base": {"color": _BASE, "marker": "o", "linestyle": (0, (4, 2))},
    "adapter": {"color": _ADAPTER, "marker": "s", "linestyle": "-"},
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dail",  # the same numbers give the same file
    "text.parse_math": False,  # a group may be named $5
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}
_COLUMNS = 3
_PANEL_IN = (3.2, 2.35)

# metrics.jsonl key → title of its panel; a run shows those that it wrote
CURVES = {
    "loss": "loss",
    "gap": "gap",
    "kl_privileged": "KL to the privileged student",
    "kl_negative": "KL to the negative reference",
    "student_entropy": "entropy of the student",
    "tokens_per_s": "tokens per second",
}


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


@_style()
def pass_curves(groups: Sequence[GroupResult]) -> str:
    """One panel a group: pass@k in percent over k, with bands for the intervals."""
    figure, panels = _panels(len(groups), share_y=True)
    for panel, group in zip(panels, groups, strict=True):
        for who, points in group.passes.items():
            k = [point.k for point in points]
            panel.plot(k, [100 * point.mean for point in points], label=who, **_LOOK[who])
            low, high = [100 * point.low for point in points], [100 * point.high for point in points]
            panel.fill_between(k, low, high, color=_LOOK[who]["color"], alpha=0.16, linewidth=0)
            # a band of one k has no width
            if len(k) == 1:
                panel.vlines(k, low, high, color=_LOOK[who]["color"])
        panel.set_title(f"{_short(group.group)} ({group.num_problems})")
        panel.set_xscale("log", base=2)
        panel.set_xticks(k, [str(one) for one in k])
        panel.minorticks_off()
        panel.set_xlabel("k")
    panels[0].set_ylabel("pass@k, %")
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False, labelcolor=_INK, loc="best")
    return _svg(figure, "pass@k of base and adapter by group")


@_style()
def training_curves(metrics: Sequence[dict[str, Any]]) -> str | None:
    """One panel for each known figure of the run's metrics; none if there is nothing to draw."""
    found = {key: points for key in CURVES if (points := _points(metrics, key))}
    if not found:
        return None
    figure, panels = _panels(len(found), share_y=False)
    for panel, (key, points) in zip(panels, found.items(), strict=True):
        steps, values = zip(*points, strict=True)
        panel.plot(steps, values, color=_ADAPTER, linewidth=1.4, marker="o" if len(points) < 25 else "", markersize=3)
        panel.set_title(CURVES[key])
        panel.locator_params(axis="x", integer=True)
        panel.margins(y=0.15)
    for panel in panels[-_COLUMNS:]:
        panel.set_xlabel("step")
    return _svg(figure, "figures of the training run over its steps")


def _points(metrics: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [
        (step["step"], float(value))
        for step in metrics
        if isinstance(value := step.get(key), int | float) and math.isfinite(value)
    ]


def _panels(count: int, share_y: bool) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    # a lone panel is drawn wider
    width, height = (5.4, 2.9) if count == 1 else (_PANEL_IN[0] * columns, _PANEL_IN[1] * rows)
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = [*figure.subplots(rows, columns, sharey=share_y, squeeze=False).flat]
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def _svg(figure: Figure, about: str) -> str:
    """The `<svg>` element alone, with a label for readers who cannot see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>", "", svg, flags=re.DOTALL)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    # the view box stays, so the chart shrinks with the page
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening(figure, about), svg, count=1, flags=re.DOTALL)
    return svg.strip()


def _opening(figure: Figure, about: str) -> str:
    width = round(figure.get_figwidth() * 96)
    return (
        rf'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="\1" role="img" aria-label="{about}" '
        rf'style="width: min(100%, {width}px)">'
    )


def _short(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"
