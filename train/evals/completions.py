"""samples.jsonl: everything drawn, one JSON object a line, written as it ends. What is there is never redrawn.

Two kinds of lines. A `Completion` is what is judged. A `Beginning` is what was drawn of one before something was put
behind it, with its ids: the thought that several budgets share, or a completion without a box behind which the answer
is announced. It is written before the answer is asked for, so a run that is killed draws at most the answer again.

A key covers all that the distribution depends on, so a rerun with other settings reuses nothing by mistake, and one
with more samples, another adapter, other budgets or another announcement keeps what it can.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import logging
import os
import time
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

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
    "thinking": True,
    "seed": True,
    "top_p": True,
    "top_k": True,
    "presence_penalty": True,
    "stop": True,
    "engine": {"kind", "dtype", "model_tokens"},
}


class Completion(Frozen):
    """One completion. `text` is what people and the grader read: without special tokens, with what was put into it.

    Args:
        arm: names the arm it was last judged as.
        num_tokens: that the model drew; what was put in between is not counted.
        thought_tokens: of these, in the thought, where the arm has a budget.
        forced: the thought was ended at the arm's budget.
        announced: the answer was announced, and drawn behind that.
        finish_reason: of what was drawn last.
    """

    key: str
    arm: str
    problem_id: str
    sample: int
    text: str
    num_tokens: int
    thought_tokens: int | None = None
    forced: bool = False
    announced: bool = False
    finish_reason: Literal["stop", "length"]
    engine: str
    date: dt.date | None = None  # that its prompt printed


class Beginning(Frozen):
    """What was drawn before something was put behind it.

    Args:
        token_ids: base64 of zlib's deflate of 32-bit little-endian ids; `ids` gives them. Without the token that ended
            the turn, if one did.
        num_drawn: how many tokens that took, the one that ended the turn included.
        ended: by the end-of-thought mark, by the end of the turn, at a stop string, or at a limit of tokens.
    """

    key: str
    begins: Literal["thought", "completion"]
    problem_id: str
    sample: int
    token_ids: str
    num_drawn: int
    ended: Literal["closed", "turn", "stop", "length"]
    engine: str
    date: dt.date | None = None

    @property
    def ids(self) -> list[int]:
        return array("I", zlib.decompress(base64.b64decode(self.token_ids))).tolist()


def packed(ids: Sequence[int]) -> str:
    """Ids as `Beginning.token_ids` has them: a tenth of their size as JSON.

    >>> packed([3, 5])
    'eJxjZmBgYAViAAA0AAk='
    """
    return base64.b64encode(zlib.compress(array("I", ids).tobytes())).decode()


def digest(*content: object) -> str:
    """32 hex digits of anything that JSON has."""
    return hashlib.sha256(canonical(list(content))).hexdigest()[:32]


def drawn_from(config: EvalConfig, arm: Arm, problem: EvalProblem, sample: int) -> list[object]:
    """All that the first token of a completion depends on, and every further one until something is put behind it.

    Names of models and arms, the number of samples, and a problem's answer and group do not count.
    """
    settings = config.model_dump(mode="json", include=_DRAWN_FROM) | {"temperature": arm.temperature}
    identity, adapter = arm.subject.model.identity(), arm.subject.adapter
    content = [_DRAWN_BY, settings, identity, adapter and adapter.digest, problem.id, problem.problem, sample]
    drawn = config.model_dump(mode="json", include=set(WITHOUT_EFFECT))
    if told := {name: value for name, value in drawn.items() if value != WITHOUT_EFFECT[name]}:
        content.append(told)
    if config.prompts != PAPER:
        content.append(label(config.prompts))
    return content


Line = Completion | Beginning
_LINE: TypeAdapter[Line] = TypeAdapter(Line)


def day_begun(path: Path) -> dt.date | None:
    """The date in the prompts of the file's last line; none if they printed none, or there is no line."""
    for line in reversed(_text_lines(path)[0]):
        try:
            return _LINE.validate_json(line).date
        except ValidationError:
            continue  # the line that a crash tore
    return None


def _text_lines(path: Path) -> tuple[list[str], bool]:
    """And whether the last one has its end."""
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    # not splitlines: JSON leaves U+2028 and its like as they are
    return [line for line in text.split("\n") if line], text.endswith("\n")


@dataclass(frozen=True)
class Wanted:
    """What an evaluation can use of a file: keys of completions, each with the name of its arm, and of beginnings."""

    completions: Mapping[str, str]
    beginnings: Set[str]


class SampleFile:
    """What one evaluation has drawn, on disk.

    Args:
        want: told which beginnings the file has, by key, says what is wanted of it; which completions these are depends
            on the ids that they go on from.
        num_wanted: how many completions there are to be.

    Raises (from all of it):
        StorageError: the disk refused.
    """

    def __init__(self, path: Path, want: Callable[[Mapping[str, Beginning]], Wanted], num_wanted: int) -> None:
        self.path = path
        self.kept: dict[str, Completion] = {}
        self.beginnings: dict[str, Beginning] = {}
        lines, is_whole = _text_lines(path)
        found = list(_read(lines))
        # of two with one key the later one was drawn since the earlier was too short for a larger budget
        begun = {one.key: one for one in found if isinstance(one, Beginning)}
        wanted = want(begun)
        self.beginnings = {key: one for key, one in begun.items() if key in wanted.beginnings}
        is_renamed, num_of_use = False, 0
        for one in found:
            if isinstance(one, Beginning):
                num_of_use += one.key in wanted.beginnings
            elif (name := wanted.completions.get(one.key)) is not None:
                self.kept[one.key] = one.model_copy(update={"arm": name})
                is_renamed |= one.arm != name
                num_of_use += 1
        if is_renamed or num_of_use < len(lines) or not is_whole:
            self._start_clean(len(lines), num_of_use)
        if self.kept or self.beginnings:
            thoughts = f", and {len(self.beginnings)} that others begin with" if self.beginnings else ""
            _log.info(f"reusing {len(self.kept)} of {num_wanted} completions from {path}{thoughts}")

    def _start_clean(self, num_lines: int, num_of_use: int) -> None:
        """Sets the old file aside, since what was drawn may have been dear, and starts one with what is wanted."""
        if num_lines > num_of_use:
            aside = self.path.with_name(f"samples-until-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
            self.path.rename(aside)
            _log.info(
                f"{num_lines - num_of_use} of {num_lines} completions in {self.path.name} were drawn with other "
                f"settings, or torn by a crash; sampling these anew; the old file is now {aside.name}"
            )
        staged = self.path.with_suffix(".part")
        kept: list[Line] = [*self.beginnings.values(), *self.kept.values()]
        staged.write_text("".join(map(_line, kept)), "utf-8")
        staged.replace(self.path)

    def add(self, line: Line) -> None:
        if isinstance(line, Completion):
            self.kept[line.key] = line
        else:
            self.beginnings[line.key] = line
        try:
            self._file.write(_line(line))
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


def _read(lines: Sequence[str]) -> Iterator[Line]:
    for line in lines:
        try:
            yield _LINE.validate_json(line)
        except ValidationError:
            continue  # the line that a crash tore


def _line(line: Line) -> str:
    return line.model_dump_json() + "\n"
