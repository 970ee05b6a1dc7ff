r"""The task outside the training domain: a gauge with two hands, not a lock with three dials, told in other words.

Its worked answers have the form of the lock's, so a habit that is learnt there can carry over, for better or worse.

    >>> from world import trace
    >>> trace(Gauge(start="41", turns=("29", "15", "07", "30")), jumps=(0,))
    '41 ABC=82 D+30=12\nThe gauge reads \\boxed{12}.'
"""

from dataclasses import dataclass
from typing import ClassVar

import demo_path  # noqa: F401
from world import Lock


@dataclass(frozen=True)
class Gauge(Lock):
    """One problem of the other task."""

    num_dials: ClassVar[int] = 2
    question: ClassVar[str] = (
        "The two hands of a gauge point at {start}. Then they go on in steps: {turns}. "
        "In a step each hand goes up by its own digit, past 9 to 0. Where do the hands point after the last step?"
    )
    ending: ClassVar[str] = "The gauge reads \\boxed{{{answer}}}."
