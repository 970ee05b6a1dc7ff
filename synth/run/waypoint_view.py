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
from dail.synth.method.dealing import dealt, shown_answer
from dail.synth.method.marks import located
from dail.synth.method.prompts import role_messages, told_of
from dail.synth.schema.items import ExpertSolution, Kind
from dail.synth.schema.kinds import Found, resolve
from dail.synth.schema.synthesis import Synthesis

_MARKS = "⟦", "⟧"


class ItemView(Frozen):
    """One item. `places` are of the waypoints in `solution`: first character, and the one behind the last.

    `other_item`: whose solution and waypoints these are, where the negative reference is told another problem's.
    """

    item_id: str
    kind: Kind
    answer: str | None
    answer_found: Found
    solution: str
    other_item: str | None = None
    waypoints: tuple[str, ...] = ()
    places: tuple[tuple[int, int], ...] = ()
    not_in_text: tuple[str, ...] = ()
    negative_reference: str = ""
    failure: str | None = None


def chosen_items(
    source: Source, reading: Reading, synthesis: Synthesis, item_id: str | None, limit: int | None
) -> Iterator[ExpertSolution]:
    """The first `limit` items, or the one that is named, with what all of them are dealt.

    Raises:
        UsageError: there is none of that name.
        InputError: there is nothing to deal.
    """
    items = dealt(read_solutions(source, reading).items, synthesis)
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
    resolved = resolve(item, synthesis.lone_box)
    is_another = synthesis.waypoints_from == "other" and item.dealt is not None
    source = item.dealt if is_another and item.dealt else item
    answer = shown_answer(item, synthesis)
    view = ItemView(
        item_id=str(item.id),
        kind=resolved.kind,
        answer=answer,
        answer_found="nowhere" if answer is None else resolved.found,
        solution=source.solution_text,
        other_item=source.id if is_another else None,
    )
    try:
        found = told_of(item, synthesis).waypoints
        told = role_messages(item, synthesis)["negative_reference"][-1].content
    except ItemError as error:
        return view.model_copy(update={"failure": f"{error.code}: {error}"})
    extractor = synthesis.extractor if source.waypoints is None else "the item's own"
    places, nowhere = located(source.solution_text, resolve(source, synthesis.lone_box).kind, extractor, found)
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
    another = "" if view.other_item is None else f"; the solution of {view.other_item}"
    lines = [f"── {view.item_id}: {view.kind}, {answer}{another}", _marked(view, in_colour)]
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
