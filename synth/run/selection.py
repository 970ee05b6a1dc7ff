"""`dail select`: the traces of a manifest that are trained on, as a manifest of their own beside it.

    MANIFEST=runs/shards/manifests/BATCH/v1.json  # `dail synth` says which
    dail select $MANIFEST --keep first_correct

    from dail.synth import select
    chosen = select("runs/shards/manifests/BATCH/v1.json", "first_correct")
    print(chosen.manifest, chosen.selection.told())

The shards stay where they are. The file's name follows from the parent and the rule, so the same selection is found
again and another one lies beside it.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dail.synth.core.config import Frozen, fingerprint
from dail.synth.core.errors import UsageError, few
from dail.synth.core.extensions import label
from dail.synth.core.files import Objects
from dail.synth.core.progress import OnProgress, progress, told_to
from dail.synth.export.export import find_manifest
from dail.synth.method.grading import GRADERS, MATH
from dail.synth.method.selection import SCORES, Candidate, choose, count
from dail.synth.run.judging import GRADE_TIMEOUT_S, Judging, judged, score_of
from dail.synth.schema.manifest import Manifest, encode_manifest, output_root, read_manifest, select_shards
from dail.synth.schema.mirror import local_manifest
from dail.synth.schema.selection import BY_LOT, BY_SCORE, BY_VERDICT, KEEPS, Counts, Keep, Selection, WithoutAnswer

_log = logging.getLogger(__name__)


class SelectionResult(Frozen):
    """`manifest` is the selection's file; `selected` says of each of the parent's items what was chosen."""

    manifest: Path
    selection: Selection
    selected: dict[str, Counts]
    tokens: int


@dataclass(frozen=True)
class _Rule:
    """What was asked for, with what was brought along pinned; none where it plays no part."""

    keep: Keep
    seed: int | None
    grader: str | None
    by: str | None
    without_answer: WithoutAnswer | None

    def said(self) -> dict[str, object]:
        """Without paths of this machine."""
        named = {"grader": self.grader, "by": self.by}
        return {
            "keep": self.keep,
            "seed": self.seed,
            **{name: None if one is None else label(one) for name, one in named.items()},
            "without_answer": self.without_answer,
        }


def select(
    manifest: str | Path,
    keep: Keep,
    *,
    seed: int | None = None,
    grader: str | None = None,
    by: str | None = None,
    without_answer: WithoutAnswer | None = None,
    grade_timeout_s: float = GRADE_TIMEOUT_S,
    on_progress: OnProgress | None = None,
) -> SelectionResult:
    """Chooses among the traces of each item and writes what is left as a manifest beside the parent's.

    Traces are judged in child processes of this machine, or on the cluster of RAY_ADDRESS where there are many.

    Args:
        manifest: of the traces, or an output root that holds one batch.
        keep: the rule, one of those in `dail.synth.schema.selection`.
        seed: of rules with a lot; the seed that the traces were drawn with, if left out.
        grader: of rules that ask for correct traces: math, official, or one of your own, as `eval.grader`; the one in
            the traces' settings, if left out.
        by: of the rules with a score: student_share, shortest, or one of your own, FILE.py:NAME.
        without_answer: what becomes of items without an answer where a correct trace is asked for: they are dropped,
            or keep one trace.
        grade_timeout_s: for one trace; one whose grader is given up is not correct.
        on_progress: told how many traces are judged.

    Raises:
        UsageError: no manifest, no such rule, a part that it does not read or cannot use, or nothing would be left;
            nothing was written.
        IntegrityError: a damaged manifest or shard.
        StorageError: the disk refused.
    """
    path = find_manifest(local_manifest(manifest)).resolve()
    parent = read_manifest(path)
    rule = _rule(parent, keep, seed, grader, by, without_answer)
    root = output_root(path)
    parent_name = path.relative_to(root).as_posix()
    digits = fingerprint([parent.digest, rule.said()]).removeprefix("sha256:")[:12]
    place = Objects(root).path(f"{parent_name.rpartition('/')[0]}/select-{keep}-{digits}.json")
    if place.is_file():
        _log.info("chosen before: the same traces by the same rule")
        return _result(place, read_manifest(place))
    with told_to(on_progress):
        items = _candidates(parent, rule, Judging(root, rule.grader, rule.by, grade_timeout_s))
    made = _selected(parent, parent_name, items, rule)
    _tell(made)
    Objects(root).put(place.relative_to(root).as_posix(), encode_manifest(made))
    return _result(place, made)


def _rule(
    parent: Manifest,
    keep: Keep,
    seed: int | None,
    grader: str | None,
    by: str | None,
    without_answer: WithoutAnswer | None,
) -> _Rule:
    """Refuses what the rule does not read: whoever gives it means another one."""
    if keep not in KEEPS:
        raise UsageError(f"there is no rule {keep!r}; wanted one of {', '.join(KEEPS)}")
    given = {"seed": (seed, BY_LOT), "grader": (grader, BY_VERDICT), "by": (by, BY_SCORE)}
    given["without_answer"] = (without_answer, BY_VERDICT)
    for name, (value, readers) in given.items():
        if value is not None and keep not in readers:
            raise UsageError(f"keep={keep} reads no {name}, which is {value}; leave it out, or {_one_of(readers)}")
    _refuse_what_was_not_drawn(parent, keep, seed, grader)
    if keep in BY_SCORE and by is None:
        raise UsageError(f"keep={keep} needs a score; give --by {', '.join(SCORES.builtin)} or FILE.py:NAME")
    pinned = SCORES.pin(by) if by is not None else None
    score_of(pinned)
    return _Rule(
        keep,
        (parent.synthesis.seed if seed is None else seed) if keep in BY_LOT else None,
        GRADERS.pin(grader or parent.synthesis.grader) if keep in BY_VERDICT else None,
        pinned,
        (without_answer or "drop") if keep in BY_VERDICT else None,
    )


def _refuse_what_was_not_drawn(parent: Manifest, keep: Keep, seed: int | None, grader: str | None) -> None:
    """Where drawing stopped early, by another rule the choice would be among those that happened to be drawn."""
    drawn = parent.synthesis
    if drawn.enough == "all" or keep == "all" or parent.selection:
        return
    another: dict[str, object] = {} if keep == drawn.enough else {"keep": keep}
    if seed is not None and keep in BY_LOT and seed != drawn.seed:
        another["seed"] = seed
    if grader is not None and label(GRADERS.pin(grader)) != label(drawn.grader):
        another["grader"] = grader
    if another:
        said = ", ".join(f"{name} {value}" for name, value in another.items())
        raise UsageError(
            f"these traces were drawn until there were enough for keep={drawn.enough} (seed {drawn.seed}, grader "
            f"{label(drawn.grader)}), so that what {said} would choose may not have been drawn; keep "
            f"{drawn.enough} without these, or draw with synthesis.enough=all"
        )


def _one_of(keeps: Sequence[str]) -> str:
    return f"keep {' or '.join(keeps)}"


def _candidates(parent: Manifest, rule: _Rule, asked: Judging) -> Mapping[str, list[Candidate]]:
    """The traces of each item. No shard is read for a rule that asks for nothing in it."""
    item_of = {shard.unit_id: shard.item_id for shard in parent.shards}
    items: dict[str, list[Candidate]] = {item: [] for item in item_of.values()}
    if rule.grader is None and rule.by is None:
        found: Iterator[Candidate] = (Candidate(unit, 0) for unit in item_of)
    else:
        found = judged(asked, parent.shards)
    title = "judging" if rule.grader else "choosing"
    with progress(title, len(parent.shards)) as bar:
        outcomes: dict[str | None, int] = defaultdict(int)
        for number, one in enumerate(found, 1):
            items[item_of[one.unit_id]].append(one)
            outcomes[one.outcome] += 1
            bar.update(number, **({"correct": outcomes["correct"]} if rule.grader else {}))
    return items


def _selected(parent: Manifest, parent_name: str, items: Mapping[str, list[Candidate]], rule: _Rule) -> Manifest:
    chosen = {
        item: choose(rule.keep, traces, rule.seed or 0, rule.without_answer or "drop") for item, traces in items.items()
    }
    units = {one.unit_id for kept in chosen.values() for one in kept}
    everything = [one for traces in items.values() for one in traces]
    bare = [item for item, traces in items.items() if any(one.outcome == "no_answer" for one in traces)]
    _refuse_nothing(units, everything, bare, items, rule)
    selection = Selection.model_validate(
        {
            "parent": parent_name,
            "parent_digest": parent.digest,
            **rule.said(),
            "items": len(items),
            "items_kept": sum(bool(kept) for kept in chosen.values()),
            "items_without_answer": len(bare) if rule.grader else None,
            "missing": _missing(parent, len(items)),
            "counts": count(everything, len(units)),
        }
    )
    selected = {item: count(traces, len(chosen[item])) for item, traces in sorted(items.items())}
    return select_shards(parent, units, selection, selected, dt.datetime.now(dt.UTC))


def _missing(parent: Manifest, num_items: int) -> int:
    """What a parent that is a selection dropped was drawn all the same."""
    if parent.selection:
        return parent.selection.missing
    return max(0, parent.synthesis.samples_per_item * num_items - parent.rows)


def _refuse_nothing(
    units: set[str], everything: list[Candidate], bare: list[str], items: Mapping[str, list[Candidate]], rule: _Rule
) -> None:
    if units:
        return
    if len(bare) == len(items):
        raise UsageError(
            f"keep={rule.keep} asks for correct traces, and none of the {len(items)} items has an answer that a trace "
            "could be held against; nothing was written; keep all or random, or one of each with --without-answer one"
        )
    counts = count(everything, 0)
    raise UsageError(
        f"keep={rule.keep} leaves nothing: of {counts.drawn} traces of {len(items)} items, {len(bare)} of them without "
        f"an answer, none is correct by the grader {label(rule.grader or MATH)} ({counts.cut} were cut, on "
        f"{counts.unknown} it was given up); nothing was written; draw more or longer samples, keep all or random, or "
        "name another --grader"
    )


def _tell(made: Manifest) -> None:
    selection, selected = made.selection, made.selected or {}
    assert selection is not None, "a selection says how it was made"
    if selection.items_without_answer and selection.without_answer == "drop":
        _log.warning(
            f"{selection.items_without_answer} of {selection.items} items have no answer to be correct by, as proofs "
            "have none: they are dropped; --without-answer one keeps one trace of each"
        )
    if selection.counts.unknown:
        _log.warning(f"on {selection.counts.unknown} traces the grader was given up; they count as not correct")
    lost = [item for item, counts in selected.items() if not counts.chosen]
    if num_lost := len(lost) - (selection.items_without_answer or 0 if selection.without_answer == "drop" else 0):
        _log.info(f"{num_lost} items with an answer have no correct trace; without any are {few(lost)}")


def _result(place: Path, made: Manifest) -> SelectionResult:
    if made.selection is None or made.selected is None:
        raise UsageError(f"{place} is there and is no selection; move it away and select again")
    return SelectionResult(manifest=place, selection=made.selection, selected=made.selected, tokens=made.tokens)
