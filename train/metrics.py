"""One line of figures per step: metrics.jsonl for programs, TensorBoard for eyes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from train.checkpoint import refused, replace

METRICS_FILE = "metrics.jsonl"


class Metrics:
    def __init__(self, file: TextIO, board: Any) -> None:
        self._file, self._board = file, board

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(f"train/{name}", value, step)


@contextmanager
def metrics(out: Path, step: int) -> Iterator[Metrics]:
    """Goes on after `step`; what was written of later steps is dropped, since they are run again.

    Raises:
        StorageError: the disk refused, here or while it is used.
    """
    path = out / METRICS_FILE
    kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
    replace(path, lambda staged: staged.write_text("".join(kept), "utf-8"))
    try:
        board = SummaryWriter(out / "tensorboard", purge_step=step + 1)
        with open(path, "a", encoding="utf-8") as file, closing(board):
            yield Metrics(file, board)
    except OSError as error:
        raise refused(path, error) from error


def _lines(path: Path) -> list[str]:
    """The whole lines; a run killed while it wrote may leave half of one at the end."""
    if not path.exists():
        return []
    return [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
