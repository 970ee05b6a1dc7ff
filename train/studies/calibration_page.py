"""calibration.html: one file that shows what each value of tau does to the traces, and lets some of them be read.

As the report of an evaluation it opens without a network, holds no script, and escapes whatever a model wrote.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from dail.synth.schema.mentions import mentions
from dail.train.charts import ADAPTER, BASE, INK, MUTED, PANEL_IN, panels, style, svg
from dail.train.evals.report import page_environment, page_policy, page_style
from dail.train.studies.calibration_record import Arm, Calibration
from dail.train.studies.measures import Estimate, Figures, Seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CHARS = 6000  # of a trace that is shown
_ITEMS_SHOWN = 2
_TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999)
_DECADE = 0.33  # how wide a factor of ten in 1 - tau is drawn, above 0.5, beside a width of 1 for tau itself below
_AWAY = 0.14  # of what stands beside, from the nearest value
_SHEET = """
tbody th, .numbers small { white-space: nowrap; }
.numbers.narrow th:not(:first-child), .numbers.narrow td { padding-left: .8rem; }
"""

Pick = Callable[[Figures], Estimate | None]


@dataclass(frozen=True)
class Measure:
    """A column of the table, and a chart. `per`: what its figures are multiplied by where they are shown."""

    name: str
    unit: str
    per: float
    pick: Pick

    def shown(self, figures: Figures | None) -> tuple[str, str]:
        """The figure, and its interval, in words."""
        found = figures and self.pick(figures)
        if not found:
            return "–", ""
        ends = "" if found.low is None or found.high is None else f"{self._of(found.low)} to {self._of(found.high)}"
        return self._of(found.value), ends

    def _of(self, value: float) -> str:
        value *= self.per
        return f"{value:.1f}" if self.per == 100 else f"{value:.2f}"


MEASURES = (
    Measure("correct", "%", 100, lambda one: one.correct),
    Measure("cite", "%", 100, lambda one: one.leak),
    Measure("by the student", "% of tokens", 100, lambda one: one.student_share),
    Measure("self-correction", "per 1,000 tokens", 1, lambda one: one.markers),
    Measure("length ÷ expert", "", 1, lambda one: one.length),
    Measure("loop", "%", 100, lambda one: one.looping),
    Measure("cut", "%", 100, lambda one: one.cut),
)
_CHARTS = (("correct", "cite"), ("by the student",), ("self-correction",), ("length ÷ expert",))


@dataclass(frozen=True)
class Excerpt:
    """A trace to read: `pieces` are its text in order, each with whether it cites."""

    arm: str
    about: str
    pieces: list[tuple[str, bool]]
    is_cut_here: bool


@dataclass(frozen=True)
class Reading:
    """One item's traces, at one value of each region."""

    problem: str
    excerpts: list[Excerpt]


def render(found: Calibration, seen: Sequence[Sequence[Seen]]) -> str:
    """The page. `seen`: the traces of each arm."""
    sheet = page_style() + _SHEET
    pages = page_environment().overlay(loader=jinja2.FileSystemLoader(Path(__file__).parent))
    return pages.get_template("calibration.html.jinja").render(
        run=found,
        charts=[Markup(chart) for chart in charts(found)],
        captions=[" and ".join(names) for names in _CHARTS],
        measures=MEASURES,
        rows=[(arm, [one.shown(arm.figures) for one in MEASURES]) for arm in found.arms],
        seconds=[seconds(found, arm) for arm in found.arms],
        readings=readings(found, seen),
        facts=facts(found),
        # our own files and matplotlib's drawing, whose texts matplotlib escapes; all else is escaped
        style=Markup(sheet),
        policy=page_policy(sheet),
    )


def seconds(found: Calibration, arm: Arm) -> float | None:
    """The part of the time that went to a value, as if every row of the engines had cost the same; none if unknown."""
    if found.drawing is None or arm.share_of_rows is None:
        return None
    return found.drawing.seconds * arm.share_of_rows


def facts(found: Calibration) -> dict[str, dict[str, str]]:
    drawn, synthesis, items = found.drawing, found.synthesis, found.items
    rate = f"{drawn.tokens:,} tokens in {drawn.seconds:.0f} s, {drawn.tokens_per_s:,.0f} a second" if drawn else ""
    return {
        "Traces": {
            "model": found.model.name,
            "revision": found.model.revision[:23],
            "items": f"{items.drawn} of {items.all}, {items.verifiable} of them verifiable",
            "samples": f"{found.settings.samples} of each at each value",
            "temperature": f"{synthesis.temperature:g}",
            "tokens": f"at most {synthesis.max_tokens:,} of a trace",
            "tau is held against": f"{synthesis.probability_space} probabilities, rule {found.acceptance}",
            "seed": str(synthesis.seed),
        },
        "Measured with": {
            "grader": found.grader,
            "prompts and waypoints": f"{found.prompts}, {found.extractor}",
            "engine": ", ".join(found.engines),
            **({"drawn by one pool": rate} if rate else {}),
            "versions": ", ".join(f"{name} {version}" for name, version in found.versions.items()),
            "when": f"{found.started_at:%Y-%m-%d %H:%M} to {found.finished_at:%H:%M %Z}",
        },
    }


def place(tau: float) -> float:
    """Where tau stands on the axis: as it is up to 0.5, and from there by the logarithm of 1 - tau, so that 0.9 and
    0.9999 are apart.

    >>> [round(place(tau), 2) for tau in (0.1, 0.5, 0.9, 0.99, 0.9999)]
    [0.1, 0.5, 0.73, 1.06, 1.72]
    """
    return tau if tau <= 0.5 else 0.5 + _DECADE * math.log10(0.5 / max(1 - tau, 1e-5))


@style()
def charts(found: Calibration) -> list[str]:
    """Each measure over tau with bands, and what stands beside at the ends: the student at 0, direct above 1."""
    by_name = {one.name: one for one in MEASURES}
    return [_chart(found, [by_name[name] for name in names]) for names in _CHARTS]


def _chart(found: Calibration, measures: Sequence[Measure]) -> str:
    figure, (panel,) = panels(1, share_y=False, size=(5.6, 3.0) if len(measures) > 1 else PANEL_IN)
    for measure, colour in zip(measures, (ADAPTER, BASE), strict=False):
        _draw(panel, found, measure, colour)
    _axis(panel, found, wide=len(measures) > 1)
    if found.recommendation.tau is not None:
        panel.axvline(place(found.recommendation.tau), color=INK, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
    if len(measures) > 1:
        panel.legend(frameon=False, labelcolor=INK, loc="best")
        panel.set_ylabel(measures[0].unit)
    panel.set_ylim(bottom=0)
    return svg(figure, f"{' and '.join(one.name for one in measures)} over tau")


def _draw(panel: Axes, found: Calibration, measure: Measure, colour: str) -> None:
    points = [(arm, measure.pick(arm.figures)) for arm in found.arms if arm.figures]
    ends = _ends(found)
    mixed = [(place(arm.tau), one) for arm, one in points if arm.tau is not None and one]
    line: dict[str, Any] = {"color": colour, "linestyle": "-" if colour == ADAPTER else (0, (4, 2))}
    if mixed:
        x = [where for where, _ in mixed]
        panel.plot(
            x, [measure.per * one.value for _, one in mixed], marker="o", markersize=3, label=measure.name, **line
        )
        low, high = ([measure.per * one.value if end is None else measure.per * end for _, one in mixed
                      for end in [getattr(one, name)]] for name in ("low", "high"))  # fmt: skip
        panel.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    for arm, one in points:
        if arm.tau is None and one:
            away = [
                [measure.per * (one.value - end) * sign]
                for end, sign in ((one.low, 1), (one.high, -1))
                if end is not None
            ]
            panel.errorbar([ends[arm.name]], [measure.per * one.value], yerr=away or None, color=colour, marker="s",
                           markersize=4, linestyle="", linewidth=1)  # fmt: skip


def _ends(found: Calibration) -> dict[str, float]:
    """Where what stands beside is drawn: the student, which is tau 0, at the left, direct at the right."""
    places = [place(arm.tau) for arm in found.arms if arm.tau is not None]
    return {"student": min(places) - _AWAY, "direct": max(places) + _AWAY}


def _axis(panel: Axes, found: Calibration, wide: bool) -> None:
    taus = [arm.tau for arm in found.arms if arm.tau is not None]
    beside = {arm.name: _ends(found)[arm.name] for arm in found.arms if arm.tau is None}
    shown = [tick for tick in _TICKS if min(taus) <= tick <= max(taus)] or taus[:1]
    if not wide:
        shown = [tick for tick in shown if tick in (0.1, 0.5, 0.9, 0.99, 0.9999)] or shown[:1]
    ticks = {f"{tick:g}": place(tick) for tick in shown} | beside
    panel.set_xticks(list(ticks.values()), list(ticks), rotation=45 if wide else 60, ha="right", rotation_mode="anchor")
    panel.minorticks_off()
    panel.set_xlabel("tau", color=MUTED)


def readings(found: Calibration, seen: Sequence[Sequence[Seen]]) -> list[Reading]:
    """A few items, each at the lowest value, the recommended one, the highest and direct. First those that cite."""
    chosen = _regions(found)
    by_arm = {
        arm.name: {one.item_id: one for one in reversed(traces)} for arm, traces in zip(found.arms, seen, strict=True)
    }
    common = set.intersection(*(set(by_arm[name]) for name in chosen)) if chosen else set()
    order = sorted(common, key=lambda item: (-sum(by_arm[name][item].counts.mentioning for name in chosen), item))
    return [
        Reading(by_arm[chosen[0]][item].problem, [_excerpt(name, by_arm[name][item]) for name in chosen])
        for item in order[:_ITEMS_SHOWN]
    ]


def _regions(found: Calibration) -> list[str]:
    drawn = [arm for arm in found.arms if arm.figures]
    mixed = [arm for arm in drawn if arm.tau is not None]
    picked = [*mixed[:1], *(arm for arm in mixed if arm.tau == found.recommendation.tau), *mixed[-1:]]
    return list(dict.fromkeys(arm.name for arm in [*picked, *(arm for arm in drawn if arm.method == "direct")]))


def _excerpt(name: str, one: Seen) -> Excerpt:
    verdict = {"correct": "correct", "wrong": "wrong", "cut": "cut", "unknown": "the grader was given up"}
    said = [verdict.get(one.outcome or "", "not judged"), f"{one.shard.tokens} tokens"]
    if one.shard.attributed_tokens:
        said.append(f"{100 * one.shard.student_tokens / one.shard.attributed_tokens:.0f} % by the student")
    text = one.text[:_MOST_CHARS]
    return Excerpt(name, ", ".join(said), marked(text, mentions(one.text, one.problem)), len(one.text) > len(text))


def marked(text: str, phrases: Sequence[str]) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is one of these phrases, which are in small letters and single spaces.

    >>> marked("So, as *The  Solution* says", ["the solution says"])
    [('So, as *', False), ('The  Solution* says', True)]
    """
    if not phrases:
        return [(text, False)]
    words = (r"[\s*_`]+".join(map(re.escape, phrase.split())) for phrase in sorted(set(phrases), key=len, reverse=True))
    pieces = re.split(f"({'|'.join(words)})", text, flags=re.IGNORECASE)
    return [(piece, number % 2 == 1) for number, piece in enumerate(pieces) if piece]
