"""pass@k as charts of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dail.train.charts import ADAPTER, BASE, INK, PANEL_IN, panels, style, svg
from dail.train.evals.completions import Subject
from dail.train.evals.results import GroupResult

_LOOK: dict[Subject, dict[str, Any]] = {
    "base": {"color": BASE, "marker": "o", "linestyle": (0, (4, 2))},
    "adapter": {"color": ADAPTER, "marker": "s", "linestyle": "-"},
}


@style()
def pass_curves(groups: Sequence[GroupResult]) -> list[str]:
    """One chart a group, all on one scale: pass@k in percent over k, with bands for the intervals."""
    most = max(point.high for group in groups for points in group.passes.values() for point in points)
    return [_pass_curve(group, 100 * most) for group in groups]


def _pass_curve(group: GroupResult, most: float) -> str:
    figure, (panel,) = panels(1, share_y=False, size=PANEL_IN)
    for who, points in group.passes.items():
        k = [point.k for point in points]
        panel.plot(k, [100 * point.mean for point in points], label=who, **_LOOK[who])
        low, high = [100 * point.low for point in points], [100 * point.high for point in points]
        panel.fill_between(k, low, high, color=_LOOK[who]["color"], alpha=0.16, linewidth=0)
        # a band of one k has no width
        if len(k) == 1:
            panel.vlines(k, low, high, color=_LOOK[who]["color"])
    panel.set_xscale("log", base=2)
    panel.set_xticks(k, [str(one) if place % (1 + len(k) // 7) == 0 else "" for place, one in enumerate(k)])
    panel.minorticks_off()
    panel.set_xlabel("k")
    panel.set_ylabel("pass@k, %")
    panel.set_ylim(0, max(1.0, 1.04 * most))
    panel.legend(frameon=False, labelcolor=INK, loc="best")
    return svg(figure, f"pass@k of {' and '.join(group.passes)}, {group.group}")
