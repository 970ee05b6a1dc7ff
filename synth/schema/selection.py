"""Which of an item's traces are trained on: the rules by name, and what a selection says of itself in its manifest.

all              every trace
all_correct      every one whose answer is right
first_correct    of those the one with the lowest sample index
random_correct   one of those, by lot
best_correct     of those the one with the highest score
random           one trace by lot, whatever its verdict
best             the one with the highest score, whatever its verdict
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

from pydantic import Field

from dail.synth.core.config import Frozen
from dail.synth.core.extensions import Extension

Keep = Literal["all", "all_correct", "first_correct", "random_correct", "best_correct", "random", "best"]
KEEPS: tuple[Keep, ...] = get_args(Keep)
BY_VERDICT: tuple[Keep, ...] = ("all_correct", "first_correct", "random_correct", "best_correct")
BY_LOT: tuple[Keep, ...] = ("random_correct", "random")
BY_SCORE: tuple[Keep, ...] = ("best_correct", "best")
WithoutAnswer = Literal["drop", "one"]
# All, and the rules whose trace is known as soon as it is there.
Enough = Literal["all", "first_correct", "random_correct", "random"]
MATH, OFFICIAL = "math", "official"
GRADERS = Extension("grader", "dail.graders", (MATH, OFFICIAL))


class Counts(Frozen):
    """Traces of one item, or of all: `chosen` and `dropped` make up `drawn`. What was not asked for is none."""

    drawn: int
    correct: int | None = None
    cut: int | None = Field(None, description="ended by their length, so that they cannot be correct")
    unknown: int | None = Field(None, description="on which the grader was given up")
    chosen: int
    dropped: int


class Selection(Frozen):
    """By which rule a manifest's traces were chosen from those of another one, its parent.

    `seed` of the lot; `grader` and `by`, what gives the score, as NAME or NAME#DIGEST: none where they play no part.
    """

    parent: str = Field(description="the parent's file, relative to the output root")
    parent_digest: str
    keep: Keep
    seed: int | None
    grader: str | None
    by: str | None
    without_answer: WithoutAnswer | None = Field(
        description="what became of items that no grader can judge, where the rule asks for a verdict"
    )
    items: int = Field(description="of the parent")
    items_kept: int = Field(description="of which at least one trace was chosen")
    items_without_answer: int | None
    missing: int = Field(description="samples without a trace: they failed, or were not needed (`enough`)")
    counts: Counts

    def told(self) -> str:
        """The rule and how many of how many, in a line for people: first_correct (grader math): 1 of 4 traces, …"""
        named = {"seed": self.seed, "grader": self.grader, "by": self.by}
        said = ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
        counts = self.counts
        correct = "" if counts.correct is None else f", {counts.correct} of them correct"
        bare = f", {self.items_without_answer} of them without an answer" if self.items_without_answer else ""
        return (
            f"{self.keep}{f' ({said})' if said else ''}: {counts.chosen} of {counts.drawn} traces{correct}; of "
            f"{self.items_kept} of {self.items} items{bare}"
        )


def lot(seed: int, unit_id: str) -> bytes:
    """What decides by lot: the unit whose lot is smallest is drawn. Neither order nor machine plays a part."""
    return hashlib.sha256(f"selection {seed} {unit_id}".encode()).digest()
