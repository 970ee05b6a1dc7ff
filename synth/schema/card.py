"""The data-set card of an output root: what other programs read its shards by, and where the traces come from.

It is OUT/README.md. Its block on top names, for `datasets` and for model hubs, the committed shards of each batch's
newest manifest, one config a batch, the newest batch first and default. Nothing else in the folder is read by them: no
shard that was never committed, none twice. What follows is for people.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from dail.synth.core.errors import DailError
from dail.synth.core.files import Objects, replace_text
from dail.synth.schema.manifest import Manifest, newest_manifests, output_root, read_manifest
from dail.synth.schema.shard_reader import ShardReader, by_file
from dail.synth.schema.shards import encode_shard
from dail.synth.schema.trace_tokens import student_share
from dail.synth.schema.units import ShardRef

CARD = "README.md"
UNSAID = "not said"
_OURS = "<!-- Written by dail, and again by each of its runs. A card without this line is yours: it is left alone. -->"
# Of the names that hubs know a licence by, those that collections of problems come under.
_KNOWN_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by",
}  # fmt: skip
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))

_log = logging.getLogger(__name__)

Origins = Mapping[tuple[str, str], int]  # (source, licence) → how many items have it


def write_card(root: Path) -> bool:
    """Writes the card of all finished batches under an output root, whole or not at all.

    Never raises for a card that cannot be made: a run does not fail for it, the log says why.

    Returns:
        Whether the card in the folder is ours and up to date.
    """
    path = root / CARD
    try:
        if path.exists() and _OURS not in path.read_text("utf-8", errors="replace"):
            _log.warning(
                f"{path} was not written by dail and is left alone; move it away for one that reads the shards"
            )
            return False
        batches = _finished(root)
        if not batches:
            return False
        of_batch = {manifest.batch_id: origins(file, manifest.digest) for file, manifest in batches}
        files = {manifest.batch_id: data_files(file, manifest.digest) for file, manifest in batches}
        text = _card(batches, of_batch, files)
        replace_text(path, text)
    except (DailError, OSError) as error:
        _log.warning(f"no data-set card: {error}")
        return False
    return True


def _finished(root: Path) -> list[tuple[Path, Manifest]]:
    """The newest manifest of each batch, the youngest first; one that cannot be read is told of and left out."""
    found = []
    for path in newest_manifests(root):
        try:
            found.append((path, read_manifest(path)))
        except DailError as error:
            _log.warning(f"the data-set card leaves a batch out: {error}")
    return sorted(found, key=lambda one: (one[1].created_at, one[1].batch_id), reverse=True)


def origins(manifest_path: Path, digest: str) -> Origins:
    """How many items of a manifest come from which source under which licence, as their shards say it.

    Raises:
        IntegrityError: a shard is missing or damaged.
    """
    return _look(manifest_path, digest)[0]


def data_files(manifest_path: Path, digest: str) -> list[str]:
    """Files with a manifest's traces and no others: its shards, but a copy of those that hold rows it does not name.

    The copies are one file beside the manifest.
    """
    _, files, mixed = _look(manifest_path, digest)
    if not mixed:
        return list(files)
    root = output_root(manifest_path)
    reader, key = ShardReader(Objects(root)), rows_key(manifest_path.resolve().relative_to(root).as_posix())
    Objects(root).put(key, encode_shard([row for ref in mixed for row in reader.rows(ref)]))
    return [*files, key]


def rows_key(manifest_key: str) -> str:
    """Where the copies of `data_files` lie."""
    return manifest_key.removesuffix(".json") + "-rows.parquet"


@lru_cache(maxsize=1024)  # a manifest never changes, and an API writes its card at the end of every batch
def _look(manifest_path: Path, digest: str) -> tuple[Origins, list[str], list[ShardRef]]:
    """Origins; shards that hold nothing but what the manifest names; what it names of others."""
    reader, of_item = ShardReader(Objects(output_root(manifest_path))), {}
    files, mixed = list[str](), list[ShardRef]()
    for key, shards in groupby(by_file(read_manifest(manifest_path).shards), key=attrgetter("key")):
        refs = list(shards)
        for ref in refs:
            rows = reader.columns(ref, ["item_id", "source", "license"])
            of_item.update({row["item_id"]: (row["source"] or UNSAID, row["license"] or UNSAID) for row in rows})
        if len(refs) == reader.file(refs[0]).num_groups:
            files.append(key)
        else:
            mixed += refs
    return Counter(of_item.values()), files, mixed


def _card(batches: list[tuple[Path, Manifest]], of_batch: Mapping[str, Origins], files: Mapping[str, list[str]]) -> str:
    manifests = [manifest for _, manifest in batches]
    licences = {licence for found in of_batch.values() for _, licence in found}
    default = manifests[0].batch_id
    return f"""{front_matter(files, sum(manifest.rows for manifest in manifests), licences)}
{_OURS}

# Reasoning traces grounded in expert solutions

Drawn by Distribution Aligned Imitation Learning (DAIL, arXiv 2602.02405) with `dail`. A row is one trace: the problem,
the expert solution it leans on, the token ids of the three contexts and of the trace, and who wrote each token.

```python
from datasets import load_dataset

traces = load_dataset("THIS_FOLDER", split="train")  # {default}
```

Each batch is a config, by its name below; only what is committed is read. To train on a batch with the method's own
objective, and to make a data set for another trainer:

```sh
dail train --model MODEL --out RUN --manifest THIS_FOLDER/{_key(batches[0][0])}
dail export THIS_FOLDER/{_key(batches[0][0])} --for trl-sft --out EXPORT
```

`prompt` and `completion` are texts, out of which a chat template need not make the ids that were drawn: those are
`student_prompt_ids`, then `trace_ids`.

{"".join(_section(_key(path), manifest, of_batch[manifest.batch_id]) for path, manifest in batches)}"""


def front_matter(
    files: Mapping[str, Iterable[str]], rows: int, licences: Iterable[str], validation: Sequence[str] = ()
) -> str:
    """The block on top, YAML: configs with their files, the first one default, and what hubs sort data sets by.

    Args:
        files: by config, those of the split train.
        rows: of all of them.
        licences: of all of them; one that hubs know is named if it is the only one.
        validation: files of this split of the first config.
    """
    lines = ["---"]
    if len(known := {licence.lower() for licence in licences}) == 1 and known <= _KNOWN_LICENCES:
        lines.append(f"license: {min(known)}")
    size = next((name for most, name in _SIZES if rows < most), "n>1M")
    lines += ["tags: [dail, reasoning]", "task_categories: [text-generation]", f"size_categories: [{json.dumps(size)}]"]
    lines.append("configs:")
    for number, (config, paths) in enumerate(files.items()):
        lines.append(f"- config_name: {json.dumps(config)}")
        lines += ["  default: true"] if number == 0 else []
        splits = {"train": paths, **({"validation": validation} if number == 0 and validation else {})}
        lines.append("  data_files:")
        for split, listed in splits.items():
            lines += [f"  - split: {split}", "    path:", *(f"    - {json.dumps(path)}" for path in listed)]
    return "\n".join([*lines, "---"])


def _section(key: str, manifest: Manifest, found: Origins) -> str:
    return f"""## {manifest.batch_id}

{facts(provenance(manifest) | {"manifest": f"`{key}`, {manifest.digest}"})}

{origins_table(found)}

"""


def provenance(manifest: Manifest) -> dict[str, object]:
    """What made the traces of a manifest, by name, for a table."""
    model, settings = manifest.model, manifest.synthesis
    share = student_share(
        sum(shard.student_tokens for shard in manifest.shards),
        sum(shard.attributed_tokens for shard in manifest.shards),
    )
    drawn = settings.model_dump(mode="json", exclude={"prompts", "extractor", "acceptance"}) | settings.labels()
    return {
        "traces": f"{manifest.rows}, of {manifest.tokens} tokens",
        **({"chosen by": manifest.selection.told()} if manifest.selection else {}),
        "written by the student": UNSAID if share is None else f"{share:.0%} of the tokens whose writer is known",
        "model": f"{model.name}, revision {model.revision}",
        "the student's own": model.student or "none: the model's",
        **({"the privileged student's own": model.privileged} if model.privileged else {}),
        "tokenizer": model.tokenizer_hash,
        "chat template and prompts": model.template_hash,
        "settings": ", ".join(f"{name} {json.dumps(value)}" for name, value in drawn.items()),
        "fingerprint of model and settings": manifest.config_fingerprint,
        "made by": f"dail {manifest.tool_version}, {manifest.created_at:%Y-%m-%d}",
    }


def facts(values: Mapping[str, object]) -> str:
    """A table of two columns, in Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in values.items())])


def origins_table(found: Origins) -> str:
    """Sources and licences of the expert solutions, counted, in Markdown; what nobody said is a row too."""
    rows = sorted(found.items(), key=lambda one: (-one[1], one[0]))
    table = [f"| {_cell(source)} | {_cell(licence)} | {count} |" for (source, licence), count in rows]
    table.append(f"| all | | {sum(found.values())} |")
    missing = sum(count for (_, licence), count in rows if licence == UNSAID)
    note = (
        [] if not missing else ["", f"The licence of {missing} expert solutions is not said: find it before you share."]
    )
    return "\n".join(["| source | licence | expert solutions |", "|---|---|---|", *table, *note])


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _key(manifest_path: Path) -> str:
    return manifest_path.relative_to(output_root(manifest_path)).as_posix()
