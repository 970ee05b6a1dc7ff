"""`dail push`: traces, an export or an adapter to a model hub, with the hub's own client.

Files go up in parts, the card last: a push that was interrupted shows no card, and the same command goes on, since the
hub says which files it has already. What is unfinished is refused before anything is sent.

    dail push runs/sft --to OWNER/NAME --private
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dail.synth.core.config import Frozen
from dail.synth.core.errors import ApiError, UsageError
from dail.synth.core.files import Objects, without_folders
from dail.synth.core.progress import progress
from dail.synth.export.export import EXPORT_FILE, Exported
from dail.synth.schema.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_rank
from dail.synth.schema.card import CARD, data_files, write_card
from dail.synth.schema.manifest import newest_manifests, output_root, read_manifest

LINEAGE_FILE = "dail.json"  # of an adapter
_AT_ONCE = 500  # files in a commit

_log = logging.getLogger(__name__)

Content = Path | bytes


class Pushed(Frozen):
    """`commit`: the id of the last one on the hub, also where every file was there already."""

    kind: str
    repository: str
    url: str
    revision: str
    commit: str
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Parcel:
    """What goes up, by its name there. `kind`: dataset or model, as the hub calls it."""

    kind: str
    about: str
    files: Mapping[str, Content]


def push(
    folder: str | Path,
    to: str,
    *,
    token: str,
    private: bool = False,
    revision: str = "main",
    endpoint: str | None = None,
) -> Pushed:
    """Sends an output root, an export or an adapter to the repository `to`, which is made if it is not there.

    Args:
        to: OWNER/NAME.
        token: of the hub, with the right to write.
        private: makes a private repository, and refuses one that is public.
        revision: a branch, made if it is not there.
        endpoint: of the hub, the client's own if left out.

    Raises:
        UsageError: nothing finished is in the folder; the name is none; the repository is public.
        IntegrityError: a shard is not what its manifest says.
        ApiError: the hub refused, or could not be reached.
    """
    if to.count("/") != 1:
        raise UsageError(f"{to!r} names no repository; wanted OWNER/NAME")
    parcel = pack(Path(folder))
    return _told(lambda: _send(parcel, to, token, private, revision, endpoint), to)


def pack(folder: Path) -> Parcel:
    """What the folder holds and may be sent. Raises UsageError: nothing, or what is not finished."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give what `dail synth`, `dail export` or `dail train` wrote")
    if (folder / EXPORT_FILE).is_file():
        return _export(folder)
    if (folder / "manifests").is_dir() or (folder / "ledger.jsonl").is_file():
        return _traces(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapter(folder)
    if (folder / "run.json").is_file():  # the folder of a training run
        if (folder / "adapter").is_dir():
            return _adapter(folder / "adapter")
        raise UsageError(f"{folder} is a training run without an adapter yet; rerun its `dail train` to the end")
    raise UsageError(
        f"{folder} holds neither a manifest, nor {EXPORT_FILE}, nor {ADAPTER_CONFIG}; give what `dail synth`, "
        "`dail export` or `dail train` wrote"
    )


def _export(folder: Path) -> Parcel:
    try:
        exported = Exported.model_validate_json((folder / EXPORT_FILE).read_bytes())
    except ValidationError:
        raise UsageError(f"{folder / EXPORT_FILE} is not what this build writes; export again") from None
    files = _all_there(folder, CARD, EXPORT_FILE, exported.file)
    return Parcel("dataset", f"{exported.rows} rows for {exported.form}", files)


def _traces(root: Path) -> Parcel:
    """The shards of each batch's newest manifest; what was drawn of a batch that has not ended is not sent."""
    found = newest_manifests(root)
    if not found:
        raise UsageError(f"{root} holds no finished batch; rerun the `dail synth` that began it to go on")
    objects, rows = Objects(root), 0
    files: dict[str, Content] = {}
    for path in found:
        manifest = read_manifest(path)
        rows += manifest.rows
        files[path.relative_to(output_root(path)).as_posix()] = path
        for shard in manifest.files:
            objects.get(shard.key, size=shard.size_bytes, digest=shard.sha256)
            files[shard.key] = objects.path(shard.key)
        files |= {key: objects.path(key) for key in data_files(path, manifest.digest)}  # what the card names
    write_card(root)  # of just these manifests
    files |= _all_there(root, CARD)
    return Parcel("dataset", f"{rows} traces", files)


def _adapter(folder: Path) -> Parcel:
    """With its card and its lineage, of which the folders of this machine are nobody's business."""
    adapter_rank(folder)
    files: dict[str, Content] = dict(_all_there(folder, CARD, LINEAGE_FILE, ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    try:
        lineage = json.loads((folder / LINEAGE_FILE).read_bytes())
        settings = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except ValueError as error:
        raise UsageError(f"a file of {folder} is not JSON: {error}; restore it from the training run") from None
    files[LINEAGE_FILE] = _json(without_folders(lineage))
    files[ADAPTER_CONFIG] = _json(without_folders(settings))
    return Parcel("model", "a LoRA adapter", files)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _all_there(folder: Path, *names: str) -> dict[str, Content]:
    for name in names:
        if not (folder / name).is_file():
            raise UsageError(
                f"{folder} has no {name}, so it is not finished or not whole; write it again and push then"
            )
    return {name: folder / name for name in names}


def _send(parcel: Parcel, to: str, token: str, private: bool, revision: str, endpoint: str | None) -> Pushed:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint, token=token)
    made = api.create_repo(to, repo_type=parcel.kind, private=private or None, exist_ok=True)
    if private and not api.repo_info(made.repo_id, repo_type=parcel.kind).private:
        raise UsageError(
            f"{made.repo_id} is there already and public, and --private was asked for; make it private "
            "there, or choose another name"
        )
    if revision != "main":
        api.create_branch(made.repo_id, branch=revision, repo_type=parcel.kind, exist_ok=True)
    names = sorted(parcel.files, key=lambda name: (name == CARD, name))
    commit = ""
    with progress("pushing", len(names)) as bar:
        for start in range(0, len(names), _AT_ONCE):
            part = names[start : start + _AT_ONCE]
            operations = [CommitOperationAdd(name, _content(parcel.files[name])) for name in part]
            done = api.create_commit(
                made.repo_id,
                operations,
                commit_message=f"{parcel.about}, by dail",
                repo_type=parcel.kind,
                revision=revision,
            )
            commit = done.oid
            bar.update(start + len(part))
    return Pushed(
        kind=parcel.kind,
        repository=made.repo_id,
        url=str(made),
        revision=revision,
        commit=commit,
        files=len(names),
        size_bytes=sum(_size(content) for content in parcel.files.values()),
    )


def _content(content: Content) -> Any:
    return str(content) if isinstance(content, Path) else io.BytesIO(content)


def _size(content: Content) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _told(send: Callable[[], Pushed], to: str) -> Pushed:
    """What the client raises, as errors of ours; a token is in none of them."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

    try:
        return send()
    except HFValidationError as error:
        raise UsageError(f"{to!r} names no repository: {error}; wanted OWNER/NAME") from None
    except OfflineModeIsEnabled:
        raise UsageError("HF_HUB_OFFLINE is set, so nothing is sent; unset it to push") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = (
            "check HF_TOKEN: it must have the right to write there" if status in (401, 403, 404) else "rerun to go on"
        )
        raise ApiError(
            f"the hub answered {status} for {to}: {error.server_message or 'no reason'}; {hint}", status
        ) from None
    except (HTTPError, OSError) as error:
        raise ApiError(f"the hub could not be reached for {to}: {error}; rerun the same command to go on") from None
    except ValueError as error:  # of its own checks, the card's block on top among them
        raise ApiError(f"the hub's client refused {to}: {error}") from None
