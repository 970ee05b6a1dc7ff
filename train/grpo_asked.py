"""What `dail grpo` asks: problems as the model sees them, with a hint where the run before solved none of its rollouts.

asked = asked_of(["items.jsonl"], Prompts(model), config, after=Path("runs/grpo"), reading=Reading())
asked[0].ids, asked[0].hint
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dail.synth.core.errors import UsageError
from dail.synth.data.reader import Reading, read_solutions
from dail.synth.method.prompts import Prompts
from dail.synth.method.waypoints import waypoints_of
from dail.train.evals.problems import EvalProblem, read_problems
from dail.train.grpo_config import GrpoConfig

_log = logging.getLogger(__name__)

ROLLOUTS_FILE = "rollouts-{}.jsonl"  # one of each rank: how many of a problem's rollouts were right, step by step
_HINT = "Hint, some results along the way: {}"


@dataclass(frozen=True)
class Asked:
    """A problem as the model sees it. `hint`: what was put behind it, if anything."""

    problem: EvalProblem
    ids: list[int]
    hint: str | None


def asked_of(
    files: Sequence[str], prompts: Prompts, config: GrpoConfig, after: Path | None, reading: Reading
) -> list[Asked]:
    problems = read_problems(files, reading).items
    hints = dict[str, str]()
    if config.hints == "waypoints":
        if after is None:
            raise UsageError(
                "grpo.hints=waypoints hints at what a run before did not solve; name that run, --after FOLDER"
            )
        missed = {name for name, right in last_rollouts(after).items() if not right}
        for item, problem in zip(read_solutions(files, reading).items, problems, strict=True):
            if problem.id in missed and (found := waypoints_of(item)):
                hints[problem.id] = _HINT.format(", ".join(found))
        _log.info(f"{len(missed)} problems were solved by none of the last rollouts; {len(hints)} get a hint")
    return [
        Asked(one, prompts.student_ids(_with_hint(one.problem, hints.get(one.id)), config, config.prompts),
              hints.get(one.id))
        for one in problems
    ]  # fmt: skip


def _with_hint(problem: str, hint: str | None) -> str:
    return problem if hint is None else f"{problem}\n\n{hint}"


def check_steps(asked: Sequence[Asked], config: GrpoConfig, num_ranks: int) -> None:
    if len(asked) < config.batch_size:
        raise UsageError(
            f"grpo.batch_size is {config.batch_size}, and there are {len(asked)} problems; lower it, as to {len(asked)}"
        )
    size, ranks = config.batch_size * config.rollouts, num_ranks
    if size % (config.microbatch * ranks):
        raise UsageError(
            f"a step has {size} completions (batch_size times rollouts), which {ranks} processes of "
            f"grpo.microbatch={config.microbatch} do not divide; set microbatch=1, or another batch_size"
        )
    if left := len(asked) % config.batch_size:
        _log.info(f"note: a pass takes whole steps alone, so that {left} of {len(asked)} problems wait for another one")


def check_room(asked: Sequence[Asked], config: GrpoConfig, context_tokens: int) -> None:
    longest = max(asked, key=lambda one: len(one.ids))
    if (room := context_tokens - len(longest.ids)) < config.max_tokens:
        raise UsageError(
            f"problem {longest.problem.id}: its prompt has {len(longest.ids)} tokens, which leaves {room} of the "
            f"model's {context_tokens} for a rollout, and grpo.max_tokens is {config.max_tokens}; lower it"
        )


def last_rollouts(run: Path) -> dict[str, int]:
    """By problem, how many were right when a run last drew rollouts of it; without those that it never came to.

    Raises:
        UsageError: it is no folder of `dail grpo`.
    """
    files = sorted(run.glob(ROLLOUTS_FILE.format("*")))
    if not files:
        raise UsageError(f"{run} is no run of `dail grpo`: it has no {ROLLOUTS_FILE.format(0)}; give its --out")
    last: dict[str, tuple[int, int]] = {}
    for line in (line for file in files for line in file.read_text("utf-8").splitlines()):
        try:
            told = json.loads(line)
        except ValueError:
            continue  # the line that a crash tore
        step, right = last.get(told["problem"], (-1, 0))
        if told["step"] >= step:
            last[told["problem"]] = (told["step"], told["right"] + (right if told["step"] == step else 0))
    return {name: right for name, (_, right) in last.items()}
