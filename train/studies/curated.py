"""What a curation leaves in its folder, each file whole or not at all; curated.json is there if all others are its own.

train.jsonl, validation.jsonl   items, as `dail synth` reads them, with their provenance in the metadata
flagged.jsonl                   pairs of problems that are near, for people to look at
dropped.jsonl                   what was left out, at which step and why
curated.json                    counts of every step, settings, sources and model, with their digests
README.md                       the card
settings.toml                   the settings, for --config
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from dail.synth.core.config import TOOL_VERSION, Frozen, fingerprint
from dail.synth.core.errors import UsageError
from dail.synth.core.files import replace_text, sha256, without_folders
from dail.synth.core.settings import as_toml
from dail.synth.data.reader import INVALID_FILE
from dail.synth.data.sources import source_sha256
from dail.synth.schema.card import CARD
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.config import EvalConfig
from dail.train.evals.results import versions
from dail.train.studies.attempts import Attempts
from dail.train.studies.curation_config import CurateConfig
from dail.train.studies.embedder import EmbedderRef
from dail.train.studies.funnel import Dropped, Step
from dail.train.studies.pool import Placed, PoolProblem, short_name
from dail.train.studies.similarity import Measure, Near

TRAIN, VALIDATION, FLAGGED, DROPPED = "train.jsonl", "validation.jsonl", "flagged.jsonl", "dropped.jsonl"
CURATED, SETTINGS = "curated.json", "settings.toml"
PROVENANCE = "curation"  # of an item's metadata


class Set(Frozen):
    """A file or set that was read. `digest`: of its rows as they were read; `sha256`: of a file's bytes."""

    name: str
    rows: int
    digest: str
    sha256: str | None

    @classmethod
    def of_rows(cls, name: str, placed: Iterable[Placed]) -> Self:
        rows = [one.row.model_dump(mode="json", exclude_unset=True) for one in placed]
        return cls(name=short_name(name), rows=len(rows), digest=fingerprint(rows), sha256=source_sha256(name))

    @classmethod
    def of_texts(cls, name: str, texts: Mapping[str, str]) -> Self:
        """Of problems by id."""
        return cls(name=short_name(name), rows=len(texts), digest=fingerprint(dict(texts)), sha256=source_sha256(name))


class Flagged(Frozen):
    """A pair to look at; a line of flagged.jsonl. `of`: the set that `other` is of; none if it is the pool itself."""

    step: Literal["joined", "similarity", "repeats"]
    id: str
    of: str | None
    other: str
    score: float
    measure: Measure
    problem: str
    other_problem: str

    @classmethod
    def of_pair(
        cls, step: Literal["joined", "similarity", "repeats"], near: Near, problem: str, other_problem: str
    ) -> Self:
        return cls(
            step=step, id=near.id, of=near.of or None, other=near.other, score=near.score, measure=near.measure,
            problem=problem, other_problem=other_problem,
        )  # fmt: skip


class AttemptsRef(Frozen):
    """Who made the attempts and how. `num_correct`: by their correct attempts, how many problems."""

    model: ModelIdentity
    num_attempts: int
    made_before: bool
    settings: dict[str, Any]
    digest: str
    num_correct: dict[int, int]
    num_cut: int = Field(description="attempts that ended at a limit of tokens")
    given_up: tuple[str, ...] = Field(description="problems with an attempt that the grader gave up")
    warning: str | None


class Written(Frozen):
    """A file of the folder. `rows`: its lines."""

    rows: int
    sha256: str


class Curated(Frozen):
    """curated.json."""

    format: Literal["dail.curated/1"] = "dail.curated/1"
    settings: CurateConfig
    sources: tuple[Set, ...]
    against: tuple[Set, ...]
    similarity: str = Field(description="how near problems were found, in words")
    embedder: EmbedderRef | None
    attempts: AttemptsRef | None
    steps: tuple[Step, ...]
    files: dict[str, Written]
    versions: dict[str, str]
    tool_version: str = TOOL_VERSION


def item_of(problem: PoolProblem, settings: CurateConfig, attempts: Attempts | None, as_list: bool) -> ExpertSolution:
    """The item of a problem. `as_list`: several solutions, or one as a list where other items of the file have several.

    Its licence is known if each of its rows says one.
    """
    row, solutions = problem.row, problem.solutions
    sets = dict.fromkeys(one.set or one.file for one in problem.origins)
    licences = dict.fromkeys(one.license for one in problem.origins)
    provenance: dict[str, Any] = {
        "year": problem.year,
        "num_correct": attempts and attempts.num_correct[problem.id],
        "num_attempts": attempts and attempts.num_attempts,
        "rows": [origin.model_dump(mode="json", exclude_none=True) for origin in problem.origins],
        "before": problem.metadata.get(PROVENANCE),
    }
    told = {name: value for name, value in provenance.items() if value is not None}
    return ExpertSolution(
        problem=row.problem,
        solution=solutions if as_list else solutions[0],
        # what a box of a proof holds, nobody has said to be its answer
        answer=problem.answer if settings.item_kind == "verifiable" else next(iter(problem.answers), None),
        id=problem.id,
        kind=settings.item_kind,
        waypoints=row.waypoints,
        privileged=row.privileged,
        wrong_answer=row.wrong_answer,
        dealt=row.dealt,
        source="; ".join(sets)[:512],
        license=None if None in licences else "; ".join(map(str, licences))[:512],
        metadata={**problem.metadata, PROVENANCE: told},
    )


def begin(out: Path, settings: CurateConfig, drawn: EvalConfig | None) -> None:
    """The folder is ours, and says by which settings; what an earlier run made of others is no longer finished.

    Raises:
        UsageError: it holds something else, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / SETTINGS).is_file() and any(not one.name.endswith(INVALID_FILE) for one in out.iterdir()):
            raise UsageError(f"{out} holds something that is no curation; give another --out")
        text = as_toml("curate", settings.model_dump(mode="json"))
        if drawn is not None:
            text += "\n" + as_toml("eval", drawn.model_dump(mode="json", exclude={"engine", "gate", "samples"}))
        replace_text(out / SETTINGS, text)
        (out / CURATED).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}; choose another one") from None


def write(
    out: Path,
    found: Mapping[str, Any],
    train: Sequence[PoolProblem],
    validation: Sequence[PoolProblem],
    flagged: Sequence[Flagged],
    dropped: Sequence[Dropped],
    made: Attempts | None,
) -> Curated:
    """Writes all files, curated.json last.

    Raises:
        StorageError: the disk refused.
    """
    from dail.train.studies.curation_card import card

    settings: CurateConfig = found["settings"]
    as_list = any(len(one.solutions) > 1 for one in (*train, *validation))  # one type a column, as other readers want
    items = {TRAIN: [item_of(one, settings, made, as_list) for one in train]}
    items[VALIDATION] = [item_of(one, settings, made, as_list) for one in validation]
    lines: dict[str, Sequence[Frozen]] = {**items, FLAGGED: flagged, DROPPED: dropped}
    if not validation:
        del lines[VALIDATION]
        (out / VALIDATION).unlink(missing_ok=True)
    files = {name: _write_lines(out / name, rows) for name, rows in lines.items()}
    curated = Curated(**found, attempts=made and _ref(made), files=files, versions=versions())
    replace_text(out / CARD, card(curated, [item for some in items.values() for item in some]))
    shown = without_folders(curated.model_dump(mode="json"))
    replace_text(out / CURATED, json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
    return curated


def _ref(made: Attempts) -> AttemptsRef:
    counts = sorted(made.num_correct.values())
    return AttemptsRef(
        model=made.model,
        num_attempts=made.num_attempts,
        made_before=made.given,
        settings=made.settings,
        digest=made.digest,
        num_correct=dict(Counter(counts)),
        num_cut=made.num_cut,
        given_up=tuple(sorted(made.given_up)),
        warning=made.warning,
    )


def _write_lines(path: Path, rows: Sequence[Frozen]) -> Written:
    dumped = (
        row.model_dump(mode="json", exclude_none=True, exclude_defaults=isinstance(row, ExpertSolution)) for row in rows
    )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in dumped)
    replace_text(path, text)
    return Written(rows=len(rows), sha256=sha256(text.encode()))
