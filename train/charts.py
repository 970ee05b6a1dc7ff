"""Charts as SVG text: matplotlib draws, a style sheet colours, so they follow light and dark on a page.

`curves.svg` of a run folder holds the colours itself.
"""

from __future__ import annotations

import hashlib
import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

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
    "#060606": "var(--arm2)",
    "#070707": "var(--arm3)",
    "#080808": "var(--arm4)",
    "#090909": "var(--arm5)",
    "#0a0a0a": "var(--arm6)",
}
INK, MUTED, RULE, *ARMS = _COLOURS
BASE, ADAPTER = ARMS[:2]
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dail",  # the same numbers give the same file
    "text.parse_math": False,  # a group may be named $5
    "font.family": "sans-serif",
    "font.size": 10.5,  # 14 pixels: a chart on a page is never drawn smaller than it is
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}
_PAPER = (
    "background: #fffefb; --ink: #1d1f21; --muted: #62666b; --rule: #dcd9d2; --base: #6b6f75; --adapter: #0072b2; "
    "--arm2: #d55e00; --arm3: #9900e6; --arm4: #cc8166; --arm5: #4c1f00; --arm6: #0a004c; "
    "font-family: system-ui, sans-serif"  # no padding: in an <img> it would cut the other sides
)
_COLUMNS = 3
PANEL_IN = (3.2, 2.5)

# metrics.jsonl key → title of its panel; a run shows those that it wrote
CURVES = {
    "loss": "loss",
    "weighted_loss": "loss with token weights",
    "gap": "gap",
    "kl_privileged": "KL to the privileged student",
    "kl_negative": "KL to the negative reference",
    "kl_student": "KL to the base model",
    "student_entropy": "entropy of the student",
    "tokens_s": "tokens per second",
}


@contextmanager
def style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


@style()
def training_curves(metrics: Sequence[dict[str, Any]], only: str | None = None) -> str | None:
    """One panel for each known figure of the run's metrics, and of how many steps where not all have it.

    None if there is nothing to draw.
    """
    found = {key: points for key in ([only] if only else curves_of(metrics)) if (points := _points(metrics, key))}
    if not found:
        return None
    figure, axes = panels(len(found), share_y=False, size=PANEL_IN if only else None)
    for panel, (key, points) in zip(axes, found.items(), strict=True):
        steps, values = zip(*points, strict=True)
        panel.plot(steps, values, color=ADAPTER, linewidth=1.4, marker="o" if len(points) < 25 else "", markersize=3)
        panel.set_title(_title(key))
        if len(points) < len(metrics):
            of_all = f"{len(points)} of {len(metrics)} steps"
            panel.annotate(of_all, (1, 1), xycoords="axes fraction", ha="right", va="top", color=MUTED, size=8)
        panel.locator_params(axis="x", integer=True)
        panel.margins(y=0.15)
    for panel in axes[-_COLUMNS:]:
        panel.set_xlabel("step")
    return svg(figure, f"{_title(only) if only else 'figures'} of the training run over its steps")


def curves_of(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of the figures that have a panel: the known ones, and the KLs to further references by name."""
    further = {
        key for step in metrics for key in step if isinstance(key, str) and key.startswith("kl_")
    } - CURVES.keys()
    return [*CURVES, *sorted(further)]


def _title(key: str) -> str:
    return CURVES.get(key, f"KL to {key.removeprefix('kl_')}")


def _points(metrics: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(step["step"], float(value)) for step in metrics if _is_drawn(value := step.get(key))]


def _is_drawn(value: object) -> TypeGuard[float]:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def panels(count: int, share_y: bool, size: tuple[float, float] | None = None) -> tuple[Figure, list[Axes]]:
    """A grid of panels on one figure; `size` of the figure in inches, which follows from their number if left out."""
    from matplotlib.figure import Figure

    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    # a lone panel is drawn wider
    fitting = (5.4, 2.9) if count == 1 else (PANEL_IN[0] * columns, PANEL_IN[1] * rows)
    figure = Figure(figsize=size or fitting, layout="constrained")
    axes = [*figure.subplots(rows, columns, sharey=share_y, squeeze=False).flat]
    for panel in axes[count:]:
        panel.remove()
    return figure, axes[:count]


def svg(figure: Figure, about: str) -> str:
    """The `<svg>` element alone, with a label for readers who cannot see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>", "", text, flags=re.DOTALL)
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    # several charts on a page must not share ids
    name = hashlib.sha256(about.encode()).hexdigest()[:8]
    text = re.sub(r'(?<=\sid=")|(?<=url\(#)|(?<=href="#)', f"c{name}-", text)
    # the view box stays, so the chart shrinks with the page
    box = re.match(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', text, flags=re.DOTALL)
    assert box is not None, "matplotlib says how large it is"
    return (_opening(figure, box[1], about) + text[box.end() :]).strip()


def standalone(chart: str) -> str:
    """The chart as a file of its own, on paper of its own."""
    opening, rest = chart.split(">", 1)
    opening = opening.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{opening}><style>svg {{ {_PAPER} }}</style>{rest}\n"


def _opening(figure: Figure, box: str, about: str) -> str:
    width = round(figure.get_figwidth() * 96)
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" role="img" '
        f'aria-label="{html.escape(about)}" style="width: min(100%, {width}px)">'
    )
