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
from dail.synth.core.model_folders import no_model_folder
from dail.synth.schema.adapters import ADAPTER_CONFIG, adapter_digest, check_fits
from dail.synth.schema.chat_templates import FILES, NAMED, chat_template, names_read
from dail.synth.schema.tensors import tensors_of

ROLES = ("student", "privileged_student", "negative_reference")
TEMPLATES = Path(__file__).parents[1] / "method" / "templates"
_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json",
    "tekken.json", "tiktoken.model", "spiece.model", "vocab.txt",
)  # fmt: skip


class ModelIdentity(Frozen):
    """What must be equal for two programs to agree about token ids and probabilities.

    `student` names the student's own adapter or weights, `privileged` the privileged student's adapter; none where a
    role has the model's bare weights (the paper's only case).
    `template_reads`: the names by which the chat template can be told something, which follow from `template_hash`.
    """

    name: str
    revision: str
    tokenizer_hash: str
    template_hash: str
    student: str | None = None
    privileged: str | None = None
    template_reads: tuple[str, ...] = ()

    def identity(self) -> dict[str, str]:
        """Without the name, which is only a label, without what both roles share, and what follows from the rest."""
        return self.model_dump(mode="json", exclude={"name", "template_reads"}, exclude_none=True)


def differences(one: ModelIdentity, other: ModelIdentity) -> list[str]:
    """Which parts differ, in words."""
    parts = {
        "weights": "revision",
        "tokenizer": "tokenizer_hash",
        "templates or prompts": "template_hash",
        "student's own adapter or weights": "student",
        "privileged student's adapter": "privileged",
    }
    return [words for words, name in parts.items() if getattr(one, name) != getattr(other, name)]


def identify(
    folder: Path, name: str | None = None, student: Path | None = None, privileged: Path | None = None
) -> ModelIdentity:
    """Reads a model folder (safetensors, tokenizer, chat template).

    `revision` is the 40-hex commit of a hub snapshot folder, else the sha256 of config.json (which may scale RoPE)
    and all weight bytes. `template_hash` covers whatever makes a prompt of words and says where a turn ends: the
    model's chat templates, the settings and special tokens of its tokenizer, the ends of turns in its generation_config
    and our three role templates.

    Args:
        student: folder of the student's LoRA adapter, or of its own model with the same tokenizer.
        privileged: folder of the privileged student's LoRA adapter.

    Raises:
        UsageError: a folder is missing something, or a role's own does not fit the model; says what.
    """
    try:
        identity = _identify(folder, name or folder.name)
        own: dict[str, str] = {}
        if student is not None:
            own["student"] = _identify_student(student, folder, identity)
        if privileged is not None:
            check_fits(privileged, folder)
            own["privileged"] = adapter_digest(privileged)
        return identity.model_copy(update=own)
    except OSError as error:
        raise UsageError(f"{error.filename or folder} cannot be read: {error.strerror}; restore the file") from None


def _identify(folder: Path, name: str) -> ModelIdentity:
    if not (folder / "config.json").is_file():
        raise UsageError(no_model_folder(folder))
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UsageError(f"{folder} has no *.safetensors; only safetensors weights are read (no pickle)")
    for file in weights:
        tensors_of(file)
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


def _identify_student(folder: Path, base: Path, model: ModelIdentity) -> str:
    if (folder / ADAPTER_CONFIG).is_file():
        check_fits(folder, base)
        return adapter_digest(folder)
    student = _identify(folder, folder.name)
    if student.tokenizer_hash != model.tokenizer_hash:
        raise UsageError(
            f"the student {folder} has tokenizer {student.tokenizer_hash}, the model {model.tokenizer_hash}; both "
            f"roles must write the same tokens; give a student with the same tokenizer files"
        )
    return student.revision


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return "sha256:" + digest.hexdigest()
