"""samples.jsonl: every completion drawn, one JSON object a line, written as it ends. What is there is never redrawn.

A completion's key covers all that its distribution depends on, so a rerun with other settings reuses nothing by
mistake, and one with more samples or another adapter keeps what it can.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import ValidationError

from dail.synth.core.config import Frozen, canonical
from dail.synth.core.errors import StorageError
from dail.synth.core.extensions import label
from dail.synth.schema.rendering import WITHOUT_EFFECT
from dail.synth.schema.synthesis import PAPER
from dail.train.evals.arms import Arm
from dail.train.evals.config import EvalConfig
from dail.train.evals.problems import EvalProblem

_log = logging.getLogger(__name__)

# Raised when completions are drawn in another way, so that none drawn the old way is reused. 1 let base and adapter
# share steps, where vLLM on a CPU gave base rows the adapter; 2 had one temperature for all.
_DRAWN_BY = 3
_DRAWN_FROM: dict[str, Any] = {
    "max_tokens": True,
    "thinking": True,
    "seed": True,
    "engine": {"kind", "dtype", "model_tokens"},
}


class Completion(Frozen):
    """One completion. `text` is what people and the grader read: without special tokens.

    `arm` names the arm it was last judged as; `forced` says that its thought was ended at the arm's budget.
    """

    key: str
    arm: str
    problem_id: str
    sample: int
    text: str
    num_tokens: int
    finish_reason: Literal["stop", "length"]
    forced: bool = False
    engine: str
    date: dt.date | None = None  # that its prompt printed


def completion_key(config: EvalConfig, arm: Arm, problem: EvalProblem, sample: int) -> str:
    """32 hex digits. Names of models and arms, the number of samples, and a problem's answer and group do not count."""
    settings = config.model_dump(mode="json", include=_DRAWN_FROM)
    settings |= {"temperature": arm.temperature, "budget": arm.budget}
    identity, adapter = arm.subject.model.identity(), arm.subject.adapter
    content = [_DRAWN_BY, settings, identity, adapter and adapter.digest, problem.id, problem.problem, sample]
    drawn = config.model_dump(mode="json", include=set(WITHOUT_EFFECT))
    if told := {name: value for name, value in drawn.items() if value != WITHOUT_EFFECT[name]}:
        content.append(told)
    if config.prompts != PAPER:
        content.append(label(config.prompts))
    return hashlib.sha256(canonical(content)).hexdigest()[:32]


def day_begun(path: Path) -> dt.date | None:
    """The date in the prompts of the file's last completion; none if they printed none, or there is no completion."""
    lines = path.read_text("utf-8", errors="replace").split("\n") if path.is_file() else []
    for line in reversed(lines):
        try:
            return Completion.model_validate_json(line).date
        except ValidationError:
            continue  # the line that a crash tore
    return None


class SampleFile:
    """The completions of one evaluation on disk, opened for the keys it wants, each with the name of its arm.

    Raises (from all of it):
        StorageError: the disk refused.
    """

    def __init__(self, path: Path, wanted: Mapping[str, str]) -> None:
        self.path = path
        self.kept: dict[str, Completion] = {}
        text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
        # not splitlines: JSON leaves U+2028 and its like as they are
        lines = [line for line in text.split("\n") if line]
        is_renamed = False
        for line in lines:
            try:
                completion = Completion.model_validate_json(line)
            except ValidationError:
                continue  # the line that a crash tore
            if completion.key in wanted:
                self.kept[completion.key] = completion.model_copy(update={"arm": wanted[completion.key]})
                is_renamed |= completion.arm != wanted[completion.key]
        if is_renamed or len(self.kept) < len(lines) or not text.endswith("\n"):
            self._start_clean(len(lines))
        if self.kept:
            _log.info(f"reusing {len(self.kept)} of {len(wanted)} completions from {path}")

    def _start_clean(self, num_lines: int) -> None:
        """Sets the old file aside, since what was drawn may have been dear, and starts one with what is wanted."""
        if num_lines > len(self.kept):
            aside = self.path.with_name(f"samples-until-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
            self.path.rename(aside)
            _log.info(
                f"{num_lines - len(self.kept)} of {num_lines} completions in {self.path.name} were drawn with other "
                f"settings, or torn by a crash; sampling these anew; the old file is now {aside.name}"
            )
        staged = self.path.with_suffix(".part")
        staged.write_text("".join(_line(completion) for completion in self.kept.values()), "utf-8")
        staged.replace(self.path)

    def add(self, completion: Completion) -> None:
        self.kept[completion.key] = completion
        try:
            self._file.write(_line(completion))
            self._file.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}; free some space and rerun") from error

    def __enter__(self) -> Self:
        self._file = open(self.path, "a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


def _line(completion: Completion) -> str:
    return completion.model_dump_json() + "\n"
