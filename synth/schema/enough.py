"""When an item has samples enough (`synthesis.enough`): which are drawn next, and which never.

An item's samples have one order, in which they are handed out: by index, or by the lot of `dail select`. In it the
first that the rule would keep, the hit, ends the item: what comes after it is not drawn. So the trace that is chosen is
the one that would be chosen if all had been drawn, whatever ends first.

As many of an item's samples are handed out as were drawn in vain before the first that is still under way, one at
least: 1, 1, 2, 4, 8. An item that nothing solves takes six rounds for 32 samples instead of 32, and none draws more
than twice what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from dail.synth.schema.selection import BY_LOT, lot
from dail.synth.schema.synthesis import Synthesis

# Not handed out yet; handed out or about to be; ended with the trace that is wanted; ended otherwise.
Standing = Literal["waiting", "open", "hit", "miss"]


class Step(NamedTuple):
    """Places in the order of drawing: those that come next, and those that are no longer needed."""

    next: list[int]
    needless: list[int]


def draw_order(synthesis: Synthesis, unit_ids: Sequence[str]) -> list[int]:
    """An item's sample indices in the order in which they are handed out; `unit_ids` are by index."""
    indices = list(range(len(unit_ids)))
    if synthesis.enough in BY_LOT:
        indices.sort(key=lambda index: lot(synthesis.seed, unit_ids[index]))
    return indices


def ended_as(correct: bool | None) -> Standing:
    """How a trace that is there counts. One that nobody judges is what is wanted: by lot alone the first one stands,
    and more traces of an item without an answer would not say more."""
    return "miss" if correct is False else "hit"


def next_step(places: Sequence[Standing]) -> Step:
    """What follows from how an item's samples stand, in the order of drawing."""
    if "hit" in places:
        hit = places.index("hit")
        before = [place for place in range(hit) if places[place] == "waiting"]  # one that another run is to try again
        return Step(before, [place for place in range(hit + 1, len(places)) if places[place] in ("waiting", "open")])
    in_vain = next((place for place, standing in enumerate(places) if standing != "miss"), len(places))
    until = in_vain + max(1, in_vain)
    return Step([place for place, standing in enumerate(places[:until]) if standing == "waiting"], [])
