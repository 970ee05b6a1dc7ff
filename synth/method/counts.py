"""What a set of expert solutions is, in numbers: told before a run, since a wrong column makes proofs of problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dail.synth.method.waypoints import waypoints_of
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import ItemKinds, resolve
from dail.synth.schema.synthesis import EXTRACTORS, Synthesis


def count_kinds(items: Sequence[ExpertSolution], synthesis: Synthesis) -> ItemKinds:
    """By the rule of `dail.synth.schema.kinds`.

    Waypoints are counted with our own extractors alone: another's may fail, and runs where the traces are drawn.
    """
    names = {"answer": "by_answer", "box": "by_box", "nowhere": "without_answer"}
    resolved = [resolve(item, synthesis.lone_box) for item in items]
    counted = Counter("proofs" if one.kind == "proof" else names[one.found] for one in resolved)
    is_ours = synthesis.extractor in EXTRACTORS
    bare = sum(not waypoints_of(item, synthesis) for item in items) if is_ours else None
    return ItemKinds(**counted, without_waypoints=bare)
