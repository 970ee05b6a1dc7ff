"""`dail export`: the traces of a manifest as a data set that another trainer reads, with a card and where it came from.

    OUT/data/train.parquet   or train.jsonl
    OUT/README.md            the card: configs for `load_dataset(OUT)`, provenance, sources and licences, how to train
    OUT/export.json          what it is, counts, and the manifest's digest

As a verb and from Python:

    dail export runs/shards --for trl-sft --out runs/sft

    from dail.synth.export.export import export
    exported = export("runs/shards", "openai", "runs/messages", model="deploy/demo/model")
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dail.synth.core.config import TOOL_VERSION, Frozen
from dail.synth.core.errors import UsageError
from dail.synth.core.files import new_folder
from dail.synth.core.progress import progress
from dail.synth.export.forms import FORMS, Form, Given, Record
from dail.synth.export.rebuild import SAME, Rebuilder, summary, switches
from dail.synth.schema.card import CARD, UNSAID, facts, front_matter, origins_table, provenance
from dail.synth.schema.manifest import Manifest, newest_manifests, read_manifest, read_rows
from dail.synth.schema.mirror import local_manifest

EXPORT_FILE = "export.json"
_AT_ONCE = 256  # rows in memory, and in a row group

_log = logging.getLogger(__name__)


class Exported(Frozen):
    """export.json. `left_out`: by reason, how many; a reason names what it counts.

    `rebuilt`: by verdict, how many rows give the ids of the shards when they are rendered and tokenised again; none
    where the ids themselves are written, or no tokenizer was there to try.
    """

    form: str
    file: str
    rows: int
    longest: int | None
    left_out: dict[str, int]
    rebuilt: dict[str, int] | None
    batch_id: str
    manifest_digest: str
    tool_version: str = TOOL_VERSION


@dataclass(frozen=True)
class _Source:
    """The traces that were asked for, and what their texts are tried with."""

    path: Path
    manifest: Manifest
    rebuilder: Rebuilder | None
    finished: bool


@dataclass
class _Counts:
    """Of one pass over the traces."""

    rows: int = 0
    longest: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    rebuilt: Counter[str] = field(default_factory=Counter)
    origins: dict[str, tuple[str, str]] = field(default_factory=dict)  # by item: source and licence
    switches: dict[str, object] = field(default_factory=dict)


def export(
    source: str | Path,
    form: str,
    out: str | Path,
    *,
    model: str | Path | None = None,
    format: str | None = None,
    finished: bool = False,
) -> Exported:
    """Writes the folder `out`, whole or not at all. Traces are read a few at a time.

    Args:
        source: a manifest, or an output root that holds one batch.
        form: one of `FORMS`.
        model: folder of the model that drew the traces; with it, a form that goes through text is tried for the ids.
        format: parquet or jsonl; the form's own if left out.
        finished: leave out the traces that were cut.

    Raises:
        UsageError: no such form, format or manifest; `out` is not empty; nothing is left to write; the ids of a form
            that must give them do not come back.
        IntegrityError: a damaged shard.
        StorageError: the disk refused.
    """
    out = Path(out)
    chosen, file = _chosen(form, format)
    path = find_manifest(local_manifest(source))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already; an export replaces nothing: choose another --out or remove it")
    wanted = _Source(path, read_manifest(path), Rebuilder(Path(model)) if model else None, finished)
    with new_folder(out) as staged:
        chosen, counts = _written(staged / file, chosen, wanted)
        exported = _exported(form, file, counts, wanted.manifest)
        (staged / EXPORT_FILE).write_text(exported.model_dump_json(indent=1) + "\n", "utf-8")
        (staged / CARD).write_text(_card(exported, chosen, counts, wanted.manifest), "utf-8")
    _tell(exported, chosen)
    return exported


def find_manifest(source: Path) -> Path:
    """The manifest that is meant: the file itself, or the newest one of the only batch in an output root.

    Raises:
        UsageError: there is none, or there are several batches.
    """
    if not source.is_dir():
        return source
    found = newest_manifests(source)
    if not found:
        raise UsageError(
            f"{source} holds no manifest, so no batch in it has ended; rerun the `dail synth` that began it to go on, "
            "or give a manifest"
        )
    if len(found) > 1:
        listed = "".join(f"\n  {path}" for path in found)
        raise UsageError(f"{source} holds {len(found)} batches; give the manifest of one of them:{listed}")
    return found[0]


def _chosen(form: str, format: str | None) -> tuple[Form, str]:
    if form not in FORMS:
        raise UsageError(f"there is no form {form!r}; wanted one of {', '.join(FORMS)}")
    formats = FORMS[form].formats
    if format is not None and format not in formats:
        raise UsageError(f"{form} is not read from {format}; wanted {' or '.join(formats)}")
    return FORMS[form], f"data/train.{format or formats[0]}"


def _written(file: Path, form: Form, source: _Source) -> tuple[Form, _Counts]:
    """Writes the data; in the form's stead by another one, if more ids come back from that."""
    file.parent.mkdir(parents=True, exist_ok=True)
    counts = _pass(file, form, source)
    if set(counts.rebuilt) <= {SAME}:
        return form, counts
    tried = summary(counts.rebuilt)
    if form.instead is not None:
        other = file.with_name(f"other-{file.name}")
        again = _pass(other, form.instead, source)
        tried += f"; {form.instead.about}: {summary(again.rebuilt)}"
        if again.rebuilt[SAME] > counts.rebuilt[SAME]:
            os.replace(other, file)
            form, counts = form.instead, again
        other.unlink(missing_ok=True)
    if form.exact and set(counts.rebuilt) != {SAME}:
        raise UsageError(
            f"{tried}; give --model the folder of the model that drew the traces, or export --for trl-sft, which holds "
            "the ids themselves"
        )
    return form, counts


def _pass(file: Path, form: Form, source: _Source) -> _Counts:
    counts = _Counts()
    _write(file, form.schema, _records(form, source, counts))
    if not counts.rows:
        reasons = "; ".join(f"{count} are {reason}" for reason, count in counts.left_out.items()) or "it lists none"
        raise UsageError(f"no trace of {source.path} is left to write: {reasons}; choose another form or manifest")
    return counts


def _records(form: Form, source: _Source, counts: _Counts) -> Iterator[Record]:
    seen: set[str] = set()
    with progress("exporting", source.manifest.rows) as bar:
        for number, row in enumerate(read_rows(source.path), 1):
            bar.update(number)
            if form.per_item and row.item_id in seen:
                continue
            seen.add(row.item_id)
            cut = source.finished and row.truncated and not form.per_item  # which holds nothing of the trace
            if reason := "traces that were cut" if cut else form.unusable(row):
                counts.left_out[reason] += 1
                continue
            record = form.record(row, Given(source.manifest, source.rebuilder, counts.rows))
            if source.rebuilder is not None and form.tried is not None:
                counts.rebuilt[form.tried(record, row, source.rebuilder)] += 1
            counts.rows += 1
            counts.longest = max(counts.longest, len(record.get("input_ids", ())))
            counts.origins[row.item_id] = (row.source or UNSAID, row.license or UNSAID)
            counts.switches = switches(row, source.manifest.model.template_reads)
            yield record


def _write(file: Path, schema: pa.Schema, records: Iterator[Record]) -> None:
    if file.suffix == ".jsonl":
        with open(file, "w", encoding="utf-8") as lines:
            for record in records:
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        return
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(records, _AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _exported(form: str, file: str, counts: _Counts, manifest: Manifest) -> Exported:
    return Exported(
        form=form,
        file=file,
        rows=counts.rows,
        longest=counts.longest or None,
        left_out=dict(counts.left_out),
        rebuilt=dict(counts.rebuilt) or None,
        batch_id=manifest.batch_id,
        manifest_digest=manifest.digest,
    )


def _tell(exported: Exported, form: Form) -> None:
    for reason, count in exported.left_out.items():
        _log.warning(f"left out: {count} {reason}")
    if form.tried is None:
        return
    if exported.rebuilt is None:
        _log.warning(
            "not tried whether these texts give the token ids that were drawn: give --model the folder of their model"
        )
    elif set(exported.rebuilt) != {SAME}:
        _log.warning(f"{summary(Counter(exported.rebuilt))}; --for trl-sft holds the ids themselves")


def _card(exported: Exported, form: Form, counts: _Counts, manifest: Manifest) -> str:
    origins = Counter(counts.origins.values())
    licences = {licence for _, licence in origins}
    if form.tried is None:
        ids = "written as they were drawn"
    elif exported.rebuilt is None:
        ids = "not tried: no tokenizer was there"
    else:
        ids = summary(Counter(exported.rebuilt))
    left_out = "; ".join(f"{count} {reason}" for reason, count in exported.left_out.items()) or "nothing"
    table = {
        "form": f"`{exported.form}`: {form.about}",
        "rows": exported.rows
        if exported.longest is None
        else f"{exported.rows}, the longest of {exported.longest} tokens",
        "left out": left_out,
        "token ids": ids,
        "manifest": f"batch {manifest.batch_id}, {manifest.digest}",
    }
    return f"""{front_matter({"default": [exported.file]}, exported.rows, licences)}

# Reasoning traces grounded in expert solutions, for {exported.form.partition("-")[0]}

Drawn by Distribution Aligned Imitation Learning (DAIL, arXiv 2602.02405), exported by `dail` {exported.tool_version}.

{facts(table)}

```
{form.load(counts.switches)}
```

{form.note}

## Where the traces come from

{facts(provenance(manifest))}

{origins_table(origins)}
"""
