"""The experiment as one picture: the arms on the harder problems, and what gamma does. `figures.py` draws it."""

from collections.abc import Mapping
from typing import Any

import demo_path  # noqa: F401

from dail.train.charts import ARMS as COLOURS
from dail.train.charts import MUTED, panels, standalone, style, svg

SHOWN = (
    "base",
    "SFT",
    "STaR",
    "NLL, direct",
    "NLL, mixed",
    "privileged KL, direct",
    "negative KL, direct",
    "DAIL, direct",
    "DAIL, mixed",
    "DAIL, direct, references at 0.6",
    "DAIL, direct, gamma 0.3",
)
"""The arms in the picture and in the short table."""
GAMMAS = {
    0.0: "privileged KL, direct",
    0.1: "DAIL, direct",
    **{gamma: f"DAIL, direct, gamma {gamma}" for gamma in (0.3, 0.5, 0.8)},
}
"""gamma → the arm, where references stand at temperature 1. Without the contrast it is the privileged KL alone."""
OF_GAMMA = ("harder", "same", "other", "easy")
Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]  # arm → group → measure → mean, low, high


@style()
def picture(figures: Figures) -> str:
    """Points are means, lines 95 % intervals. An SVG file."""
    figure, (left, right) = panels(2, share_y=False, size=(10.5, 4.2))
    arms = [arm for arm in SHOWN if arm in figures]
    for place, arm in enumerate(reversed(arms)):
        for shift, colour, measure in ((0.14, COLOURS[1], "pass@1"), (-0.14, COLOURS[2], "pass@8")):
            mean, low, high = figures[arm]["harder"][measure]
            left.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.6)
            left.plot([mean], [place + shift], "o", color=colour, markersize=5, label=measure if not place else None)
    left.set_yticks(range(len(arms)), list(reversed(arms)))
    left.set_xlim(left=-2)
    left.set_title("harder problems, %")
    left.legend(loc="upper right", labelcolor=MUTED)
    gammas = [gamma for gamma, arm in GAMMAS.items() if arm in figures]
    for colour, group in zip(COLOURS[1:], OF_GAMMA, strict=False):
        points = [figures[GAMMAS[gamma]][group]["pass@1"] for gamma in gammas]
        means = [mean for mean, _, _ in points]
        right.plot(gammas, means, "o-", color=colour, markersize=4, linewidth=1.6)
        lows, highs = [low for _, low, _ in points], [high for _, _, high in points]
        right.fill_between(gammas, lows, highs, color=colour, alpha=0.15, linewidth=0)
        if gammas:
            right.annotate(group, (gammas[-1] + 0.02, means[-1]), color=colour, va="center")
    right.set_title("pass@1 over gamma (0: privileged KL alone), %")
    right.set_xlim(-0.03, 1.0)
    right.set_ylim(-2, 103)
    return standalone(svg(figure, "pass@1 and pass@8 of the arms on the harder problems, and pass@1 over gamma"))
