"""Whose fault it is that an engine died: who was in it is suspected, and each suspect is tried alone.

    an engine dies with a, b, c in it   ─▶ all three are suspects, and keep what they have written
    a alone, for two exchanges          ─▶ cleared: it waits and goes on later, from where it is
    b alone, and the engine dies        ─▶ b waits behind the others and is tried once more
    b alone, dies at the same place, while others went on in between ─▶ convicted

One death says nothing about one unit: a driver, a full memory or somebody's `kill` may be why. Nor do two, if no other
unit got further in between; so others go first, unless an engine died under each of them alone too. One that gets
further each time is convicted in the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

MOST_ALONE = 6  # deaths
TRIAL_EXCHANGES = 2  # alone it is faster than among others, so that it passes what it had not yet told then


@dataclass
class _Record:
    """`place`: tokens that it had told when an engine last died under it alone; `alone`: how often one did."""

    place: int
    alone: int = 1
    others_went_on: bool = False


class Suspects:
    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def went_on(self, units: Collection[str]) -> None:
        """These wrote something or ended, so that the engines do work for some."""
        for unit_id, record in self._records.items():
            record.others_went_on |= any(other != unit_id for other in units)

    def forget(self, unit_id: str) -> None:
        self._records.pop(unit_id, None)

    def lets_go_first(self, unit_id: str, others: Iterable[str]) -> bool:
        """Whether another death under it would say nothing yet, and others could show that engines work."""
        record = self._records.get(unit_id)
        return record is not None and not record.others_went_on and self._has_witness(others)

    def _has_witness(self, others: Iterable[str]) -> bool:
        return any(other not in self._records for other in others)

    def convicted(self, dead: Mapping[str, int], others: Iterable[str]) -> bool:
        """Whether the only unit of a dead engine is why it died.

        Args:
            dead: the units in it, and how many tokens each had told.
            others: the units beside these.
        """
        if len(dead) != 1:
            return False
        ((unit_id, place),) = dead.items()
        before = self._records.get(unit_id)
        if before is None:
            self._records[unit_id] = _Record(place)
            return False
        is_stuck = place <= before.place or before.alone + 1 >= MOST_ALONE
        if is_stuck and (before.others_went_on or not self._has_witness(others)):
            self.forget(unit_id)
            return True
        self._records[unit_id] = _Record(max(place, before.place), before.alone + 1)
        return False
