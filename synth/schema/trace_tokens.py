"""A stretch of a trace, token by token: what was written, who wrote it, and what the roles gave it (paper §2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Tokens:
    """Lists of one length, one place per trace token. Log-probabilities are natural, at temperature 1, of the model as
    it is: neither cut nor without suppressed tokens.

    `student_prob`: probability that the student wrote it, with whichever proposal: 1 student, 0 privileged student,
    none unknown. `rejected`: the first proposal where the proposer was asked and none of its proposals was accepted,
    else none. A log-probability is none where it was not computed.
    """

    ids: list[int] = field(default_factory=list)
    student_prob: list[float | None] = field(default_factory=list)
    rejected: list[int | None] = field(default_factory=list)
    student_logprob: list[float | None] = field(default_factory=list)
    privileged_logprob: list[float | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in vars(self).items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"lists of different lengths: {lengths}; wanted one entry per token in each")

    @classmethod
    def of(cls, ids: list[int]) -> Tokens:
        """Of which nothing else is known."""
        unknown = [None] * len(ids)
        return cls(ids, list(unknown), list(unknown), list(unknown), list(unknown))

    def __len__(self) -> int:
        return len(self.ids)

    def add(
        self,
        token: int,
        student_prob: float | None,
        student_logprob: float | None,
        privileged_logprob: float | None,
        rejected: int | None = None,
    ) -> None:
        self.ids.append(token)
        self.student_prob.append(student_prob)
        self.rejected.append(rejected)
        self.student_logprob.append(student_logprob)
        self.privileged_logprob.append(privileged_logprob)

    def __getitem__(self, places: slice) -> Tokens:
        return Tokens(*(values[places] for values in vars(self).values()))

    def __add__(self, later: Tokens) -> Tokens:
        return Tokens(*(one + other for one, other in zip(vars(self).values(), vars(later).values(), strict=True)))

    def extend(self, later: Tokens) -> None:
        for own, other in zip(vars(self).values(), vars(later).values(), strict=True):
            own.extend(other)

    def cut(self, length: int) -> None:
        for own in vars(self).values():
            del own[length:]

    @property
    def student_tokens(self) -> float:
        return count_student(self.student_prob)

    @property
    def attributed_tokens(self) -> int:
        return count_attributed(self.student_prob)


def count_student(student_prob: Sequence[float | None]) -> float:
    """Expected number of tokens that the student wrote, of those whose writer is known."""
    return sum(probability or 0.0 for probability in student_prob)


def count_attributed(student_prob: Sequence[float | None]) -> int:
    """How many tokens have a known writer, be it with a probability."""
    return sum(probability is not None for probability in student_prob)


def student_share(student_tokens: float, attributed_tokens: int) -> float | None:
    """Of the tokens whose writer is known, the share that the student is expected to have written; else none.

    >>> student_share(count_student([1, 1, 0, None]), count_attributed([1, 1, 0, None]))
    0.6666666666666666
    """
    return student_tokens / attributed_tokens if attributed_tokens else None
