"""eval.json: verdicts counted per problem, pass@k per group with intervals, and all it takes to repeat the run."""

from __future__ import annotations

import datetime as dt
import platform
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from pydantic import Field, JsonValue

from dail.synth.core.config import Frozen, fingerprint
from dail.synth.method.grading import BY_BOX, CUT_IN_THOUGHT, TIMEOUT
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.arms import ADAPTER, BASE, Arm, Subject
from dail.train.evals.config import EvalConfig
from dail.train.evals.contamination import Contamination
from dail.train.evals.marks import Spans
from dail.train.evals.passk import bootstrap, ks, pass_at_k
from dail.train.evals.problems import ALL as ALL
from dail.train.evals.problems import EvalProblem, SourceRef
from dail.train.evals.run import Judged
from dail.train.gate import GateRecord
from dail.train.record import Provenance

EVALUATION_FILE = "eval.json"
_FEW_ARMS, _MOST_SHOWN = 4, 6

_PACKAGES = ("dail", "math-verify", "transformers", "torch", "numpy")


class Judgement(Frozen):
    """One completion's `Verdict`; its text is in samples.jsonl under the same arm, problem and sample."""

    sample: int
    correct: bool
    method: str
    extracted: str | None
    num_tokens: int
    finish_reason: str
    forced: bool = False
    num_marks: int | None = Field(None, description="shortcuts that eval.marks found")


class ProblemResult(Frozen):
    """`problem_digest`: of its text; none in an eval.json of an older build."""

    id: str
    problem_digest: str | None = None
    group: str | None
    answer: str
    num_correct: dict[str, int]
    judgements: dict[str, tuple[Judgement, ...]]


class PassAtK(Frozen):
    """A mean over a group's problems with its 95 % interval. Of a difference: an arm minus the
    one it is held against, paired."""

    k: int
    mean: float
    low: float
    high: float


class Estimate(Frozen):
    """A mean over a group's problems with its 95 % interval."""

    mean: float
    low: float
    high: float


class ArmSummary(Frozen):
    """What an arm's completions were like. An own grader looks for no box or thought: none."""

    num_completions: int
    num_correct: int
    mean_tokens: float
    num_cut: int
    cut_share: float = Field(description="of the completions that ended at a limit of tokens")
    num_forced: int = Field(description="the thought was ended at the arm's budget")
    forced_share: float
    num_without_box: int | None
    num_cut_in_thought: int | None = Field(description="the thought never ended, so there is no answer")
    num_marked: int | None = Field(None, description="with a shortcut that eval.marks found; none if nobody looked")
    mean_marks: float | None = Field(None, description="shortcuts a completion")
    num_given_up: int = Field(description="the grader took too long: nobody knows, and pass@k counts them as wrong")


class GroupResult(Frozen):
    """A group's figures by arm; `difference` of those that are held against another.

    `is_trained_on`: all of its problems were trained on, so that it says what was learnt and not what carries over.
    """

    group: str
    num_problems: int
    passes: dict[str, tuple[PassAtK, ...]]
    difference: dict[str, tuple[PassAtK, ...]] = Field(default_factory=dict)
    summary: dict[str, ArmSummary]
    marked: dict[str, Estimate] = Field(
        default_factory=dict, description="share of completions with a shortcut; empty if nobody looked"
    )
    marked_difference: dict[str, Estimate] = Field(default_factory=dict)
    is_trained_on: bool = False


class AdapterRef(Frozen):
    folder: str
    rank: int
    digest: str
    provenance: Provenance | None


class SubjectRef(Frozen):
    """A model, or an adapter on the first one."""

    name: str
    model: ModelIdentity
    adapter: AdapterRef | None = None

    @classmethod
    def of(cls, subject: Subject) -> SubjectRef:
        adapter = subject.adapter and AdapterRef(
            folder=str(subject.adapter.folder),
            rank=subject.adapter.rank,
            digest=subject.adapter.digest,
            provenance=subject.adapter.provenance,
        )
        return cls(name=subject.name, model=subject.model, adapter=adapter)


class ArmRef(Frozen):
    """A subject at one temperature and one budget, and the arm that it is held against."""

    name: str
    subject: str
    temperature: float
    budget: int | None = None
    against: str | None = None

    @classmethod
    def of(cls, arm: Arm) -> ArmRef:
        return cls(
            name=arm.name,
            subject=arm.subject.name,
            temperature=arm.temperature,
            budget=arm.budget,
            against=arm.against,
        )


class Evaluation(Frozen):
    format: Literal["dail.eval/3"] = "dail.eval/3"
    settings: EvalConfig
    departs: dict[str, tuple[JsonValue, JsonValue]] = Field(
        default_factory=dict, description="settings that are not those of eval.protocol: what it says, and what is set"
    )
    subjects: tuple[SubjectRef, ...] = Field(min_length=1, description="the first is the base of all comparisons")
    arms: tuple[ArmRef, ...] = Field(min_length=1)
    problems_file: str | None
    problems_digest: str
    sources: tuple[SourceRef, ...] = Field((), description="files and sets of the problems; none of objects")
    engines: tuple[str, ...]
    versions: dict[str, str]
    started_at: dt.datetime
    finished_at: dt.datetime
    groups: tuple[GroupResult, ...]
    summary: dict[str, ArmSummary]
    num_same_text: dict[str, int] = Field(
        description="completions that equal those of the arm it is held against, at the same seed"
    )
    problems: tuple[ProblemResult, ...]
    gate: dict[str, GateRecord] = Field(
        default_factory=dict, description="signs of a collapse, of each arm that is held against another"
    )
    contamination: Contamination | None = Field(None, description="none if no subject's training set is known of")
    without: tuple[GroupResult, ...] = Field(
        (), description="groups of which some problems were trained on, without these"
    )

    @property
    def model(self) -> ModelIdentity:
        """Of the base that all others are held against."""
        return self.subjects[0].model

    @property
    def main_arms(self) -> list[ArmRef]:
        """One of each subject: at the first temperature, and the largest budget."""
        budget = max((arm.budget for arm in self.arms if arm.budget is not None), default=None)
        return [arm for arm in self.arms if arm.temperature == self.arms[0].temperature and arm.budget == budget]

    @property
    def shown_arms(self) -> list[ArmRef]:
        """Those of which single problems and completions can be shown: all if they are few."""
        return list(self.arms) if len(self.arms) <= _FEW_ARMS else self.main_arms[:_MOST_SHOWN]

    def subject_of(self, arm: ArmRef) -> SubjectRef:
        return next(one for one in self.subjects if one.name == arm.subject)

    @property
    def warning(self) -> str | None:
        """Why the figures may not be what they seem."""
        found = [sentence for arm in self.arms for sentence in (self._nothing_changed(arm), self._collapsed(arm))]
        noted = [f"{one.file}: {note}." for one in self.sources for note in one.notes]
        return " ".join(filter(None, (self._given_up(), *found, *noted, self._trained_on()))) or None

    def _trained_on(self) -> str | None:
        """Such figures say what was learnt, not what carries over."""
        found = self.contamination
        if found is None or not found.problem_ids:
            return None
        return (
            f"{len(found.problem_ids)} of {found.num_problems} problems were trained on, as far as wording tells; "
            "contamination in eval.json names them."
        )

    def _nothing_changed(self, arm: ArmRef) -> str | None:
        """Arms share their seeds, so an adapter that changes nothing at all was hardly applied."""
        if self.num_same_text.get(arm.name, 0) < self.summary[arm.name].num_completions:
            return None
        those = "the base model's" if arm.against == BASE else f"those of {arm.against}"
        return (
            f"All {self.num_same_text[arm.name]} completions of {_the(arm.name)} equal {those}, word for word: it "
            "may not have been applied, or it changes nothing; do not read this as a comparison."
        )

    def _collapsed(self, arm: ArmRef) -> str | None:
        """More than pass@k may have changed."""
        found = self.gate[arm.name].warning() if arm.name in self.gate else None
        if not found:
            return None
        return f"{found[0].upper()}{found[1:]}." if len(self.gate) == 1 else f"{arm.name}: {found}."

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


def _the(name: str) -> str:
    return f"the {name}" if name == ADAPTER else name


def count(
    problems: Sequence[EvalProblem], judged: Sequence[Judged], marks: Spans | None = None
) -> tuple[ProblemResult, ...]:
    by_problem: dict[str, dict[str, list[Judgement]]] = defaultdict(lambda: defaultdict(list))
    for one in judged:
        judgement = Judgement(
            sample=one.completion.sample,
            correct=one.verdict.correct,
            method=one.verdict.method,
            extracted=one.verdict.extracted,
            num_tokens=one.completion.num_tokens,
            finish_reason=one.completion.finish_reason,
            forced=one.completion.forced,
            num_marks=len(marks[one.completion.key]) if marks is not None else None,
        )
        by_problem[one.completion.problem_id][one.completion.arm].append(judgement)
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


def by_group(
    problems: Sequence[ProblemResult],
    arms: Sequence[ArmRef],
    config: EvalConfig,
    trained_on: Collection[str] = (),
) -> tuple[GroupResult, ...]:
    """All problems first, then each group in the order of the file; a group that holds all of them is not repeated.

    Args:
        trained_on: ids of the problems that somebody was trained on.
    """
    return tuple(
        _group(name, some, arms, config, all(problem.id in trained_on for problem in some))
        for name, some in _members(problems).items()
    )


def without(
    problems: Sequence[ProblemResult], arms: Sequence[ArmRef], config: EvalConfig, trained_on: Collection[str]
) -> tuple[GroupResult, ...]:
    """The groups of which some problems, but not all, were trained on, without these (paper Fig. 14)."""
    found: list[GroupResult] = []
    for name, some in _members(problems).items():
        others = [one for one in some if one.id not in trained_on]
        if 0 < len(others) < len(some):
            found.append(_group(name, others, arms, config, is_trained_on=False))
    return tuple(found)


def _members(problems: Sequence[ProblemResult]) -> dict[str, list[ProblemResult]]:
    by_name: dict[str | None, list[ProblemResult]] = defaultdict(list)
    for problem in problems:
        by_name[problem.group].append(problem)
    named = {name: some for name, some in by_name.items() if name is not None} if len(by_name) > 1 else {}
    return {ALL: list(problems), **named}


def _group(
    name: str, problems: Sequence[ProblemResult], arms: Sequence[ArmRef], config: EvalConfig, is_trained_on: bool
) -> GroupResult:
    passes: dict[str, list[PassAtK]] = defaultdict(list)
    difference: dict[str, list[PassAtK]] = defaultdict(list)
    num_samples = min(len(found) for problem in problems for found in problem.judgements.values())
    for k in ks(num_samples):
        values = {
            arm.name: [pass_at_k(len(p.judgements[arm.name]), p.num_correct[arm.name], k) for p in problems]
            for arm in arms
        }
        for arm in arms:
            passes[arm.name].append(_point(k, values[arm.name], config.seed))
            if arm.against is not None:
                pairs = zip(values[arm.against], values[arm.name], strict=True)
                gains = [after - before for before, after in pairs]
                difference[arm.name].append(_point(k, gains, config.seed, least=-1.0))
    return GroupResult(
        group=name,
        num_problems=len(problems),
        passes={who: tuple(points) for who, points in passes.items()},
        difference={who: tuple(points) for who, points in difference.items()},
        summary=summarise(problems, config.grader),
        is_trained_on=is_trained_on,
        **_marked(problems, arms, config.seed),
    )


def _marked(problems: Sequence[ProblemResult], arms: Sequence[ArmRef], seed: int) -> dict[str, dict[str, Estimate]]:
    """Of each arm the share of completions with a shortcut, and how much that is more than what it is held against."""
    if any(one.num_marks is None for problem in problems for found in problem.judgements.values() for one in found):
        return {}
    shares = {arm.name: [_marked_share(problem.judgements[arm.name]) for problem in problems] for arm in arms}
    rises = {
        arm.name: [after - before for before, after in zip(shares[arm.against], shares[arm.name], strict=True)]
        for arm in arms
        if arm.against is not None
    }
    return {
        "marked": {who: _estimate(share, seed, 0.0) for who, share in shares.items()},
        "marked_difference": {who: _estimate(rise, seed, -1.0) for who, rise in rises.items()},
    }


def _marked_share(judgements: Sequence[Judgement]) -> float:
    return sum(bool(one.num_marks) for one in judgements) / len(judgements)


def _estimate(values: Sequence[float], seed: int, least: float) -> Estimate:
    return Estimate(**asdict(bootstrap(values, seed, least)))


def _point(k: int, values: Sequence[float], seed: int, least: float = 0.0) -> PassAtK:
    return PassAtK(k=k, **asdict(bootstrap(values, seed, least)))


def summarise(problems: Sequence[ProblemResult], grader: str) -> dict[str, ArmSummary]:
    found: dict[str, list[Judgement]] = defaultdict(list)
    for problem in problems:
        for who, judgements in problem.judgements.items():
            found[who] += judgements
    return {who: _summary(judgements, grader in BY_BOX) for who, judgements in found.items()}


def _summary(judgements: Sequence[Judgement], is_by_box: bool) -> ArmSummary:
    num = len(judgements)
    num_cut, num_forced = (
        sum(one.finish_reason == "length" for one in judgements),
        sum(one.forced for one in judgements),
    )
    methods = Counter(one.method for one in judgements)
    marks = [one.num_marks for one in judgements if one.num_marks is not None]
    return ArmSummary(
        num_completions=num,
        num_correct=sum(one.correct for one in judgements),
        mean_tokens=sum(one.num_tokens for one in judgements) / num,
        num_cut=num_cut,
        cut_share=num_cut / num,
        num_forced=num_forced,
        forced_share=num_forced / num,
        num_without_box=methods["none"] if is_by_box else None,
        num_cut_in_thought=methods[CUT_IN_THOUGHT] if is_by_box else None,
        num_marked=sum(map(bool, marks)) if marks else None,
        mean_marks=sum(marks) / num if marks else None,
        num_given_up=methods[TIMEOUT],
    )


def same_text(judged: Sequence[Judged], arms: Sequence[Arm]) -> dict[str, int]:
    """How many completions of each arm are those of the arm it is held against, text for text."""
    texts = {(c.arm, c.problem_id, c.sample): c.text for c in (one.completion for one in judged)}
    against = {arm.name: arm.against for arm in arms if arm.against is not None}
    counts = dict.fromkeys(against, 0)
    for (who, problem, sample), text in texts.items():
        if who in against:
            counts[who] += texts[against[who], problem, sample] == text
    return counts


def versions() -> dict[str, str]:
    """Of what decides the numbers; the engine's own version is in `engines`."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
