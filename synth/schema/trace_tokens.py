"""A stretch of a trace, token by token: what was written, who wrote it, and what the roles gave it (paper §2.1)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tokens:
    """Lists of one length, one place per trace token. Log-probabilities are natural, at temperature 1.

    `source`: probability that the student wrote it: 1 student, 0 privileged student, none unknown. `rejected`: the
    student's proposal where it was asked and another token was written, else none. A log-probability is none where it
    was not computed.
    """

    ids: list[int] = field(default_factory=list)
    source: list[float | None] = field(default_factory=list)
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
        source: float | None,
        student_logprob: float | None,
        privileged_logprob: float | None,
        rejected: int | None = None,
    ) -> None:
        self.ids.append(token)
        self.source.append(source)
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
    def student_share(self) -> float:
        """Expected number of tokens known to be the student's."""
        return sum(source or 0.0 for source in self.source)
