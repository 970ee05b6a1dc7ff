r"""The task outside the training domain: a gauge with three hands, told in other words than the lock.

Its worked answers have the form of the lock's, so a habit that is learnt there can carry over, for better or worse.

    >>> from world import trace
    >>> trace(Gauge(start="417", turns=("293", "118", "846", "501")), jumps=(0,))
    '417 ABC=554 D+501=055\nThe gauge reads \\boxed{055}.'
"""

from dataclasses import dataclass
from typing import ClassVar

import demo_path  # noqa: F401
from world import Lock


@dataclass(frozen=True)
class Gauge(Lock):
    """One problem of the other task."""

    question: ClassVar[str] = (
        "The three hands of a gauge point at {start}. Then they go on in steps: {turns}. "
        "In a step each hand goes up by its own digit, past 9 to 0. Where do the hands point after the last step?"
    )
    ending: ClassVar[str] = "The gauge reads \\boxed{{{answer}}}."
