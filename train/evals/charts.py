"""pass@k as charts of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dail.train.charts import ADAPTER, BASE, INK, panels, style, svg
from dail.train.evals.completions import Subject
from dail.train.evals.results import GroupResult

_LOOK: dict[Subject, dict[str, Any]] = {
    "base": {"color": BASE, "marker": "o", "linestyle": (0, (4, 2))},
    "adapter": {"color": ADAPTER, "marker": "s", "linestyle": "-"},
}


@style()
def pass_curves(groups: Sequence[GroupResult]) -> str:
    """One panel a group: pass@k in percent over k, with bands for the intervals."""
    figure, axes = panels(len(groups), share_y=True)
    for panel, group in zip(axes, groups, strict=True):
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
    axes[0].set_ylabel("pass@k, %")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False, labelcolor=INK, loc="best")
    return svg(figure, "pass@k of base and adapter by group")


def _short(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"
