"""The gate: signs of a collapse, held against thresholds, that warn of a run or stop it.

A student that learns from a privileged one may lose its doubt (entropy, words of self-correction), its variety
(n-grams, pass@k at large k), its measure (lengths, cut answers), or learn to cite a solution that nobody will show it.
None of it needs to show in pass@1. `look_at_traces` before the first step and `EntropyWatch` behind each are `dail
train`'s part, `train/evals/gate.py` is `dail eval`'s. Loads no torch.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dail.synth.core.config import Config, Frozen
from dail.synth.core.errors import GateStopped
from dail.synth.core.progress import progress
from dail.synth.schema.manifest import read_manifest, read_rows
from dail.synth.schema.mentions import mentions
from dail.train.signals import Counts, count_text

_log = logging.getLogger(__name__)

Action = Literal["warn", "stop", "off"]
Verdict = Literal["ok", "tripped", "not judged"]
_SHOWN = 3  # traces that are named


class GateConfig(Config):
    """`[gate]` of a config file. Defaults that were measured were so on the demo, which is healthy."""

    action: Action = Field(
        "warn",
        description="what a sign of collapse does: warn says so in log, run.json, report and card; stop also ends dail "
        "train behind the step, which is kept, and lets dail eval fail behind its report, both with exit code 6; off "
        "looks at nothing",
    )
    entropy_floor: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="dail train: least entropy of the student over the last gate.entropy_steps steps ÷ that over the "
        "first ones; 0 never trips. Measured: never below 0.55 on the demo",
    )
    entropy_steps: int = Field(
        20, ge=1, description="steps whose entropies are averaged; a run of less than twice as many is not judged"
    )
    max_mentions: float = Field(
        0.02,
        ge=0,
        le=1,
        description="largest share of traces, and of an adapter's completions beyond the base model's, that cite a "
        "reference, a given answer or a hint (synth/schema/mentions.py has the phrasings); 1 never trips. Measured: 0 "
        "of 256 traces and 2,560 completions of the demo",
    )
    min_distinct: float = Field(
        0.4,
        ge=0,
        le=1,
        description="dail train: least share of distinct 4-grams in windows of 256 words of the traces; 0 never trips. "
        "Measured: 1 on the demo, 0.86 on its competition-style solutions",
    )
    max_looping: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest share of traces, and of an adapter's completions beyond the base model's, with a window "
        "that goes round in a loop; 1 never trips. Measured: 0 on the demo",
    )
    min_trace_tokens: float = Field(
        8.0,
        ge=0,
        description="dail train: least mean tokens of a trace; 0 never trips. Measured: 89 on the demo; less than "
        "this holds no reasoning",
    )
    max_cut_traces: float = Field(
        1.0,
        ge=0,
        le=1,
        description="dail train: largest share of traces that were cut; 1 never trips and is the default, since the "
        "paper cuts the traces of reasoning models on purpose",
    )
    length_floor: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="dail eval: least mean tokens of the adapter's completions ÷ the base model's; 0 never trips. The "
        "paper's own adapters write 2 to 4 times less (§4), which is no collapse",
    )
    length_ceiling: float = Field(
        4.0,
        gt=1,
        description="dail eval: most mean tokens of the adapter's completions ÷ the base model's. Measured: 2.1 on the "
        "demo, whose adapter has learnt to go on to the end",
    )
    distinct_floor: float = Field(
        0.8,
        ge=0,
        lt=1,
        description="dail eval: least share of distinct 4-grams of the adapter's completions ÷ the base model's; 0 "
        "never trips. Measured: 1 on the demo",
    )
    markers_floor: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="dail eval: least words of self-correction (wait, let me check) per 1,000 tokens of the adapter ÷ "
        "the base model's, judged where that has 20 at least; 0 never trips. That they are suppressed is arXiv "
        "2603.24472's finding; half is our choice",
    )
    max_cut_rise: float = Field(
        0.1,
        ge=0,
        le=1,
        description="dail eval: most by which the share of cut completions may be above the base model's; 1 never "
        "trips. Answers that run on are a way to collapse that users report; a tenth is our choice",
    )
    slope_floor: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="dail eval: least slope of pass@k (points a doubling of k, from 1 to the largest) of the adapter ÷ "
        "the base model's, where its largest k gains nothing; 0 never trips. pass@1 up and pass@k flat is arXiv "
        "2606.26091's finding; half is our choice",
    )


class Signal(Frozen):
    """One sign, what it was and what it should have been.

    `value` is what is held against `limit`; `base` and `adapter` are what it was made of where two are compared, which
    `between` names, `low` and `high` its 95 % interval. `note` says why it was not judged.
    """

    name: str
    verdict: Verdict
    value: float | None
    limit: float | None
    is_floor: bool = False
    between: tuple[str, str] | None = None
    base: float | None = None
    adapter: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def sentence(self) -> str:
        """What it is, in words; of one that tripped also what was wanted."""
        if self.verdict == "not judged":
            return f"{self.name}: not judged, {self.note}"
        base, adapter = self.between or ("base", "adapter")
        both = f" ({self.base:.3g} of {base}, {self.adapter:.3g} of {adapter})" if self.adapter is not None else ""
        wanted = f", wanted {'at least' if self.is_floor else 'at most'} {self.limit:.3g}"
        return f"{self.name}: {self.value:.3g}{both}{wanted if self.verdict == 'tripped' else ''}"


class GateRecord(Frozen):
    """What the gate saw, as run.json, dail.json and eval.json have it."""

    action: Action
    signals: tuple[Signal, ...] = ()

    @property
    def tripped(self) -> tuple[Signal, ...]:
        return tuple(one for one in self.signals if one.verdict == "tripped")

    @property
    def stops(self) -> bool:
        return self.action == "stop" and bool(self.tripped)

    @property
    def line(self) -> str:
        """`2 warnings`, as cards and reports show it."""
        if self.action == "off":
            return "off"
        number = len(self.tripped)
        named = f": {', '.join(one.name for one in self.tripped)}" if number else ""
        return f"{number or 'no'} warning{'' if number == 1 else 's'}{named}"

    def warning(self) -> str | None:
        """Every sign that tripped, in one sentence; none if none did."""
        return f"gate: {'; '.join(one.sentence for one in self.tripped)}" if self.tripped else None

    def stopped(self, where: str) -> GateStopped:
        """The error of a run that this ends. `where` says what is kept."""
        return GateStopped(
            f"{self.warning()}; gate.action=stop ends the run here; {where}; look at what is named, then run the same "
            "command with another threshold of [gate], or --set gate.action=warn"
        )

    def with_signal(self, signal: Signal) -> GateRecord:
        """One of the same name gives way."""
        others = tuple(one for one in self.signals if one.name != signal.name)
        return self.model_copy(update={"signals": (*others, signal)})


def judged(name: str, value: float | None, limit: float, *, floor: bool = False, note: str = "", **more: Any) -> Signal:
    """A sign held against its threshold; `floor`: less than it trips, else more than it does."""
    if value is None:
        return Signal(name=name, verdict="not judged", value=None, limit=limit, is_floor=floor, note=note, **more)
    trips = value < limit if floor else value > limit
    verdict: Verdict = "tripped" if trips else "ok"
    return Signal(name=name, verdict=verdict, value=value, limit=limit, is_floor=floor, **more)


class EntropyWatch:
    """The student's entropy over a run: its mean over the last steps ÷ its mean over the first ones.

    Told every step in order, also those of before a restart, it says the same as if the run had never been stopped.
    """

    NAME = "entropy of the student, least of any steps ÷ first"
    KEY = "student_entropy"

    def __init__(self, config: GateConfig, earlier: Iterable[Mapping[str, Any]] = ()) -> None:
        self._config = config
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=config.entropy_steps)
        self._least: float | None = None
        for figures in earlier:
            self.see(figures)

    def see(self, figures: Mapping[str, Any]) -> None:
        """Takes a step's figures. A step without an entropy changes nothing."""
        entropy, steps = figures.get(self.KEY), self._config.entropy_steps
        if not isinstance(entropy, int | float):
            return
        if len(self._first) < steps:
            self._first.append(float(entropy))
            return
        self._last.append(float(entropy))
        if len(self._last) == steps and sum(self._first) > 0:
            ratio = sum(self._last) / sum(self._first)
            self._least = ratio if self._least is None else min(ratio, self._least)

    @property
    def signal(self) -> Signal:
        steps = self._config.entropy_steps
        note = f"it needs {2 * steps} steps that have an entropy, above 0 at first"
        return judged(self.NAME, self._least, self._config.entropy_floor, floor=True, note=note)


def look_at_traces(manifest: Path, config: GateConfig) -> GateRecord:
    """What the gate sees in the traces of a manifest, before anything is trained on them; warns of what trips.

    Raises:
        IntegrityError: a damaged manifest or shard.
    """
    if config.action == "off":
        return GateRecord(action="off")
    total, cited = Counts(), list[str]()
    with progress("looking at traces", read_manifest(manifest).rows) as bar:
        for row in read_rows(manifest):
            counts = count_text(row.trace_text, len(row.trace_ids), problem=row.problem, is_cut=row.truncated)
            if counts.mentioning and len(cited) < _SHOWN:
                cited.append(f"{mentions(row.trace_text, row.problem)[0]!r} in {row.unit_id}")
            total += counts
            bar.update(total.texts)
    record = GateRecord(action=config.action, signals=of_traces(total, config))
    if warning := record.warning():
        _log.warning(warning + (f"; cited: {'; '.join(cited)}" if cited else ""))
    return record


def of_traces(total: Counts, config: GateConfig) -> tuple[Signal, ...]:
    """The signs in the counts of all traces. Markers have no threshold: there is nothing to compare them with."""
    texts = total.texts
    return (
        judged("traces that cite a solution or hint, share", total.mentioning / texts, config.max_mentions),
        judged("traces that go round in a loop, share", total.looping / texts, config.max_looping),
        judged("traces that were cut, share", total.cut / texts, config.max_cut_traces),
        judged("tokens of a trace, mean", total.tokens / texts, config.min_trace_tokens, floor=True),
        judged(
            "distinct 4-grams of the traces, share",
            total.distinct / total.ngrams if total.ngrams else None,
            config.min_distinct,
            floor=True,
            note="no trace has four words",
        ),
        judged(
            "words of self-correction per 1,000 tokens of the traces",
            1000 * total.markers / total.tokens,
            0,
            floor=True,
        ),
    )
