"""The references' side of the loss, computed once (paper §2.2): none is trained, so none ever changes.

    FOLDER/references.json             what they were made with, and the parts there are: the last thing written
    FOLDER/part-00000.safetensors, …   by trace and context: `<key>.hidden`, the final hidden states at the trace's
                                       positions [R, D] in the weights' precision, and `<key>.lse`, the log-sum-exps of
                                       their logits [R] in float32, at temperature 1

A key is made of two hashes, of a trace's ids (with the positions that count, if not all do) and of a context's: what
other traces lie beside it, what the reference is called and how much it counts play no part, so a sweep, more epochs,
another temperature, another reference or more traces use what there is. A stopped pass goes on after its last whole
part. Files are mapped into memory, so they stay in RAM as far as there is room.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dail.synth.core.config import Frozen, fingerprint
from dail.synth.core.errors import IntegrityError, StorageError, UsageError
from dail.synth.core.files import file_sha256, refused, replace
from dail.synth.core.progress import progress
from dail.synth.schema.models import ModelIdentity
from dail.train.checkpoint import save_tensors
from dail.train.comparison import Comparison, reference_names
from dail.train.config import TrainConfig
from dail.train.data import Example, Reading, microbatches, on_device, out_of_memory, pack, pad
from dail.train.distributed import Ranks
from dail.train.loss import Reference, floors, reference_of
from dail.train.model import REFERENCE, Roles

_log = logging.getLogger(__name__)

INDEX_FILE, LOCK_FILE = "references.json", ".lock"
PART_BYTES = 256 << 20
GIB = 2**30
_ALONE = Ranks()


class Part(Frozen):
    """A file of the cache. `sha256` is checked when the cache is opened."""

    file: str
    size_bytes: int
    sha256: str


class MadeWith(Frozen):
    """What must be equal for hidden states to be used again. `template` is part of the contexts already, and named for
    people."""

    model_revision: str
    tokenizer: str
    template: str
    dtype: str
    attention: str
    adapter: str | None = None  # that the references have on, by its digest
    version: int = 2


class Index(Frozen):
    made_with: MadeWith
    parts: tuple[Part, ...] = ()


class ReferenceCache:
    """Opens a folder, or begins one. The first of the ranks checks what is in it.

    Raises:
        UsageError: it was made with something else, or is no such folder.
        IntegrityError: a part of it is damaged.
    """

    def __init__(self, folder: Path, made_with: MadeWith, ranks: Ranks = _ALONE) -> None:
        self.folder, self._made_with, self.ranks = folder, made_with, ranks
        self._seen: dict[tuple[object, ...], Tensor] = {}
        self._part_of: dict[str, safe_open] = {}
        self._index = Index(made_with=made_with)
        self.read()

    def read(self) -> None:
        """Takes in what the folder holds by now."""
        known, self._index = self._index.parts, _read_index(self.folder, self._made_with)
        for part in self._index.parts[len(known) :]:
            self._know(self._open(part, is_checked=self.ranks.is_first))

    @contextmanager
    def filling(self) -> Iterator[None]:
        """No other run adds to the folder meanwhile. Waits for one that does, and takes in what it left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / LOCK_FILE, "ab") as file, contextlib.ExitStack() as stack:
            if self.ranks.is_first:
                stack.enter_context(_locked(file, self.folder))
            self.ranks.gather(True)
            self.read()
            yield

    @property
    def num_traces(self) -> int:
        """Of which some reference is held."""
        return len({key.partition("-")[0] for key in self._part_of})

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self._index.parts)

    def missing(self, examples: Sequence[Example], names: Sequence[str]) -> list[Reading]:
        """What these references read that the cache does not hold, the longest first: their order is the same whenever
        it is asked."""
        read = [example.readings[name] for example in examples for name in names]
        left = {reading.key: reading for reading in read if reading.key not in self._part_of}
        return sorted(left.values(), key=lambda reading: (-reading.num_tokens, reading.key))

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Writes a part for every rank that has tensors. All ranks must call it, while `filling`.

        Raises:
            StorageError: the disk refused; what was there before is whole.
        """
        path = self.folder / f"part-{len(self._index.parts) + self.ranks.rank:05d}.safetensors"
        part = None
        if tensors:
            replace(path, lambda staged: save_tensors(staged, tensors))
            part = Part(file=path.name, size_bytes=path.stat().st_size, sha256=file_sha256(path))
        new = [one for (one,) in self.ranks.gather((part,)) if one is not None]
        self._index = self._index.model_copy(update={"parts": (*self._index.parts, *new)})
        if self.ranks.is_first:
            text = self._index.model_dump_json(indent=1).encode() + b"\n"
            replace(self.folder / INDEX_FILE, lambda staged: staged.write_bytes(text))
        for one in new:
            self._know(self._open(one, is_checked=False))

    def of(
        self, examples: Sequence[Example], names: Sequence[str], roles: Roles, temperature: float, chunk: int
    ) -> dict[str, Reference]:
        """The references' side of these traces, joined, by name."""
        return {
            name: Reference(
                self.hidden(examples, name, roles.device), self._lse(examples, name, roles, temperature, chunk)
            )
            for name in names
        }

    def hidden(self, examples: Sequence[Example], name: str, device: torch.device) -> Tensor:
        """One reference's final hidden states at the positions of these traces [R, D]."""
        return on_device(torch.cat([self._tensor(example, name, "hidden") for example in examples]), device)

    def floors(self, examples: Sequence[Example], roles: Roles, comparison: Comparison, chunk: int) -> Tensor:
        """The least that each token's loss can be [R]."""
        names = tuple(comparison.weights)

        def compute(new: Sequence[Example]) -> Tensor:
            known = self.of(new, names, roles, comparison.reference_temperature, chunk)
            return floors(known, roles.head.matrix_VD, comparison, chunk)

        return self.once("floor", examples, names, compute)

    def once(
        self,
        what: object,
        examples: Sequence[Example],
        names: Sequence[str],
        compute: Callable[[Sequence[Example]], Tensor],
    ) -> Tensor:
        """A number for each token [R], computed when a trace is first seen, and kept on the device.

        Args:
            names: the references that it is made of.
        """
        keys = [(what, *(example.readings[name].key for name in names)) for example in examples]
        new = {key: example for key, example in zip(keys, examples, strict=True) if key not in self._seen}
        if new:
            lengths = [example.num_positions for example in new.values()]
            self._seen |= dict(zip(new, compute(list(new.values())).split(lengths), strict=True))
        return torch.cat([self._seen[key] for key in keys])

    def _lse(self, examples: Sequence[Example], name: str, roles: Roles, temperature: float, chunk: int) -> Tensor:
        """The file's at temperature 1; at another one they cost a row of logits, once."""
        if temperature == 1.0:
            return on_device(torch.cat([self._tensor(example, name, "lse") for example in examples]), roles.device)

        def compute(new: Sequence[Example]) -> Tensor:
            hidden_RD = self.hidden(new, name, roles.device)
            return reference_of(hidden_RD, roles.head.matrix_VD, chunk, temperature).lse_R

        return self.once(("lse", temperature), examples, (name,), compute)

    def _tensor(self, example: Example, name: str, what: str) -> Tensor:
        key = example.readings[name].key
        return self._part_of[key].get_tensor(f"{key}.{what}")

    def _know(self, file: safe_open) -> None:
        self._part_of |= {name.rpartition(".")[0]: file for name in file.keys()}  # noqa: SIM118 - no mapping

    def _open(self, part: Part, is_checked: bool) -> safe_open:
        path = self.folder / part.file
        try:
            if is_checked and (path.stat().st_size != part.size_bytes or file_sha256(path) != part.sha256):
                raise IntegrityError(f"{path} is not what {INDEX_FILE} says; remove {self.folder} to make it anew")
            return safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            if path.exists() and not os.access(path, os.R_OK):
                raise _not_for_us(path) from None
            raise IntegrityError(f"{path} cannot be read ({error}); remove {self.folder} to make it anew") from None


def own_folder(folder: Path, made_with: MadeWith) -> Path:
    """`folder`, or one beside it if that holds references of something else: of a run that never kept a step."""
    try:
        _read_index(folder, made_with)
    except UsageError as error:
        digest = fingerprint(made_with.model_dump()).removeprefix("sha256:")
        other = folder.with_name(f"{folder.name}-{digest[:8]}")
        _log.info(f"{error}: this run's are in {other}")
        return other
    return folder


def made_with(model: ModelIdentity, roles: Roles, config: TrainConfig) -> MadeWith:
    digests = {name: digest for digest, name in roles.given.items()}
    return MadeWith(
        adapter=digests.get(REFERENCE),
        model_revision=model.revision,
        tokenizer=model.tokenizer_hash,
        template=model.template_hash,
        dtype=config.dtype if config.quantise == "none" else f"{config.dtype} on {config.quantise}",
        attention="each sequence alone" if roles.rope is None else f"each sequence alone, LongRoPE {roles.rope.choice}",
    )


def fill(cache: ReferenceCache, roles: Roles, examples: Sequence[Example], config: TrainConfig) -> None:
    """Computes what the cache does not hold of the references that the settings use, part by part, a part on each rank
    at a time.

    Raises:
        StorageError: it will not fit on the disk, or the disk refused.
    """
    names = reference_names(config)
    missing = cache.missing(examples, names)
    if not any(cache.ranks.gather(bool(missing))):  # another run may have come to its end between two ranks' reading
        return
    _check_room(cache.folder, sum(size_bytes(reading, roles) for reading in missing))
    try:
        with cache.filling():
            _fill(cache, roles, cache.missing(examples, names), config)
    except OSError as error:
        raise refused(cache.folder, error) from error


def _fill(cache: ReferenceCache, roles: Roles, missing: list[Reading], config: TrainConfig) -> None:
    size, tokens = sum(size_bytes(one, roles) for one in missing), sum(one.num_positions for one in missing)
    if missing:
        _log.info(f"{len(missing)} references of traces, {tokens} tokens: {size / GIB:.3g} GiB into {cache.folder}")
    parts, done, ranks = list(_parts(missing, roles, config)), 0, cache.ranks
    with progress("references", len(missing)) as bar:
        for first in range(0, len(parts), ranks.size):
            tensors: dict[str, Tensor] = {}
            ours = parts[first + ranks.rank] if first + ranks.rank < len(parts) else []
            for group, is_ours in ranks.in_step(ours, missing[-1:]):
                try:
                    found = _compute(group, roles, config)
                except torch.OutOfMemoryError:
                    raise out_of_memory([reading.num_tokens for reading in group], config) from None
                tensors |= found if is_ours else {}
                done += len(group) * ranks.size
                bar.update(min(done, len(missing)))
            cache.add(tensors)
        bar.update(len(missing))


def size_bytes(reading: Reading, roles: Roles) -> int:
    """Of one trace behind one context in the cache."""
    matrix_VD = roles.head.matrix_VD
    return reading.num_positions * (matrix_VD.shape[1] * matrix_VD.element_size() + 4)


def _parts(missing: list[Reading], roles: Roles, config: TrainConfig) -> Iterator[list[list[Reading]]]:
    """Groups of one pass each, by part. A function of what is missing, and of a part's end alone: a pass that was
    stopped goes on with the groups that an unbroken one would have had."""
    part: list[list[Reading]] = []
    size = 0
    for group in microbatches(missing, config.microbatch_tokens, lambda reading: reading.num_tokens, roles.packs):
        part.append(group)
        size += sum(size_bytes(reading, roles) for reading in group)
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _compute(group: list[Reading], roles: Roles, config: TrainConfig) -> dict[str, Tensor]:
    """The tensors of one pass, by name."""
    join = pack if roles.packs else pad
    lengths = [reading.num_positions for reading in group]
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        contexts, traces = [reading.context_ids for reading in group], [reading.trace_ids for reading in group]
        batch = join(contexts, traces, roles.device, [reading.positions for reading in group])
        reference = reference_of(roles.reference(batch), roles.head.matrix_VD, config.token_chunk)
        hidden_RD, lse_R = reference.hidden_RD.cpu(), reference.lse_R.cpu()  # all at once: each copy is waited for
        for reading, hidden, lse in zip(group, hidden_RD.split(lengths), lse_R.split(lengths), strict=True):
            found[f"{reading.key}.hidden"] = hidden.clone()
            found[f"{reading.key}.lse"] = lse.clone()
    return found


@contextmanager
def _locked(file: IO[bytes], folder: Path) -> Iterator[None]:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info(f"another run fills {folder}; waiting for it")
        fcntl.flock(file, fcntl.LOCK_EX)
    yield  # closing the file unlocks it


def _check_room(folder: Path, size: int) -> None:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise StorageError(
            f"the references need {size / GIB:.3g} GiB in {folder}, and {free / GIB:.3g} are free; free some space, "
            f"name another folder with --references, or compute them in every step with --set reference_states=live"
        )


def _read_index(folder: Path, wanted: MadeWith) -> Index:
    path = folder / INDEX_FILE
    try:
        index = Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Index(made_with=wanted)
    except PermissionError:
        raise _not_for_us(path) from None
    except (OSError, ValidationError):
        raise UsageError(f"{path} is no index of references; give another folder, or remove this one") from None
    if index.made_with != wanted:
        theirs, ours = index.made_with.model_dump(), wanted.model_dump()
        shown = "; ".join(
            f"{name} {theirs[name]} there, {ours[name]} here" for name in ours if theirs[name] != ours[name]
        )
        raise UsageError(f"{folder} holds references of something else ({shown}); give another --references")
    return index


def _not_for_us(path: Path) -> StorageError:
    return StorageError(
        f"{path} may not be read by this user; whoever made it can share it (chmod -R a+rX {path.parent}); or name "
        "another folder with --references"
    )
