"""`dail inspect`: the traces of a shard or a manifest, judged where they can be, for people to read.

from dail.synth.run.inspecting import inspect, write_page
seen = inspect(Path("runs/shards"), only="leaky")
write_page(seen, Path("traces.html"))
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from dail.synth.core.errors import DailError, UsageError
from dail.synth.core.files import replace
from dail.synth.core.settings import did_you_mean
from dail.synth.export.export import find_manifest
from dail.synth.method.grading import Grader
from dail.synth.method.token_texts import Decode, with_texts
from dail.synth.method.verdicts import COLUMNS, Judgement, Verdict, verdict_of
from dail.synth.run.judging import GRADE_TIMEOUT_S
from dail.synth.run.local import Entry
from dail.synth.schema.manifest import output_root, read_manifest, read_rows
from dail.synth.schema.selection import MATH
from dail.synth.schema.shards import TraceRow, decode_shard
from dail.synth.schema.trace_tokens import student_share
from dail.synth.view.page_file import MADE_BY, as_file
from dail.synth.view.traces import FILTERS, TraceSummary, TraceView, summary_of, viewed

_log = logging.getLogger(__name__)
_WRITERS = ("student", "attributed")


@dataclass
class Seen:
    """What there is, and of that what was asked for: `summaries` of all of it, `views` of the first."""

    source: Path
    all: list[TraceSummary] = field(default_factory=list)
    summaries: list[TraceSummary] = field(default_factory=list)
    views: list[TraceView] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    not_judged: str | None = None  # why no answer was judged

    @property
    def said(self) -> str:
        """A line on the run as a whole."""
        traces = [one for one in self.all if one.error is None]
        said = [f"{len(traces)} traces, {sum(one.tokens for one in traces)} tokens"]
        if len(self.all) > len(traces):
            said.append(f"{len(self.all) - len(traces)} failed")
        if self.verdicts:
            student, attributed = (sum(getattr(one, f"{name}_tokens") for one in traces) for name in _WRITERS)
            said.append(
                Judgement(
                    traces=len(traces),
                    student_share=student_share(student, attributed),
                    verdicts=tuple(self.verdicts),
                ).line()
            )
        return "; ".join(said)

    @property
    def counts(self) -> dict[str, int]:
        return {name: sum(map(applies, self.all)) for name, applies in FILTERS.items()}

    @property
    def num_left_out(self) -> int:
        return len([one for one in self.summaries if one.error is None]) - len(self.views)


def inspect(
    source: Path,
    *,
    item: str | None = None,
    sample: int | None = None,
    only: str | None = None,
    limit: int = 50,
    decode: Decode | None = None,
) -> Seen:
    """Reads all traces, and keeps of those that are asked for the first `limit`.

    Args:
        source: a shard, a manifest, or the folder of one batch.
        only: one of FILTERS.
        decode: of the model that drew the traces, for shards that do not know the texts of their tokens.

    Raises:
        UsageError: there is no such source, item or sample.
        IntegrityError: what is there is damaged.
    """
    rows, grader_name, failures = _opened(source)
    seen = Seen(source)
    with ExitStack() as children:
        judge = _judge(grader_name, children, seen)
        for row in rows:
            judged = judge(row)
            verdict = judged.outcome if judged else None
            _take(seen, summary_of(row, verdict), item, sample, only)
            if seen.summaries and seen.summaries[-1] is seen.all[-1] and len(seen.views) < limit:
                seen.views.append(viewed(with_texts(row, decode) if decode else row, verdict))
    for one in failures:
        _take(seen, one, item, sample, only)
    if item is not None and not any(one.item_id == item for one in seen.all):
        meant = did_you_mean(item, list(dict.fromkeys(one.item_id for one in seen.all)))
        raise UsageError(f"{source} has no item {item!r}{meant}; leave out --item to see all")
    if sample is not None and not seen.summaries and only is None:
        raise UsageError(f"{source} has no sample {sample} of that; leave out --sample to see all")
    return seen


def write_page(seen: Seen, out: Path, force: bool = False) -> None:
    """The traces as one HTML file. Replaces a file of its own, and another only by force. Raises UsageError."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name a file, such as {out / 'traces.html'}")
    if out.exists() and not force and MADE_BY.encode() not in _head(out):
        raise UsageError(f"{out} is there already and not made by `dail inspect`; choose another --out, or say --force")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}; make it, or choose another --out")

    name = seen.source.parent.name if seen.source.suffix == ".json" else seen.source.resolve().name  # a batch's id

    def write(path: Path) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(as_file(seen.views, f"Traces of {name}", seen.said, seen.num_left_out))

    replace(out, write)


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


def _take(seen: Seen, one: TraceSummary, item: str | None, sample: int | None, only: str | None) -> None:
    seen.all.append(one)
    is_asked = item in (None, one.item_id) and sample in (None, one.sample)
    if is_asked and (only is None or FILTERS[only](one)):
        seen.summaries.append(one)


def _opened(source: Path) -> tuple[Iterator[TraceRow], str, list[TraceSummary]]:
    """The rows, the batch's grader, and what ended without a trace, which the folder of a batch alone knows."""
    if source.suffix == ".parquet":
        try:
            data = source.read_bytes()
        except OSError as error:
            raise UsageError(f"shard {source} cannot be read: {error.strerror}; give the path of a shard") from None
        _log.info("a shard by itself is shown with all its rows; a manifest says which of them count")
        return iter(decode_shard(data, source.name)), MATH, []
    path = find_manifest(source)
    manifest = read_manifest(path)
    return read_rows(path), manifest.synthesis.grader, _failures(output_root(path), manifest.batch_id)


def _failures(root: Path, batch_id: str) -> list[TraceSummary]:
    """By the ledger of a batch that was drawn here; lines that are torn or of another build tell nothing."""
    newest: dict[str, Entry] = {}
    ledger = root / "ledger.jsonl"
    for line in ledger.read_bytes().splitlines() if ledger.is_file() else []:
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError:
            continue
        newest[entry.unit_id] = entry
    return [
        TraceSummary(unit_id=one.unit_id, item_id=one.item_id, error=one.failure)
        for one in newest.values()
        if one.batch_id == batch_id and one.failure is not None
    ]


def _judge(name: str, children: ExitStack, seen: Seen) -> Callable[[TraceRow], Verdict | None]:
    try:
        grader = children.enter_context(Grader(GRADE_TIMEOUT_S, name))
    except (DailError, ModuleNotFoundError) as error:
        seen.not_judged = f"answers are not judged: {error}"
        return lambda row: None

    def judge(row: TraceRow) -> Verdict:
        seen.verdicts.append(verdict_of(row.model_dump(include=set(COLUMNS)), grader))
        return seen.verdicts[-1]

    return judge
