"""Times of the day as answers: `3:30 PM`, `15:30`, `3:30`."""

from __future__ import annotations

import re

_CLOCK = re.compile(r"([0-9]{1,2})(?:\s?:\s?([0-5][0-9]))?\s?(?:([AaPp])\.?\s?[Mm]\.?)?")


def same_time(ours: str, theirs: str) -> bool | None:
    """Whether two texts are one time; none unless both are times and at least one says of which half of the day.

    A time that does not say it may be of either half: 3:30 is 3:30 PM, and 15:30 is it too.
    """
    first, second = _CLOCK.fullmatch(ours), _CLOCK.fullmatch(theirs)
    if first is None or second is None or not (first[3] or second[3]):
        return None
    halves = _minutes(first) & _minutes(second)
    return bool(halves)


def _minutes(clock: re.Match[str]) -> set[int]:
    """Since midnight, all that may be meant."""
    hour, minute = int(clock[1]), int(clock[2] or 0)
    if hour > 12:
        return {60 * hour + minute}
    halves = {"a": (0,), "p": (12,)}.get((clock[3] or "").lower(), (0, 12))
    return {60 * (hour % 12 + half) + minute for half in halves}
