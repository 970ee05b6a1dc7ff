"""Problems → completions of every arm → verdicts.

    EvalProblem ─▶ Work ─▶ Completer, here or in a pool's actors ─▶ Completion ─▶ Grader ─▶ Judged
                   work.py  drawing.py, completer.py                samples.jsonl

A model and its adapters are sampled in one engine, an adapter as a per-request LoRA, with the same seeds, so nothing
else differs. Another model has its engine behind that one's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dail.synth.core.errors import UsageError
from dail.synth.core.progress import progress
from dail.synth.engine.start import start_engine
from dail.synth.method.grading import Grader, Verdict
from dail.synth.method.prompts import Prompts
from dail.train.evals.arms import Arm
from dail.train.evals.completer import MakeEngine as MakeEngine
from dail.train.evals.completions import Beginning, Completion, SampleFile, Wanted
from dail.train.evals.config import EvalConfig
from dail.train.evals.drawing import draw
from dail.train.evals.problems import EvalProblem
from dail.train.evals.protocols import check_thinking, told
from dail.train.evals.work import Work

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """A completion and whether it is right."""

    completion: Completion
    verdict: Verdict


def evaluate(
    config: EvalConfig,
    problems: list[EvalProblem],
    arms: Sequence[Arm],
    samples_path: Path,
    make_engine: MakeEngine | None = None,
) -> list[Judged]:
    """Draws what samples.jsonl does not hold yet and judges everything, in the order of arms, problems and samples.

    What the settings ask of a model that it cannot do, and a grader that cannot be loaded, are refused before anything
    is drawn.
    """
    prompts = {folder: Prompts(folder) for folder in dict.fromkeys(arm.subject.folder for arm in arms)}
    if config.protocol:
        _check_protocol(config, prompts)
    works = [
        Work(config, problems, [arm for arm in arms if arm.subject.folder == folder], of_it)
        for folder, of_it in prompts.items()
    ]

    def want(begun: Mapping[str, Beginning]) -> Wanted:
        found = [work.wanted(begun) for work in works]
        names = {key: name for one in found for key, name in one.completions.items()}
        return Wanted(names, {key for one in found for key in one.beginnings})

    with (
        Grader(config.grade_timeout_s, config.grader) as grader,
        SampleFile(samples_path, want, sum(work.num_completions for work in works)) as file,
    ):
        for work in works:
            work.open(file)
        draw(config, works, make_engine or start_engine)
        found = {place: completion for work in works for place, completion in work.completions()}
        in_thought = {folder: of_it.is_in_thought(config) for folder, of_it in prompts.items()}
        return _judge(
            grader,
            [
                (found[arm.name, problem.id, sample], problem, in_thought[arm.subject.folder])
                for arm in arms
                for problem in problems
                for sample in range(config.samples)
            ],
        )


def _check_protocol(config: EvalConfig, prompts: Mapping[Path, Prompts]) -> None:
    """Says which protocol this is. Raises UsageError: nobody says whether its budgets are meant."""
    assert config.protocol, "there is a protocol to check"
    for folder, of_it in prompts.items():
        try:
            check_thinking(
                config.protocol,
                thinks=bool(config.budgets),
                is_told=config.thinking is not None,
                has_switch=of_it.has_thinking_switch,
                opens_thought=of_it.is_in_thought(config),
            )
        except UsageError as error:
            raise UsageError(f"model {folder.name}: {error}") from None
    _log.info(told(config.protocol, config))


def _judge(grader: Grader, completions: list[tuple[Completion, EvalProblem, bool]]) -> list[Judged]:
    judged: list[Judged] = []
    num_correct = 0
    with progress("judging", len(completions)) as bar:
        for completion, problem, in_thought in completions:
            judged.append(Judged(completion, _verdict(grader, completion, problem, in_thought)))
            num_correct += judged[-1].verdict.correct
            bar.update(len(judged), correct=num_correct)
    return judged


def _verdict(grader: Grader, completion: Completion, problem: EvalProblem, in_thought: bool) -> Verdict:
    try:
        return grader.grade(completion.text, problem.answer, in_thought, problem.choices)
    except UsageError as error:
        where = f"problem {completion.problem_id}, sample {completion.sample} of {completion.arm}"
        raise UsageError(f"{where}: {error}; the completions are kept") from None
