"""Which model made or may read a trace: revision of the weights, and hashes of tokenizer and templates.

Made by the worker and by the API from the same files, compared by both and by the trainer. Only file bytes are
read, so the API needs neither transformers nor torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from dail.synth.core.config import Frozen, canonical
from dail.synth.core.errors import UsageError
from dail.synth.schema.chat_templates import FILES, NAMED, chat_template, names_read

ROLES = ("student", "privileged_student", "negative_reference")
TEMPLATES = Path(__file__).parents[1] / "method" / "templates"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json",
    "tekken.json", "tiktoken.model", "spiece.model", "vocab.txt",
)  # fmt: skip


class ModelIdentity(Frozen):
    """What must be equal for two programs to agree about token ids and probabilities.

    `student` names the student's own adapter or weights, none where both roles have the same (the paper's only case).
    `template_reads`: the names by which the chat template can be told something, which follow from `template_hash`.
    """

    name: str
    revision: str
    tokenizer_hash: str
    template_hash: str
    student: str | None = None
    template_reads: tuple[str, ...] = ()

    def identity(self) -> dict[str, str]:
        """Without the name, which is only a label, without what both roles share, and what follows from the rest."""
        return self.model_dump(mode="json", exclude={"name", "template_reads"}, exclude_none=True)


def identify(folder: Path, name: str | None = None, student: Path | None = None) -> ModelIdentity:
    """Reads a model folder (safetensors, tokenizer, chat template).

    `revision` is the 40-hex commit of a hub snapshot folder, else the sha256 of config.json (which may scale RoPE)
    and all weight bytes. `template_hash` covers whatever makes a prompt of words and says where a turn ends: the
    model's chat templates, the settings and special tokens of its tokenizer, the ends of turns in its generation_config
    and our three role templates.

    Args:
        student: folder of the student's LoRA adapter, or of its own model with the same tokenizer.

    Raises:
        UsageError: a folder is missing something; says what.
    """
    try:
        identity = _identify(folder, name or folder.name)
        if student is None:
            return identity
        return identity.model_copy(update={"student": _identify_student(student, identity)})
    except OSError as error:
        raise UsageError(f"{error.filename or folder} cannot be read: {error.strerror}; restore the file") from None


def _identify(folder: Path, name: str) -> ModelIdentity:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no model folder: it has no config.json; give a folder as saved by transformers")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UsageError(f"{folder} has no *.safetensors; only safetensors weights are read (no pickle)")
    for file in weights:
        _check_whole(file)
    tokenizer = [folder / file for file in _TOKENIZER_FILES if (folder / file).is_file()]
    if not tokenizer:
        raise UsageError(
            f"{folder} has no tokenizer (tokenizer.json or vocab.json); save the tokenizer beside the weights"
        )
    snapshot = folder.resolve()
    is_hub = snapshot.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", snapshot.name)
    return ModelIdentity(
        name=name,
        revision=snapshot.name if is_hub else _hash_files([folder / "config.json", *weights]),
        tokenizer_hash=_hash_files(tokenizer),
        template_hash=_template_hash(folder),
        template_reads=names_read(chat_template(folder)),
    )


def _template_hash(folder: Path) -> str:
    """Of generation_config only the ends of turns: how it would draw plays no part."""
    named = [folder / name for name in FILES] + sorted((folder / NAMED).glob("*.jinja"))
    ends = _json(folder / "generation_config.json").get("eos_token_id")
    digest = hashlib.sha256(canonical(ends))
    for path in [*named, *(TEMPLATES / f"{role}.jinja" for role in ROLES)]:
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return "sha256:" + digest.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}; restore the file") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds a {type(value).__name__}; wanted an object; restore the file")
    return value


def _check_whole(file: Path) -> None:
    """Holds a safetensors file's size against its own table of contents. Raises UsageError: it was cut short."""
    size = file.stat().st_size
    try:
        with open(file, "rb") as content:
            header_size = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(min(header_size, size)))
        wanted = 8 + header_size + max(entry["data_offsets"][1] for name, entry in header.items() if "__" not in name)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UsageError(f"{file} is no safetensors file, or was cut short; copy it again") from None
    if size != wanted:
        raise UsageError(f"{file} has {size} bytes, and by its own table of contents {wanted}; copy it again")


def _identify_student(folder: Path, model: ModelIdentity) -> str:
    if (folder / ADAPTER_CONFIG).is_file():
        adapter_rank(folder)
        return adapter_digest(folder)
    student = _identify(folder, folder.name)
    if student.tokenizer_hash != model.tokenizer_hash:
        raise UsageError(
            f"the student {folder} has tokenizer {student.tokenizer_hash}, the model {model.tokenizer_hash}; both "
            f"roles must write the same tokens; give a student with the same tokenizer files"
        )
    return student.revision


def adapter_digest(folder: Path) -> str:
    """Of a LoRA adapter's weights and of what its settings say, however they are written."""
    digest = hashlib.sha256()
    with open(folder / ADAPTER_WEIGHTS, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    digest.update(canonical(in_order(_json(folder / ADAPTER_CONFIG))))
    return "sha256:" + digest.hexdigest()


def in_order(config: dict[str, Any]) -> dict[str, Any]:
    """An adapter's settings with names and lists of names sorted: PEFT has them as sets, whose order means nothing."""
    return {
        name: sorted(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value
        for name, value in sorted(config.items())
    }


def adapter_rank(folder: Path) -> int:
    """The rank of a PEFT LoRA adapter. Raises UsageError if the folder holds none."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} is no adapter folder: it has no {name}; give the folder that `dail train` made")
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{folder / ADAPTER_CONFIG} is not JSON: {error}; restore it from the training run") from None
    rank = settings.get("r") if isinstance(settings, dict) else None
    if not isinstance(rank, int) or rank < 1:
        raise UsageError(f"{folder / ADAPTER_CONFIG}: r is {rank!r}; wanted the rank of a LoRA adapter, a whole number")
    return rank


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return "sha256:" + digest.hexdigest()
