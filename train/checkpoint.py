"""What a run keeps in its folder while it goes: whose folder it is, and the one checkpoint it resumes from.

    run.json                  the resolved settings, the model and the manifest
    checkpoint.safetensors    adapter, the optimizer's state, and in the header the step and the run's fingerprint
    run.lock                  which process is at work here

Nothing else is needed to go on bit for bit: batches and learning rates are functions of the step, and there is no
dropout, so no state of random number generators. Files are replaced whole or not at all, and hold no pickle.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from dail.synth.core.errors import IntegrityError, StorageError, UsageError, describe
from dail.synth.core.files import replace
from dail.train.optimizers import put_state, state_of
from dail.train.record import RUN_FILE, RunRecord
from dail.train.sharding import divided_as, gathered

ADAPTER_FOLDER, MODEL_FOLDER = "adapter", "model"  # the run's last act is one of them
CHECKPOINT_FILE = "checkpoint.safetensors"
LOCK_FILE = "run.lock"


def find_run(out: Path, record: RunRecord) -> RunRecord | None:
    """The run that `out` holds already, if it is this one; none if it holds another that never kept a step.

    Raises:
        UsageError: it holds another's steps; says in what they differ.
    """
    path = out / RUN_FILE
    try:
        earlier = RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{out} cannot be a run folder ({error.strerror}); give another --out") from None
    except ValidationError as error:
        raise UsageError(f"{path} is no record of a run ({describe(error)}); give another --out") from None
    if earlier.fingerprint != record.fingerprint:
        if not any((out / kept).exists() for kept in (CHECKPOINT_FILE, ADAPTER_FOLDER, MODEL_FOLDER)):
            return None
        theirs, ours = earlier.decisive(), record.decisive()
        shown = "; ".join(
            f"{key} {theirs.get(key)} there, {ours[key]} here" for key in ours if theirs.get(key) != ours[key]
        )
        sources = "; after # stands the digest of a source" if "#" in shown else ""
        raise UsageError(
            f"{out} holds another run ({shown}{sources}); give another --out, or the settings of {path} to resume"
        )
    return earlier


def claim(out: Path, record: RunRecord) -> None:
    """Writes the run's record, so that nothing else is trained into this folder once it has kept a step."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the run folder {out}: {error.strerror}; give another --out") from None
    text = record.model_dump_json(indent=1).encode() + b"\n"
    replace(out / RUN_FILE, lambda path: path.write_bytes(text))


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keeps other processes out of the run folder. A process that dies, however it dies, lets go of it.

    Raises:
        UsageError: another one holds it; says which.
        StorageError: the folder cannot be made.
    """
    with _lock_file(out) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            whose = file.read().strip() or "of an unknown process"
            raise UsageError(
                f"another run ({whose}) is at work in {out}; wait for it, stop it, or give another --out"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {dt.datetime.now():%Y-%m-%d %H:%M:%S}\n")
        file.flush()
        yield  # closing the file lets go


def _lock_file(out: Path) -> IO[str]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        return open(out / LOCK_FILE, "a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot make the run folder {out}: {error.strerror}; give another --out") from None


def save(
    out: Path, weights: Mapping[str, Tensor], optimizer: Optimizer, step: int, run: str, is_first: bool = True
) -> None:
    """Replaces the checkpoint. `step` counts finished steps; `run` is the run's fingerprint.

    Args:
        is_first: of the ranks, all of which call this; the others only give their parts of what is divided, so that a
            run may go on with another number of ranks.

    Raises:
        StorageError: the disk refused; the last checkpoint is as it was.
    """
    tensors = {f"adapter.{name}": weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        tensors |= {f"{part}.{name}": tensor for part, tensor in state_of(optimizer, weight).items()}
    tensors = gathered(tensors, is_first)
    header = {"step": str(step), "run": run}
    if is_first:
        replace(out / CHECKPOINT_FILE, lambda path: save_tensors(path, tensors, header))


def restore(out: Path, weights: Mapping[str, Tensor], optimizer: Optimizer, run: str) -> int:
    """Loads the checkpoint into adapter and optimizer; the number of finished steps, 0 if there is none.

    Raises:
        UsageError: another run's checkpoint.
        IntegrityError: a damaged one.
    """
    path = out / CHECKPOINT_FILE
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("run") != run:
                raise UsageError(
                    f"{path} belongs to another run ({header.get('run')}, this is {run}); give another --out"
                )
            by_weight: dict[str, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 — no iterator
                part, _, name = key.partition(".")
                by_weight.setdefault(name, {})[part] = divided_as(weights[name], file.get_tensor(key))
        step = int(header["step"])
        with torch.no_grad():
            for name, weight in weights.items():
                kept = by_weight[name]
                weight.copy_(kept.pop("adapter"))
                put_state(optimizer, weight, kept)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); delete it to start this run over") from None
    return step


def steps_done(out: Path) -> int:
    """By the checkpoint that lies there, whosever it is; 0 if there is none that can be read."""
    try:
        with safe_open(out / CHECKPOINT_FILE, "pt") as file:
            return int((file.metadata() or {}).get("step", 0))
    except (FileNotFoundError, SafetensorError):
        return 0


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> None:
    """As `save_file`, but what a disk refused is an OSError; safetensors reports it as text of its own kind."""
    try:
        save_file(tensors, path, metadata=header)
    except SafetensorError as error:
        raise OSError(str(error)) from error
