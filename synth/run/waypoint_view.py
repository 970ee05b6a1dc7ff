"""`dail waypoints`: what the negative reference will be told of each item, beside the text it was found in.

── nt-lcm-pairs: verifiable, answer 315 (given)
For $m = ⟦3⟧, ⟦4⟧, ⟦2⟧$ this gives $⟦7⟧$, $⟦9⟧$ and $⟦5⟧$ pairs, hence …
6 waypoints: 3, 4, 2, 7, 9, 5
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import click

from dail.synth.core.config import Frozen
from dail.synth.core.errors import ItemError, UsageError
from dail.synth.core.settings import did_you_mean
from dail.synth.data.reader import Reading, Source, read_solutions
from dail.synth.method.marks import located
from dail.synth.method.prompts import role_messages
from dail.synth.method.waypoints import waypoints_of
from dail.synth.schema.items import ExpertSolution, Kind
from dail.synth.schema.kinds import Found, resolve
from dail.synth.schema.synthesis import Synthesis

_MARKS = "⟦", "⟧"


class ItemView(Frozen):
    """One item. `places` are of the waypoints in `solution`: first character, and the one behind the last."""

    item_id: str
    kind: Kind
    answer: str | None
    answer_found: Found
    solution: str
    waypoints: tuple[str, ...] = ()
    places: tuple[tuple[int, int], ...] = ()
    not_in_text: tuple[str, ...] = ()
    negative_reference: str = ""
    failure: str | None = None


def chosen_items(source: Source, reading: Reading, item_id: str | None, limit: int | None) -> Iterator[ExpertSolution]:
    """The first `limit` items, or the one that is named. Raises UsageError: there is none of that name."""
    items = read_solutions(source, reading).items
    if item_id is not None:
        items = [item for item in items if item.id == item_id] or _no_item(item_id, items)
    return islice(items, limit)


def _no_item(item_id: str, items: Sequence[ExpertSolution]) -> list[ExpertSolution]:
    meant = did_you_mean(item_id, [str(item.id) for item in items])
    raise UsageError(f"there is no item {item_id!r} among the {len(items)}{meant}; leave out --item to see all")


def look(item: ExpertSolution, synthesis: Synthesis) -> ItemView:
    """Finds and renders. An extractor or a template that fails on this item is told in it.

    Raises:
        UsageError: prompts or extractor cannot be used at all.
    """
    resolved, solution = resolve(item, synthesis.lone_box), item.solution_text
    is_verifiable = resolved.kind == "verifiable"
    view = ItemView(
        item_id=str(item.id),
        kind=resolved.kind,
        answer=resolved.answer if is_verifiable else None,
        answer_found=resolved.found if is_verifiable else "nowhere",
        solution=solution,
    )
    try:
        found = waypoints_of(item, synthesis)
        told = role_messages(item, synthesis)["negative_reference"][-1].content
    except ItemError as error:
        return view.model_copy(update={"failure": f"{error.code}: {error}"})
    extractor = synthesis.extractor if item.waypoints is None else "the item's own"
    places, nowhere = located(solution, resolved.kind, extractor, found)
    update = {
        "waypoints": tuple(found),
        "places": tuple(places),
        "not_in_text": tuple(nowhere),
        "negative_reference": told,
    }
    return view.model_copy(update=update)


def describe(view: ItemView, in_colour: bool) -> str:
    """The item for people: waypoints in colour on a terminal, in brackets elsewhere."""
    answer = "no answer" if view.answer is None else f"answer {view.answer} ({_FROM[view.answer_found]})"
    lines = [f"── {view.item_id}: {view.kind}, {answer}", _marked(view, in_colour)]
    if view.failure is not None:
        return "\n".join([*lines, f"FAILED: {view.failure}", ""])
    count = len(view.waypoints)
    listed = ", ".join(view.waypoints) or "the negative reference is told no intermediate result"
    lines.append(f"── {count} waypoint{'s' if count != 1 else ''}: {listed}")
    if view.not_in_text:
        lines.append(f"   not in the text as they are written: {', '.join(view.not_in_text)}")
    return "\n".join([*lines, "── the negative reference is told", view.negative_reference, ""])


_FROM = {"answer": "given", "box": "the last box", "nowhere": ""}


def _marked(view: ItemView, in_colour: bool) -> str:
    pieces, done = list[str](), 0
    for start, end in view.places:
        text = view.solution[start:end]
        pieces += [view.solution[done:start], _highlighted(text) if in_colour else text.join(_MARKS)]
        done = end
    return "".join([*pieces, view.solution[done:]])


def _highlighted(text: str) -> str:
    return click.style(text, fg="cyan", bold=True, underline=True)


def summary(views: Sequence[ItemView], synthesis: Synthesis) -> str:
    """One line for all that was shown."""
    kinds = Counter(view.kind for view in views)
    without = sum(not view.waypoints and view.failure is None for view in views)
    failed = sum(view.failure is not None for view in views)
    return (
        f"{len(views)} items: {kinds['verifiable']} verifiable, {kinds['proof']} proofs; {without} without waypoints"
        f"{f', {failed} failed' if failed else ''}; extractor {synthesis.labels()['extractor']}"
    )
