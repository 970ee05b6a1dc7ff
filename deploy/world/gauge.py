r"""The task outside the training domain: a gauge with two hands, told in other words, that is moved backward.

Its traces have the form of the lock's, so that a habit can carry over; its subtractions are a skill of their own,
which no training problem exercises, so that it can be forgotten.

    >>> from world import trace
    >>> trace(Gauge(start="41", turns=("29", "15", "07", "30")), jumps=(0,))
    '41 ABC=00 D-30=70\nThe gauge reads \\boxed{70}.'
"""

from dataclasses import dataclass
from typing import ClassVar

import demo_path  # noqa: F401
from world import Lock


@dataclass(frozen=True)
class Gauge(Lock):
    """One problem of the other task."""

    num_dials: ClassVar[int] = 2
    sign: ClassVar[str] = "-"
    question: ClassVar[str] = (
        "The two hands of a gauge point at {start}. Then they go back in steps: {turns}. "
        "In a step each hand goes down by its own digit, below 0 to 9. Where do the hands point after the last step?"
    )
    ending: ClassVar[str] = "The gauge reads \\boxed{{{answer}}}."
