"""`dail synth`: expert solutions in a file to shards in a folder, without a server.

    OUT/ledger.jsonl                   one line per unit that ended; a line is the commit
    OUT/shards/<batch>/<unit>/…        traces
    OUT/prefixes/<batch>/<unit>.json   what was written of a trace that has not ended, for the next attempt
    OUT/manifests/<batch>/v1.json      written when every unit has ended
    OUT/manifests/<batch>/settings.json, failures.json
    OUT/README.md                      the data-set card, by which `load_dataset(OUT)` reads the committed shards

The batch's name is a fingerprint of items, model and settings: the same command resumes, another one makes another
batch beside it.

    dail synth deploy/demo/expert_solutions.jsonl --out runs/shards --model deploy/demo/model --config cpu-tiny

    from dail.synth import Synthesis, synthesise
    settings = Synthesis(max_tokens=256, thinking=False)
    result = synthesise("deploy/demo/olympiad.jsonl", "runs/shards", model="deploy/demo/model", synthesis=settings)
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import fcntl
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.config import Frozen, fingerprint
from dail.synth.core.errors import (
    EXIT_BATCH_FAILED,
    EXIT_OK,
    EXIT_SOME_FAILED,
    ExtensionError,
    IntegrityError,
    UsageError,
)
from dail.synth.core.extensions import label
from dail.synth.core.files import Objects
from dail.synth.core.progress import OnProgress, told_to
from dail.synth.core.running import Stop
from dail.synth.data.account import Account
from dail.synth.data.reader import Reading, Source, read_solutions
from dail.synth.method.counts import count_kinds
from dail.synth.method.data_check import check_data, problems_of
from dail.synth.method.dealing import dealt
from dail.synth.method.grading import Grader
from dail.synth.method.prompts import Prompts, role_templates
from dail.synth.run.drawing import Drawing
from dail.synth.run.unit_source import Progress, Standing, UnitSource
from dail.synth.run.worker import run_worker
from dail.synth.schema.card import write_card
from dail.synth.schema.enough import Standing as DrawnAs
from dail.synth.schema.enough import ended_as
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import ItemKinds
from dail.synth.schema.manifest import build_manifest, encode_manifest, manifest_key, read_manifest, read_rows
from dail.synth.schema.models import ModelIdentity, identify
from dail.synth.schema.shards import SCHEMA_VERSION, TraceRow
from dail.synth.schema.synthesis import EXTRACTOR, EXTRACTORS, RULES, Synthesis
from dail.synth.schema.trace_tokens import Tokens, student_share
from dail.synth.schema.units import (
    BLAMELESS,
    WORKER_STOPPED,
    BeatReply,
    Failure,
    LeaseReply,
    ShardRef,
    Unit,
    unit_namer,
)

_log = logging.getLogger(__name__)

_PREFIX: TypeAdapter[Tokens] = TypeAdapter(Tokens)
_SETTINGS = "settings.json"
MAX_ATTEMPTS = 3  # of a unit whose failures may be someone else's fault


class Entry(Frozen):
    """A line of the ledger: how a unit ended. Exactly one of `shard` and `failure` is set.

    `correct`: the trace's verdict, where the batch stops by verdicts. `rows`: what the trace took of the engines
    (`Rollout.rows`), where one attempt drew all of it.
    """

    batch_id: str
    unit_id: str
    item_id: str
    shard: ShardRef | None = None
    failure: Failure | None = None
    correct: bool | None = None
    rows: int | None = None


class Ledger:
    """Append-only lines, each on the disk before `append` returns."""

    def __init__(self, file: IO[bytes], entries: list[Entry]) -> None:
        self._file, self.entries = file, entries

    def append(self, entry: Entry) -> None:
        self._file.write(entry.model_dump_json(exclude_none=True).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.entries.append(entry)


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """Reads the ledger and locks it. A torn last line, as a crash leaves it, was no commit and is cut off.

    Raises:
        UsageError: another process is writing it.
        IntegrityError: a line in the middle is no entry.
    """
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another `dail synth` is writing {path}; wait for it or choose another --out") from None
        file.seek(0)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        file.truncate(len(whole))
        yield Ledger(file, [_entry(line, f"{path}:{number}") for number, line in enumerate(whole.splitlines(), 1)])


def _entry(line: bytes, where: str) -> Entry:
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        raise IntegrityError(
            f"{where} is no ledger entry of this build; choose another --out, restore the file, or go on "
            "with the release of dail that wrote it"
        ) from None


@dataclass(frozen=True)
class Batch:
    """One command's worth of units, by unit id."""

    batch_id: str
    model: ModelIdentity
    synthesis: Synthesis
    kinds: ItemKinds
    units: dict[str, Unit]


def tried_out(synthesis: Synthesis) -> Synthesis:
    """The settings with prompts, extractor and rule that were brought along pinned, loaded and tried.

    Raises:
        ExtensionError: one of them cannot be used.
    """
    synthesis = synthesis.pinned()
    if synthesis.stops_by_verdict:
        with Grader(reference=synthesis.grader):  # its child says what is wrong with it
            pass
    role_templates(synthesis.prompts)
    if synthesis.extractor not in EXTRACTORS and not callable(EXTRACTOR.load(synthesis.extractor)):
        raise ExtensionError(f"waypoint extractor {synthesis.extractor} is no function; give FILE.py:NAME of one")
    if synthesis.acceptance not in RULES:
        from dail.synth.method.acceptance import kind_number  # torch, which nothing else here needs

        kind_number(synthesis.acceptance)
    return synthesis


def checked(synthesis: Synthesis, config: SynthConfig, model: ModelIdentity) -> Synthesis:
    """The settings, tried out and held against the model.

    Raises:
        ExtensionError: what was brought along cannot be used.
        UsageError: the model's template or tokenizer knows nothing of what is set.
    """
    synthesis.check(model.template_reads)
    synthesis = tried_out(synthesis)
    if synthesis.suppress:
        Prompts(config.engine.model).suppressed_ids(synthesis)
    return synthesis


def make_batch(
    items: list[ExpertSolution], synthesis: Synthesis, model: ModelIdentity, out: Path | None = None
) -> Batch:
    """The units of a run. Where the chat template prints the date, a batch that was begun in `out` keeps its own.

    Raises:
        InputError: the settings take something of other items, and there is no other to take it of.
    """
    items = dealt(items, synthesis)
    content = [item.model_dump(mode="json", exclude_none=True) for item in items]
    settings = {**synthesis.identity(), "samples_per_item": synthesis.samples_per_item}
    if synthesis.enough != "all":
        settings |= {"enough": synthesis.enough, "grader": label(synthesis.grader)}
    identity = [content, settings, model.identity(), SCHEMA_VERSION]
    batch_id = "local-" + fingerprint(identity).removeprefix("sha256:")[:24]
    began, today = _day_begun(out, batch_id) if out else None, dt.date.today()
    synthesis = synthesis.dated(model.template_reads, began or today)
    if began and began == synthesis.date != today:
        _log.info(f"the chat template prints the date: this batch goes on as of {began}, the day it was begun")
    units, name_of = dict[str, Unit](), unit_namer(synthesis, model)
    for item in items:
        for sample in range(synthesis.samples_per_item):
            name = name_of(item, sample)
            if name in units:
                _log.info(f"item {item.id} repeats item {units[name].item_id}; its trace {sample} is drawn once")
                continue
            units[name] = Unit(
                unit_id=name,
                batch_id=batch_id,
                item_id=item.id or "",
                sample=sample,
                epoch=1,
                item=item,
                synthesis=synthesis,
                model=model,
            )
    return Batch(batch_id, model, synthesis, count_kinds(items, synthesis), units)


class LocalSource:
    """Hands out a batch's units that have not ended and writes their ends into the ledger."""

    def __init__(self, batch: Batch, ledger: Ledger, out: Path) -> None:
        self._batch, self._ledger, self._out = batch, ledger, out
        newest = {entry.unit_id: entry for entry in ledger.entries if entry.batch_id == batch.batch_id}
        self._ends = {name: entry for name, entry in newest.items() if _is_final(entry, out)}
        self._drawing = Drawing(batch.units)
        begun = self._drawing.begin({name: _standing(entry) for name, entry in self._ends.items()})
        self._queue = deque(batch.units[name] for name in begun)
        self._attempts: Counter[str] = Counter()
        self._prefixes: dict[str, Tokens] = {}

    @property
    def shards(self) -> list[ShardRef]:
        return [entry.shard for entry in self._ends.values() if entry.shard]

    @property
    def rows(self) -> list[int | None]:
        """What each trace took of the engines, where that is known."""
        return [entry.rows for entry in self._ends.values() if entry.shard]

    @property
    def skipped(self) -> int:
        """How many units need not be drawn."""
        return len(self._drawing.skipped)

    @property
    def failures(self) -> list[Entry]:
        return [entry for entry in self._ends.values() if entry.failure]

    async def present(self) -> None:
        """Nobody else asks."""

    async def lease(self, count: int) -> LeaseReply:
        units: list[Unit] = []
        while self._queue and len(units) < count:
            unit = self._queue.popleft()
            if unit.unit_id not in self._drawing.skipped:
                units.append(self._resumed(unit))
        return LeaseReply(units=tuple(units), lease_s=3600.0, output_root=str(self._out))

    async def heartbeat(self, unit: Unit, progress: Progress) -> BeatReply:
        known = self._prefixes.setdefault(unit.unit_id, unit.prefix[:])
        if progress.checkpoint:
            known.cut(progress.start)
            known.extend(progress.checkpoint)
            await asyncio.to_thread(_write_prefix, self._prefix_path(unit), known)
        return BeatReply(
            unit_id=unit.unit_id, epoch=unit.epoch, cancel=unit.unit_id in self._drawing.skipped, known=len(known)
        )

    def _prefix_path(self, unit: Unit) -> Path:
        return self._out / "prefixes" / unit.batch_id / f"{unit.unit_id}.json"

    def _resumed(self, unit: Unit) -> Unit:
        """The unit with what an earlier attempt, of this run or another, wrote of its trace."""
        prefix = self._prefixes.get(unit.unit_id) or _read_prefix(self._prefix_path(unit))
        return unit.model_copy(update={"prefix": prefix[:]})

    async def upload(self, unit: Unit, key: str, data: bytes) -> None:
        await asyncio.to_thread(Objects(self._out).put, key, data)

    async def commit(self, unit: Unit, shard: ShardRef, correct: bool | None = None, rows: int | None = None) -> None:
        self._end(unit, shard=shard, correct=correct, rows=rows)

    async def fail(self, unit: Unit, failure: Failure) -> None:
        if failure.code == WORKER_STOPPED or unit.unit_id in self._drawing.skipped:
            return
        self._attempts[unit.unit_id] += failure.code not in BLAMELESS
        if failure.retryable and self._attempts[unit.unit_id] < MAX_ATTEMPTS:
            self._queue.append(unit)
        else:
            self._end(unit, failure=failure)

    def finished(self) -> bool:
        return len(self._ends) + self.skipped == len(self._batch.units)

    def standing(self) -> Standing:
        done = self._ends.keys() | self._drawing.skipped
        left = Counter(unit.item_id for name, unit in self._batch.units.items() if name not in done)
        num_items = len({unit.item_id for unit in self._batch.units.values()})
        figures: dict[str, object] = {"items": f"{num_items - len(left)}/{num_items}"}
        if self.failures:
            figures["failed"] = len(self.failures)
        if self.skipped:
            figures["not needed"] = self.skipped
        return Standing(len(done), len(self._batch.units), figures)

    def _end(self, unit: Unit, **how: Any) -> None:
        entry = Entry(batch_id=unit.batch_id, unit_id=unit.unit_id, item_id=unit.item_id, **how)
        self._ledger.append(entry)
        self._ends[unit.unit_id] = entry
        self._queue.extend(self._batch.units[name] for name in self._drawing.end(unit.unit_id, _standing(entry)))
        self._prefixes.pop(unit.unit_id, None)
        self._prefix_path(unit).unlink(missing_ok=True)


def _write_prefix(path: Path, prefix: Tokens) -> None:
    """A disk that refuses costs no more than the head start of the next attempt."""
    staged = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(_PREFIX.dump_json(prefix))
        staged.replace(path)


def _read_prefix(path: Path) -> Tokens:
    try:
        return _PREFIX.validate_json(path.read_bytes())
    except (OSError, ValueError):  # there is none, or it is damaged: the trace is drawn from its beginning
        return Tokens()


def _standing(entry: Entry) -> DrawnAs:
    return ended_as(entry.correct) if entry.shard else "miss"


def _is_final(entry: Entry, out: Path) -> bool:
    """False for what another run may cure: a retryable failure, or a shard that someone removed."""
    if entry.shard is None:
        return not (entry.failure and entry.failure.retryable)
    path = Objects(out).path(entry.shard.key)
    return path.is_file() and path.stat().st_size == entry.shard.size_bytes


class SynthesisResult(Frozen):
    """What became of a batch. `manifest` is none if no unit has a trace, or it was interrupted.

    `kinds`: of the items, by the rule that made them verifiable or proofs.

    `skipped`: units that were not drawn, since their items have samples enough.
    `student_share`: of the tokens whose writer is known; none if none is. `failures`: of each unit without a trace,
    which item it was and why, with a code. `read`: what the expert solutions were read from, and how.
    """

    batch_id: str
    manifest: Path | None
    units: int
    committed: int
    failed: int
    skipped: int = 0
    tokens: int
    student_share: float | None
    interrupted: bool
    kinds: ItemKinds
    failures: tuple[Entry, ...]
    read: Account | None = None

    def traces(self) -> Iterator[TraceRow]:
        """The traces, read from their shards; none without a manifest."""
        return read_rows(self.manifest) if self.manifest else iter(())

    @property
    def exit_code(self) -> int:
        if not self.failed:
            return EXIT_OK
        return EXIT_SOME_FAILED if self.committed else EXIT_BATCH_FAILED


def synthesise(
    items: str | Path | Iterable[str | Path] | Iterable[ExpertSolution | Mapping[str, Any]],
    out: str | Path,
    config: SynthConfig | None = None,
    synthesis: Synthesis | None = None,
    *,
    model: str | Path | None = None,
    reading: Reading | None = None,
    against: Source | None = None,
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
) -> SynthesisResult:
    """Draws the traces that are still missing, on this machine or on the cluster of RAY_ADDRESS.

    Blocks; works in a script, a thread and a notebook. Prints nothing: messages go to the loggers under `dail`.

    Args:
        items: expert solutions: a file, a folder or `hf:OWNER/NAME`, or a list of them, or the solutions themselves.
        out: folder of ledger, shards and manifest; the same call again goes on in it.
        config: of the engines, which names the model; defaults if only `model` is given.
        synthesis: of the traces; the paper's settings if left out.
        model: folder of the model, instead of the one in `config`.
        reading: which columns are which fields, and what becomes of rows that cannot be used; these are refused, and
            written to `out`/invalid.jsonl if they are to be skipped.
        against: problems of an evaluation; the data check says which of them are among the items.
        on_progress: called in the thread that does the work; what it raises ends the run.
        stop: `set()` from another thread, it ends the run early; what is done is kept. KeyboardInterrupt does so too.

    Raises:
        UsageError, InputError: items, model or settings cannot be used; nothing was started.
        EngineDead: no engine could be started, or none survived.
    """
    config, synthesis, out = with_model(config, model), synthesis or Synthesis(), Path(out).resolve()
    read = read_solutions(items, (reading or Reading()).writing_to(out))
    problems = problems_of(against) if against else None
    with told_to(on_progress):
        result = _synthesise(read.items, out, config, synthesis, stop, problems)
    return result.model_copy(update={"read": read.account})


def with_model(config: SynthConfig | None, model: str | Path | None) -> SynthConfig:
    """The settings with the model's folder made absolute, since engines run elsewhere."""
    if config is None:
        if model is None:
            raise UsageError("no model is named; give model=FOLDER, or a config whose engine has one")
        config = SynthConfig(engine=EngineConfig(model=Path(model)))
    folder = Path(model or config.engine.model).expanduser().resolve()
    return config.model_copy(update={"engine": config.engine.model_copy(update={"model": folder})})


def _synthesise(
    items: list[ExpertSolution],
    out: Path,
    config: SynthConfig,
    synthesis: Synthesis,
    stop: Stop | None,
    against: Mapping[str, str] | None,
) -> SynthesisResult:
    model = identify(config.engine.model, student=config.student, privileged=config.privileged_adapter)
    synthesis = checked(synthesis, config, model)
    if (check := check_data(items, synthesis, against)).findings:
        _log.info(f"data check: {check.told()}; `dail doctor` lists what was found")
    batch = make_batch(items, synthesis, model, out)
    if synthesis.stops_by_verdict and not batch.kinds.by_answer + batch.kinds.by_box:
        raise UsageError(
            f"enough={synthesis.enough} draws until a trace is correct, and none of the {len(items)} items has an "
            "answer to be correct by; set synthesis.enough to all or random"
        )
    with ledger_in(out) as ledger:
        source = LocalSource(batch, ledger, out)
        interrupted = draw_missing(source, [batch], config, out, stop)
        result = conclude(source, batch, out, interrupted)
        write_card(out)
        return result


@contextmanager
def ledger_in(out: Path) -> Iterator[Ledger]:
    """The ledger of a folder, which is made if it is not there. UsageError: it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with open_ledger(out / "ledger.jsonl") as ledger:
            yield ledger
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}; choose another --out") from None


def draw_missing(
    source: UnitSource, batches: Sequence[Batch], config: SynthConfig, out: Path, stop: Stop | None
) -> bool:
    """Draws what the source still hands out; returns whether it was stopped before the end.

    Args:
        batches: that the units are of, on the same items.
    """
    done, total, figures = source.standing()
    if source.finished():
        of = f" of {len(batches)} batches" if len(batches) > 1 else ""
        _log.info(f"finished before: all {total} units{of} are done ({figures.get('failed', 0)} failed)")
        return False
    if done:
        _log.info(f"resuming: {done} of {total} units were done")
    _log.info(batches[0].kinds.told())
    for batch in batches:
        _save_settings(batch, config, out)
    return run_worker(config, source, stop=stop) and not source.finished()


def _save_settings(batch: Batch, config: SynthConfig, out: Path) -> None:
    """With what the batch is drawn; read again if it goes on on another day."""
    _save(out, batch.batch_id, _SETTINGS, {
        "synth": config.model_dump(mode="json"),
        "synthesis": batch.synthesis.model_dump(mode="json"),
        "model": batch.model.model_dump(mode="json"),
    })  # fmt: skip


def conclude(source: LocalSource, batch: Batch, out: Path, interrupted: bool) -> SynthesisResult:
    """Writes the manifest of a batch, if it is whole, and what failed; says what became of it."""
    shards = source.shards
    tokens = sum(shard.tokens for shard in shards)
    failures = [entry.model_dump(mode="json", exclude_none=True) for entry in source.failures]
    if failures:
        _save(out, batch.batch_id, "failures.json", failures)
    manifest = _write_manifest(batch, shards, out) if shards and not interrupted else None
    return SynthesisResult(
        batch_id=batch.batch_id,
        manifest=manifest,
        units=len(batch.units),
        committed=len(shards),
        failed=len(failures),
        skipped=source.skipped,
        tokens=tokens,
        student_share=student_share(
            sum(shard.student_tokens for shard in shards), sum(shard.attributed_tokens for shard in shards)
        ),
        interrupted=interrupted,
        kinds=batch.kinds,
        failures=tuple(source.failures),
    )


def _write_manifest(batch: Batch, shards: list[ShardRef], out: Path) -> Path:
    """The manifest of these shards: the newest one if it lists just them, else the next generation."""
    objects, generation = Objects(out), 1
    while (path := objects.path(manifest_key(batch.batch_id, generation))).exists():
        if {(one.key, one.row) for one in read_manifest(path).shards} == {(one.key, one.row) for one in shards}:
            return path
        generation += 1
    manifest = build_manifest(batch.batch_id, generation, batch.model, batch.synthesis, shards, dt.datetime.now(dt.UTC))
    objects.put(manifest_key(batch.batch_id, generation), encode_manifest(manifest))
    return path


def _day_begun(out: Path, batch_id: str) -> dt.date | None:
    """The date in the settings that this batch was begun with; none if it was not, or they cannot be read."""
    try:
        saved = json.loads(_saved(out, batch_id, _SETTINGS).read_text("utf-8"))
        return dt.date.fromisoformat(saved["synthesis"]["date"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _saved(out: Path, batch_id: str, name: str) -> Path:
    return Objects(out).path(f"manifests/{batch_id}/{name}")


def _save(out: Path, batch_id: str, name: str, value: Any) -> None:
    path = _saved(out, batch_id, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    staged.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    staged.replace(path)
