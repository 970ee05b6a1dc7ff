"""Contamination: which problems of an evaluation were trained on (paper App. A and Fig. 14).

The problems of the training manifests of adapters, and of models that dail trained, are held against those of the
evaluation, and so are files that `--trained-on` names, for models that were trained elsewhere. Equal and near are those
of `dail.synth.data.overlap`: a problem that was rewritten in other words is not found. What cannot be looked at is a
note, never an error.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from dail.synth.core.config import Frozen
from dail.synth.core.errors import DailError
from dail.synth.data.overlap import Alike, Problems
from dail.synth.method.data_check import problems_of
from dail.synth.schema.manifest import read_item_problems, read_manifest
from dail.synth.schema.mirror import is_manifest_url, local_manifest
from dail.train.evals.arms import Subject
from dail.train.evals.lineage import Adapter
from dail.train.evals.problems import EvalProblem
from dail.train.record import PROVENANCE_FILE, Provenance

_SHOWN = 3


class Match(Frozen):
    """A problem and the item that it is, or is near to: `share` of its runs of eight words stand in that one too."""

    problem_id: str
    item_id: str
    kind: Literal["equal", "near"]
    share: float


class TrainingSet(Frozen):
    """What was looked at. `subjects`: those that were trained on it; none of a set that `--trained-on` names.

    `matches`: of each problem the item that is most like it.
    """

    source: str
    subjects: tuple[str, ...]
    num_items: int
    matches: tuple[Match, ...]


class TrainedGroup(Frozen):
    """Of a group's problems, how many were trained on."""

    group: str
    num_problems: int
    num_equal: int
    num_near: int


class Contamination(Frozen):
    """What was found. `groups`: those that problems were found of, a blank name for problems without one."""

    num_problems: int
    sets: tuple[TrainingSet, ...]
    groups: tuple[TrainedGroup, ...] = ()
    notes: tuple[str, ...] = Field((), description="what could not be looked at, and why")

    @property
    def problem_ids(self) -> frozenset[str]:
        """Problems that any subject was trained on."""
        return frozenset(match.problem_id for one in self.sets for match in one.matches)

    @property
    def best(self) -> dict[str, Match]:
        """By problem, the item of any set that is most like it."""
        return _best(match for one in self.sets for match in one.matches)

    def line(self) -> str:
        """All of it in a sentence or two."""
        looked = f"{len(self.sets)} training set{'' if len(self.sets) == 1 else 's'}"
        best = self.best
        if not self.sets:
            said = "contamination: nothing was looked at"
        elif not best:
            said = f"contamination: none of the {self.num_problems} problems is in {looked}, as far as wording tells"
        else:
            kinds = Counter(match.kind for match in best.values())
            shown = ", ".join(f"{one.problem_id} as {one.item_id}" for one in list(best.values())[:_SHOWN])
            more = f", and {len(best) - _SHOWN} more" if len(best) > _SHOWN else ""
            said = (
                f"contamination: {len(best)} of {self.num_problems} problems are in {looked}: {kinds['equal']} equal, "
                f"{kinds['near']} near ({shown}{more})"
            )
        return "; ".join([said, *self.notes])


def find_contamination(
    problems: Sequence[EvalProblem], subjects: Iterable[Subject], trained_on: Sequence[str] = ()
) -> Contamination | None:
    """Looks for the problems in what was trained on; none if no subject was trained by dail and nothing is named.

    Args:
        trained_on: manifests of traces, by path or URL, or problems as `dail eval --problems` reads them.

    Raises:
        UsageError, InputError, IntegrityError: what `trained_on` names cannot be read.
    """
    adapters = [(one.name, trained) for one in subjects if (trained := one.adapter or _whole_model(one.folder))]
    if not adapters and not trained_on:
        return None
    asked = _Asked(problems)
    sets: list[TrainingSet] = []
    notes: list[str] = []
    by_manifest: dict[Path, list[str]] = defaultdict(list)
    for name, adapter in adapters:
        path, said = _manifest(name, adapter)
        notes += said
        if path is not None:
            by_manifest[path.resolve()].append(name)
    for path, names in by_manifest.items():
        try:
            sets.append(asked.found_in(str(path), read_item_problems(path), names))
        except DailError as error:
            notes.append(f"the training set of {' and '.join(names)} cannot be read: {error}")
    sets += [asked.found_in(source, _named(source), ()) for source in trained_on]
    best = _best(match for one in sets for match in one.matches)
    return Contamination(
        num_problems=len(problems), sets=tuple(sets), groups=tuple(_groups(problems, best)), notes=tuple(notes)
    )


def _whole_model(folder: Path) -> Adapter | None:
    """Where a model whose every weight was trained, or into which an adapter was merged, came from, as an adapter's."""
    for file, key in ((PROVENANCE_FILE, None), ("dail-merged.json", "provenance")):
        try:
            written = json.loads((folder / file).read_bytes())
            return Adapter(folder, 0, "", Provenance.model_validate(written[key] if key else written))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a model of others, which says nothing about its training
    return None


def _manifest(name: str, adapter: Adapter) -> tuple[Path | None, list[str]]:
    """The adapter's manifest, and what is to be said."""
    if adapter.provenance is None:
        return None, [f"what {name} was trained on is not known, as it has no dail.json of this version"]
    run = adapter.provenance.run
    said = []
    if run.init_adapter is not None:
        said.append(f"{name} started from another adapter, whose own training set was not looked at")
    path = adapter.manifest()
    if path is None:
        return None, [*said, f"the manifest that {name} was trained on was not found; give it as --trained-on MANIFEST"]
    try:
        digest = read_manifest(path).digest
    except DailError as error:
        return None, [*said, f"the training set of {name} cannot be read: {error}"]
    if digest != run.manifest_digest:
        said.append(f"{path} is no longer the manifest that {name} was trained on")
    return path, said


def _named(source: str) -> dict[str, str]:
    if is_manifest_url(source):
        return read_item_problems(local_manifest(source))
    return read_item_problems(source) if _is_manifest(Path(source)) else problems_of(source)


def _is_manifest(path: Path) -> bool:
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(value, dict) and {"batch_id", "shards"} <= value.keys()


class _Asked:
    """The problems of the evaluation, each also without its choices, to look items up in."""

    def __init__(self, problems: Sequence[EvalProblem]) -> None:
        self._ids = [problem.id for problem in problems]
        texts = {f"{place}": problem.problem for place, problem in enumerate(problems)}
        texts |= {f"{place} alone": _alone(problem) for place, problem in enumerate(problems) if problem.choices}
        self._known = Problems(texts)

    def found_in(self, source: str, items: Mapping[str, str], subjects: Sequence[str]) -> TrainingSet:
        matches = _best(
            self._match(item, alike) for item, problem in items.items() for alike in self._known.alike(problem)
        )
        ordered = tuple(matches[one] for one in self._ids if one in matches)
        return TrainingSet(source=source, subjects=tuple(subjects), num_items=len(items), matches=ordered)

    def _match(self, item: str, alike: Alike) -> Match:
        place = int(alike.name.partition(" ")[0])
        kind: Literal["equal", "near"] = "equal" if alike.is_equal else "near"
        return Match(problem_id=self._ids[place], item_id=item, kind=kind, share=alike.share)


def _alone(problem: EvalProblem) -> str:
    return problem.problem.rpartition("\n\n(A) ")[0] or problem.problem


def _best(matches: Iterable[Match]) -> dict[str, Match]:
    best: dict[str, Match] = {}
    for match in matches:
        other = best.get(match.problem_id)
        if other is None or (match.kind == "equal", match.share) > (other.kind == "equal", other.share):
            best[match.problem_id] = match
    return best


def _groups(problems: Sequence[EvalProblem], best: Mapping[str, Match]) -> Iterable[TrainedGroup]:
    """By group in the order of the problems; those without a group have a blank one."""
    members: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        members[problem.group or ""].append(problem.id)
    for name, ids in members.items():
        kinds = Counter(best[one].kind for one in ids if one in best)
        if kinds:
            yield TrainedGroup(group=name, num_problems=len(ids), num_equal=kinds["equal"], num_near=kinds["near"])
