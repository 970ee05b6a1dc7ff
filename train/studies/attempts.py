"""How many of k attempts of a model at each problem are right: by `dail eval`, or from an eval.json made before.

All k are drawn also where one is right at once: how hard a solved problem is, its correct attempts say.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dail.synth.core.config import fingerprint
from dail.synth.core.errors import InputError, InputFault, IntegrityError, UsageError, few
from dail.synth.core.files import replace_text
from dail.synth.method.grading import TIMEOUT
from dail.synth.schema.models import ModelIdentity, identify
from dail.train.evals.config import EvalConfig
from dail.train.evals.evaluation import EVALUATION_FILE, SAMPLES_FILE, evaluate
from dail.train.evals.problems import EvalProblem
from dail.train.evals.results import Evaluation, Judgement, ProblemResult
from dail.train.studies.pool import PoolProblem

_log = logging.getLogger(__name__)

_ASIDE = "samples-until-*.jsonl"  # where an evaluation puts completions that it has no use for


@dataclass(frozen=True)
class Attempts:
    """`num_correct`: by problem, of `num_attempts`. `given`: they were made before this run, elsewhere.

    `num_cut`: attempts that ended at a limit of tokens; `given_up`: problems with an attempt that the grader gave up.
    """

    num_correct: dict[str, int]
    num_attempts: int
    num_cut: int
    given_up: frozenset[str]
    model: ModelIdentity
    settings: dict[str, object]
    digest: str
    given: bool
    warning: str | None

    @property
    def num(self) -> int:
        return len(self.num_correct) * self.num_attempts


def asked(problems: Sequence[PoolProblem]) -> list[EvalProblem]:
    """The problems as an evaluation takes them. Raises InputError naming those that it does not."""
    found, refused = list[EvalProblem](), list[InputFault]()
    for problem in problems:
        messages = problem.row.problem
        text = messages if isinstance(messages, str) else [one.model_dump() for one in messages]
        try:
            found.append(EvalProblem.model_validate({"id": problem.id, "problem": text, "answer": problem.answer}))
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_input=False):
                refused.append(InputFault(problem.id, fault["type"], fault["msg"].removeprefix("Value error, ")))
    if refused:
        shown = few([f"{name}: {why}" for name, _, why in refused])
        raise InputError(
            f"{len(refused)} problems cannot be asked of the model: {shown}; leave them out of the pool, or set "
            "curate.attempts=0 and validation=0",
            refused,
        )
    return found


def attempt(problems: Sequence[PoolProblem], config: EvalConfig, folder: Path) -> Attempts:
    """Draws what was not drawn before into the folder, which then is that of an evaluation, with its report."""
    bring_back(folder)
    evaluation = evaluate(asked(problems), folder, config=config)
    results = {result.id: result for result in evaluation.problems}
    return _attempts(evaluation, results, config.samples, folder / EVALUATION_FILE, given=False)


@dataclass(frozen=True)
class Given:
    """Attempts that were made before: an evaluation and where it was read."""

    file: Path
    evaluation: Evaluation


def given_in(path: Path, model: Path | None) -> Given:
    """An eval.json, or that of a folder.

    Args:
        path: file or folder.
        model: whose attempts they must be; anybody's if none.

    Raises:
        UsageError: it cannot be read, or they are another model's.
        IntegrityError: it is no evaluation.
    """
    file = path / EVALUATION_FILE if path.is_dir() else path
    evaluation = _read(file)
    if model is not None and identify(model).identity() != evaluation.model.identity():
        raise UsageError(
            f"{file} has the attempts of {evaluation.model.name}, revision {evaluation.model.revision}, and --model is "
            f"{model}, another one; leave --model out, or draw attempts of its own without --attempts"
        )
    return Given(file, evaluation)


def read_attempts(given: Given, problems: Sequence[PoolProblem], num_attempts: int) -> Attempts:
    """The first attempts of each problem.

    Args:
        given: where they are.
        problems: found in it by their text, whatever their ids there.
        num_attempts: of each.

    Raises:
        UsageError: they are too few, or problems are not in it or have another answer there.
    """
    file, evaluation = given.file, given.evaluation
    by_text: dict[str | None, ProblemResult] = {one.problem_digest: one for one in evaluation.problems}
    found = {ask.id: by_text.get(fingerprint(ask.problem)) for ask in asked(problems)}
    missing = [name for name, result in found.items() if result is None]
    if missing:
        raise UsageError(
            f"{file} has no attempts at {len(missing)} of {len(problems)} problems ({few(missing)}), which it finds by "
            "their text; leave --attempts out, and they are drawn"
        )
    results = {name: result for name, result in found.items() if result is not None}
    others = [problem.id for problem in problems if results[problem.id].answer != problem.answer]
    if others:
        raise UsageError(
            f"{file} has judged by another answer: {few(others)}; mend the answer there or here, and rerun "
            "`dail eval`, which judges anew and draws nothing"
        )
    return _attempts(evaluation, results, num_attempts, file, given=True)


def _read(file: Path) -> Evaluation:
    try:
        return Evaluation.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(
            f"--attempts {file} cannot be read: {error.strerror}; give the eval.json of `dail eval`"
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "/".join(map(str, first["loc"]))
        raise IntegrityError(
            f"--attempts {file} is no evaluation that this version reads ({where}: {first['msg']}); rerun `dail eval` "
            "in its folder, which draws nothing anew"
        ) from None


def _arm(evaluation: Evaluation, file: Path) -> str:
    """The name under which the base model was judged."""
    base = evaluation.subjects[0].name
    arms = [arm.name for arm in evaluation.arms if arm.subject == base]
    if len(arms) > 1:
        raise UsageError(
            f"{file} has attempts of {base} at several temperatures or budgets ({few(arms)}), and one is wanted; set "
            "eval.temperature and at most one of eval.budgets"
        )
    return arms[0]


def _first(result: ProblemResult, arm: str, num_attempts: int, file: Path) -> list[Judgement]:
    """The first attempts, whatever their number: the others were not asked for."""
    judged = sorted(result.judgements.get(arm, ()), key=lambda one: one.sample)
    if len(judged) < num_attempts:
        raise UsageError(
            f"{file} has {len(judged)} attempts of {arm} at {result.id}, and curate.attempts={num_attempts} are "
            f"wanted; set curate.attempts={len(judged)}, or draw more with `dail eval --samples {num_attempts}`"
        )
    return judged[:num_attempts]


def _attempts(
    evaluation: Evaluation, results: Mapping[str, ProblemResult], num_attempts: int, file: Path, given: bool
) -> Attempts:
    arm = _arm(evaluation, file)
    judged = {name: _first(result, arm, num_attempts, file) for name, result in results.items()}
    counts = {name: sum(one.correct for one in of_it) for name, of_it in judged.items()}
    return Attempts(
        num_correct=counts,
        num_attempts=num_attempts,
        num_cut=sum(one.finish_reason == "length" for of_it in judged.values() for one in of_it),
        given_up=frozenset(name for name, of_it in judged.items() if any(one.method == TIMEOUT for one in of_it)),
        model=evaluation.model,
        settings=evaluation.settings.model_dump(mode="json", exclude={"samples", "gate"}),
        digest=fingerprint(sorted(counts.items())),
        given=given,
        warning=evaluation.warning,
    )


def bring_back(folder: Path) -> None:
    """Puts completions that an evaluation of other problems set aside beside the others again, so that none is redrawn.

    A crash in between leaves a completion in both places, which the next call mends.
    """
    aside = sorted(folder.glob(_ASIDE))
    if not aside:
        return
    lines: dict[str, None] = {}
    for file in [*aside, folder / SAMPLES_FILE]:  # of two lines with one key the later counts
        if file.is_file():
            lines.update(
                dict.fromkeys(line for line in file.read_text("utf-8", errors="replace").split("\n") if _is_whole(line))
            )
    text = "".join(line + "\n" for line in lines)
    replace_text(folder / SAMPLES_FILE, text)
    for file in aside:
        file.unlink()
    _log.info(f"{len(lines)} completions of earlier runs are at hand again")


def _is_whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False  # which a crash tore
