"""The way of a pool's problems through the steps of a curation: how many went in, came out, and were left out why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dail.synth.core.config import Frozen
from dail.synth.core.errors import InputError, few
from dail.train.studies.pool import PoolProblem


class Step(Frozen):
    """`dropped`: by reason, how many. `told`: what else there is to know. `published`: what a publication has left."""

    step: str
    num_in: int
    num_out: int
    dropped: dict[str, int]
    told: tuple[str, ...] = ()
    published: int | None = None


class Dropped(Frozen):
    """A problem that was left out; a line of dropped.jsonl."""

    id: str
    step: str
    why: str
    rows: tuple[str, ...]


class Funnel:
    """Filled a step at a time."""

    def __init__(self, published: Mapping[str, int]) -> None:
        self.steps: list[Step] = []
        self.dropped: list[Dropped] = []
        self._published = published

    def count(
        self, step: str, num_in: int, num_out: int, why: Mapping[str, int] | None = None, told: Sequence[str] = ()
    ) -> None:
        """A step that is about other things than problems."""
        self.steps.append(
            Step(
                step=step,
                num_in=num_in,
                num_out=num_out,
                dropped=dict(why or {}),
                told=tuple(told),
                published=self._published.get(step),
            )
        )

    def drop(
        self, step: str, problems: Sequence[PoolProblem], why: Mapping[str, str], advice: str, told: Sequence[str] = ()
    ) -> list[PoolProblem]:
        """The problems that stay.

        Args:
            step: its name.
            problems: that go in.
            why: by id, the reason of those that do not stay.
            advice: what to do if none stays.
            told: what else is to be known of the step.

        Raises:
            InputError: none stays.
        """
        left = [problem for problem in problems if problem.id not in why]
        reasons = Counter(why[problem.id] for problem in problems if problem.id in why)
        if not left:
            counted = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
            raise InputError(f"no problem is left behind the step {step}, of {len(problems)} ({counted}); {advice}")
        self.count(step, len(problems), len(left), reasons, told)
        for problem in problems:
            if problem.id in why:
                rows = tuple(f"{origin.file} {origin.row}" for origin in problem.origins)
                self.dropped.append(Dropped(id=problem.id, step=step, why=why[problem.id], rows=rows))
        return left


def listed(names: Sequence[str], what: str) -> list[str]:
    """`WHAT: 3 (a, b and 1 more)`, or nothing of none."""
    return [f"{what}: {len(names)} ({few(names, 5)})"] if names else []
