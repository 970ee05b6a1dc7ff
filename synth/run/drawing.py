"""Which units of a batch are handed out when, where samples are drawn until there are enough (`synthesis.enough`)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

from dail.synth.schema.enough import Standing, draw_order, next_step
from dail.synth.schema.units import Unit


class Drawing:
    """Of all items of a batch, by unit id. `skipped`: units that are no longer needed, whether they were handed out.

    Where all are drawn, all are handed out at once, in the order of the batch.
    """

    def __init__(self, units: Mapping[str, Unit]) -> None:
        self.skipped: set[str] = set()
        self._items: dict[str, list[str]] = {}  # unit ids in the order of drawing
        self._standing: dict[str, Standing] = {}
        self._all = [name for name, unit in units.items() if unit.synthesis.enough == "all"]
        of_item: dict[str, list[Unit]] = {}
        for unit in units.values():
            if unit.synthesis.enough != "all":
                of_item.setdefault(unit.item_id, []).append(unit)
        for item, own in of_item.items():
            names = [unit.unit_id for unit in sorted(own, key=lambda unit: unit.sample)]
            self._items[item] = [names[index] for index in draw_order(own[0].synthesis, names)]
            self._standing |= dict.fromkeys(names, "waiting")
        self._item_of = {name: item for item, names in self._items.items() for name in names}

    def begin(self, ended: Mapping[str, Standing]) -> list[str]:
        """What comes first, given what ended before: of every item its first samples, then the second ones."""
        self._standing |= {name: standing for name, standing in ended.items() if name in self._standing}
        steps = [self._advance(item) for item in self._items]
        waves = [name for wave in zip_longest(*steps) for name in wave if name is not None]
        return [name for name in self._all if name not in ended] + waves

    def end(self, name: str, standing: Standing) -> list[str]:
        """What is handed out now that this unit has ended."""
        if name not in self._standing:
            return []
        self._standing[name] = standing
        self.skipped.discard(name)  # it was under way, and was faster than the word that it need not be
        return self._advance(self._item_of[name])

    def _advance(self, item: str) -> list[str]:
        names = self._items[item]
        step = next_step([self._standing[name] for name in names])
        self.skipped |= {names[place] for place in step.needless}
        following = [names[place] for place in step.next]
        self._standing |= dict.fromkeys(following, "open")
        return following
