"""eval.json: verdicts counted per problem, pass@k per group with intervals, and all it takes to repeat the run."""

from __future__ import annotations

import datetime as dt
import platform
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from pydantic import Field

from dail.synth.core.config import Frozen, fingerprint
from dail.synth.method.grading import BY_BOX, CUT_IN_THOUGHT, TIMEOUT
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.completions import Subject
from dail.train.evals.config import EvalConfig
from dail.train.evals.passk import bootstrap, ks, pass_at_k
from dail.train.evals.problems import EvalProblem
from dail.train.evals.run import Judged
from dail.train.gate import GateRecord
from dail.train.record import Provenance

ALL = "all problems"

_PACKAGES = ("dail", "math-verify", "transformers", "torch", "numpy")


class Judgement(Frozen):
    """One completion's `Verdict`; its text is in samples.jsonl under the same subject, problem and sample."""

    sample: int
    correct: bool
    method: str
    extracted: str | None
    num_tokens: int
    finish_reason: str


class ProblemResult(Frozen):
    """`problem_digest`: of its text; none in an eval.json of an older build."""

    id: str
    problem_digest: str | None = None
    group: str | None
    answer: str
    num_correct: dict[Subject, int]
    judgements: dict[Subject, tuple[Judgement, ...]]


class PassAtK(Frozen):
    """A mean over a group's problems with its 95 % interval. Of a difference: adapter minus base, paired."""

    k: int
    mean: float
    low: float
    high: float


class GroupResult(Frozen):
    group: str
    num_problems: int
    passes: dict[Subject, tuple[PassAtK, ...]]
    difference: tuple[PassAtK, ...] = ()


class SubjectSummary(Frozen):
    """What a subject's completions were like, over all problems. An own grader looks for no box or thought: none."""

    num_completions: int
    num_correct: int
    mean_tokens: float
    num_cut: int
    num_without_box: int | None
    num_cut_in_thought: int | None = Field(description="the thought never ended, so there is no answer")
    num_given_up: int = Field(description="the grader took too long: nobody knows, and pass@k counts them as wrong")


class AdapterRef(Frozen):
    folder: str
    rank: int
    digest: str
    provenance: Provenance | None


class Evaluation(Frozen):
    format: Literal["dail.eval/2"] = "dail.eval/2"
    settings: EvalConfig
    model: ModelIdentity
    adapter: AdapterRef | None
    problems_file: str | None
    problems_digest: str
    engines: tuple[str, ...]
    versions: dict[str, str]
    started_at: dt.datetime
    finished_at: dt.datetime
    groups: tuple[GroupResult, ...]
    summary: dict[Subject, SubjectSummary]
    num_same_text: int | None = Field(description="completions of the adapter that equal base's at the same seed")
    problems: tuple[ProblemResult, ...]
    gate: GateRecord | None = Field(None, description="signs of a collapse; none without an adapter")

    @property
    def warning(self) -> str | None:
        """Why the figures may not be what they seem."""
        return " ".join(filter(None, (self._nothing_changed(), self._given_up(), self._collapsed()))) or None

    def _nothing_changed(self) -> str | None:
        """Base and adapter share their seeds, so an adapter that changes nothing at all was hardly applied."""
        if self.num_same_text is None or self.num_same_text < self.summary["adapter"].num_completions:
            return None
        return (
            f"All {self.num_same_text} completions of the adapter equal the base model's, word for word: it may not "
            "have been applied, or it changes nothing; do not read this as a comparison."
        )

    def _collapsed(self) -> str | None:
        """More than pass@k may have changed."""
        found = self.gate and self.gate.warning()
        return f"{found[0].upper()}{found[1:]}." if found else None

    def _given_up(self) -> str | None:
        """Nobody knows whether these are right."""
        found = {who: all_ for who, all_ in self.summary.items() if all_.num_given_up}
        if not found:
            return None
        counts = ", ".join(f"{all_.num_given_up} of {who}" for who, all_ in found.items())
        most = max(100 * all_.num_given_up / all_.num_completions for all_ in found.values())
        return (
            f"The grader gave up {counts} after {self.settings.grade_timeout_s:g} s each. They are counted as not "
            f"solved, so pass@1 may be up to {most:.1f} points too low, and a difference off by as much: raise "
            "eval.grade_timeout_s and rerun, which judges anew and draws nothing."
        )

    @property
    def subjects(self) -> list[Subject]:
        return list(self.summary)


def count(problems: Sequence[EvalProblem], judged: Sequence[Judged]) -> tuple[ProblemResult, ...]:
    by_problem: dict[str, dict[Subject, list[Judgement]]] = defaultdict(lambda: defaultdict(list))
    for one in judged:
        judgement = Judgement(
            sample=one.completion.sample,
            correct=one.verdict.correct,
            method=one.verdict.method,
            extracted=one.verdict.extracted,
            num_tokens=one.completion.num_tokens,
            finish_reason=one.completion.finish_reason,
        )
        by_problem[one.completion.problem_id][one.completion.subject].append(judgement)
    return tuple(
        ProblemResult(
            id=problem.id,
            problem_digest=fingerprint(problem.problem),
            group=problem.group,
            answer=problem.answer,
            num_correct={who: sum(j.correct for j in found) for who, found in by_problem[problem.id].items()},
            judgements={who: tuple(found) for who, found in by_problem[problem.id].items()},
        )
        for problem in problems
    )


def by_group(problems: Sequence[ProblemResult], seed: int) -> tuple[GroupResult, ...]:
    """All problems first, then each group in the order of the file; a group that holds all of them is not repeated."""
    names = list(dict.fromkeys(problem.group for problem in problems))
    groups = [_group(ALL, problems, seed)]
    if len(names) > 1:
        groups += [_group(name, [p for p in problems if p.group == name], seed) for name in names if name is not None]
    return tuple(groups)


def _group(name: str, problems: Sequence[ProblemResult], seed: int) -> GroupResult:
    passes: dict[Subject, list[PassAtK]] = defaultdict(list)
    difference: list[PassAtK] = []
    num_samples = min(len(found) for problem in problems for found in problem.judgements.values())
    for k in ks(num_samples):
        values = {
            who: [pass_at_k(len(p.judgements[who]), p.num_correct[who], k) for p in problems]
            for who in problems[0].judgements
        }
        for who, value in values.items():
            passes[who].append(_point(k, value, seed))
        if "adapter" in values:
            gains = [after - before for before, after in zip(values["base"], values["adapter"], strict=True)]
            difference.append(_point(k, gains, seed, least=-1.0))
    return GroupResult(
        group=name,
        num_problems=len(problems),
        passes={who: tuple(points) for who, points in passes.items()},
        difference=tuple(difference),
    )


def _point(k: int, values: Sequence[float], seed: int, least: float = 0.0) -> PassAtK:
    interval = bootstrap(values, seed, least)
    return PassAtK(k=k, mean=interval.mean, low=interval.low, high=interval.high)


def summarise(problems: Sequence[ProblemResult], grader: str) -> dict[Subject, SubjectSummary]:
    found: dict[Subject, list[Judgement]] = defaultdict(list)
    for problem in problems:
        for who, judgements in problem.judgements.items():
            found[who] += judgements
    return {
        who: SubjectSummary(
            num_completions=len(judgements),
            num_correct=sum(one.correct for one in judgements),
            mean_tokens=sum(one.num_tokens for one in judgements) / len(judgements),
            num_cut=sum(one.finish_reason == "length" for one in judgements),
            num_without_box=sum(one.method == "none" for one in judgements) if grader in BY_BOX else None,
            num_cut_in_thought=sum(one.method == CUT_IN_THOUGHT for one in judgements) if grader in BY_BOX else None,
            num_given_up=sum(one.method == TIMEOUT for one in judgements),
        )
        for who, judgements in found.items()
    }


def same_text(judged: Sequence[Judged]) -> int | None:
    """How many of the adapter's completions are base's, text for text; none without an adapter."""
    texts = {(c.subject, c.problem_id, c.sample): c.text for c in (one.completion for one in judged)}
    ours = [(problem, sample, text) for (who, problem, sample), text in texts.items() if who == "adapter"]
    return sum(texts["base", problem, sample] == text for problem, sample, text in ours) if ours else None


def versions() -> dict[str, str]:
    """Of what decides the numbers; the engine's own version is in `engines`."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
