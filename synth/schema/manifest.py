"""The manifest: which shards make one training set. The trainer reads a manifest, never a folder glob.

It lies at `manifests/<batch>/v<generation>.json` under the output root and carries a digest of itself. A selection of
its traces lies beside it (`select-<rule>-….json`), a manifest too, and is nobody's newest generation.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Container, Iterator
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from dail.synth.core.config import TOOL_VERSION, Frozen, canonical, fingerprint
from dail.synth.core.errors import IntegrityError, UsageError, describe
from dail.synth.core.files import Objects
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.selection import Counts, Selection
from dail.synth.schema.shard_reader import ShardReader, by_file
from dail.synth.schema.shards import READABLE, SCHEMA_VERSION, TraceRow, readable
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import ShardRef


def _is_none(value: object) -> bool:
    return value is None


class Manifest(Frozen):
    """An immutable list of shards with totals. `digest` is the fingerprint of everything else in it.

    Of a selection it also says how it was made, and of each of the parent's items what was chosen.
    """

    batch_id: str
    generation: int
    schema_version: int
    model: ModelIdentity
    synthesis: Synthesis
    config_fingerprint: str
    shards: tuple[ShardRef, ...]
    rows: int
    tokens: int
    size_bytes: int  # of its shards
    tool_version: str
    created_at: dt.datetime
    selection: Selection | None = Field(None, exclude_if=_is_none)
    selected: dict[str, Counts] | None = Field(None, exclude_if=_is_none)
    digest: str

    @property
    def files(self) -> list[ShardRef]:
        """A trace of each file, in the order by which the API numbers them."""
        return list({shard.key: shard for shard in self.shards}.values())


class _Version(BaseModel):
    """What manifests of every schema version have."""

    schema_version: int
    tool_version: str


def build_manifest(
    batch_id: str,
    generation: int,
    model: ModelIdentity,
    synthesis: Synthesis,
    shards: list[ShardRef],
    now: dt.datetime,
    tool_version: str = TOOL_VERSION,
) -> Manifest:
    """Shards are put in the order of their unit ids, so the same set gives the same list."""
    ordered = tuple(sorted(shards, key=lambda shard: shard.unit_id))
    draft = Manifest(
        batch_id=batch_id,
        generation=generation,
        schema_version=SCHEMA_VERSION,
        model=model,
        synthesis=synthesis,
        config_fingerprint=config_fingerprint(model, synthesis),
        shards=ordered,
        rows=sum(shard.rows for shard in ordered),
        tokens=sum(shard.tokens for shard in ordered),
        size_bytes=sum({shard.key: shard.size_bytes for shard in ordered}.values()),
        tool_version=tool_version,
        created_at=now,
        digest="",
    )
    return draft.model_copy(update={"digest": _digest(draft)})


def select_shards(
    parent: Manifest, units: Container[str], selection: Selection, selected: dict[str, Counts], now: dt.datetime
) -> Manifest:
    """The parent with the shards of these units alone, and with what the selection says of itself."""
    kept = [shard for shard in parent.shards if shard.unit_id in units]
    plain = build_manifest(parent.batch_id, parent.generation, parent.model, parent.synthesis, kept, now)
    draft = plain.model_copy(update={"selection": selection, "selected": selected, "digest": ""})
    return draft.model_copy(update={"digest": _digest(draft)})


def config_fingerprint(model: ModelIdentity, synthesis: Synthesis) -> str:
    """What a trace's distribution depends on besides its item: model, tokenizer, templates, settings."""
    return fingerprint([model.identity(), synthesis.identity()])


def manifest_key(batch_id: str, generation: int) -> str:
    return f"manifests/{batch_id}/v{generation}.json"


def encode_manifest(manifest: Manifest) -> bytes:
    return json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False).encode() + b"\n"


def read_manifest(path: Path) -> Manifest:
    """Raises UsageError (no such file, no manifest) or IntegrityError (another schema version, a wrong digest)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"manifest {path} does not exist; `dail results` or `dail synth` says where it is") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; give the manifest file, …/manifests/<batch>/v1.json") from None
    except OSError as error:
        raise UsageError(f"manifest {path} cannot be read: {error.strerror}; give the path of a manifest") from None
    return parse_manifest(data, path)


def parse_manifest(data: bytes, name: str | Path) -> Manifest:
    """As `read_manifest`, of bytes that were read. `name`: what errors call it."""
    _check_version(name, data)
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise UsageError(f"{name} is no manifest: {describe(error)}") from None
    found = fingerprint({**json.loads(data), "digest": ""})  # of what is written: a build before had fewer settings
    if manifest.digest != found:
        raise IntegrityError(f"manifest {name} was changed: its digest is {found}, it says {manifest.digest}")
    return manifest


def _check_version(name: str | Path, data: bytes) -> None:
    """Before the rest is read, since other versions have other fields."""
    try:
        found = _Version.model_validate_json(data)
    except ValidationError:  # no manifest of any version; the whole model says why
        return
    if found.schema_version not in READABLE:
        raise IntegrityError(
            f"manifest {name} lists shards of schema version {found.schema_version}, this build reads "
            f"{readable()}; draw the traces again, or read them with dail {found.tool_version}"
        )


def read_rows(path: str | Path, units: Container[str] | None = None) -> Iterator[TraceRow]:
    """All rows that a manifest names, shard by shard, each checked by size, sha256, page checksums and schema.

    Args:
        units: ids of those that are wanted, in whose shards alone it looks; all if left out.

    Raises:
        IntegrityError: names the shard.
    """
    path = Path(path)
    reader = ShardReader(Objects(output_root(path)))
    for shard in by_file(read_manifest(path).shards):
        if units is None or shard.unit_id in units:
            yield from reader.rows(shard)


def read_item_problems(path: str | Path) -> dict[str, str]:
    """By item, the problem of a manifest's traces. Of each item one shard is read, and of it that column alone.

    Raises:
        UsageError, IntegrityError: as `read_manifest`; a shard is missing or damaged.
    """
    path = Path(path)
    reader = ShardReader(Objects(output_root(path)))
    found: dict[str, str] = {}
    for shard in by_file(read_manifest(path).shards):
        if shard.item_id not in found:
            found[shard.item_id] = reader.columns(shard, ["problem"])[0]["problem"]
    return found


def output_root(path: Path) -> Path:
    """The folder that shard keys are relative to: the manifest lies in manifests/<batch>/ below it."""
    return path.resolve().parent.parent.parent


def newest_manifests(root: Path) -> list[Path]:
    """Under an output root, each batch's manifest of the highest generation, in the order of their names."""
    newest: dict[Path, tuple[int, Path]] = {}
    for path in root.resolve().glob("manifests/*/v*.json"):
        generation = path.stem.removeprefix("v")
        if generation.isdecimal():
            newest[path.parent] = max(newest.get(path.parent, (0, path)), (int(generation), path))
    return [path for _, (_, path) in sorted(newest.items())]


def _digest(manifest: Manifest) -> str:
    return fingerprint(json.loads(canonical(manifest.model_copy(update={"digest": ""}))))
