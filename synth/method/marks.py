"""Where waypoints stand in a solution, to show them beside it. Extractors give texts; only `paper` knows its places.

Of another extractor's text every place is taken where it stands as a whole (`dail.synth.view.places`). What an
extractor has written anew is found nowhere, and said to be so.
"""

from __future__ import annotations

from typing import Literal

from dail.synth.method.expressions import key, tidy
from dail.synth.method.waypoints import places
from dail.synth.schema.synthesis import PAPER
from dail.synth.view.places import Span, apart, places_of

_BY_PLACE = (PAPER, "paper-sorted")


def located(
    solution: str, kind: Literal["verifiable", "proof"], extractor: str, waypoints: list[str]
) -> tuple[list[Span], list[str]]:
    """Where the waypoints stand, as (first character, behind the last), in order and apart; and those found nowhere."""
    if extractor in _BY_PLACE:
        wanted = {key(text) for text in waypoints}
        return apart([span for span in places(solution, kind) if key(tidy(solution[slice(*span)])) in wanted]), []
    spans, nowhere = list[Span](), list[str]()
    for text in filter(str.strip, waypoints):
        found = places_of(text, solution)
        spans += found
        if not found:
            nowhere.append(text)
    return apart(spans), nowhere
