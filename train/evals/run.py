"""Problems → completions of every arm → verdicts.

A model and its adapters are sampled in one engine, an adapter as a per-request LoRA, with the same seeds, so nothing
else differs. They are never in it at once: vLLM's CPU kernels (0.32) read "no adapter" as slot -1, the last one, so a
base row in a step with an adapter's row is decoded with the adapter. Another model has its engine behind that one's.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from dail.synth.config import EngineConfig
from dail.synth.core.config import canonical
from dail.synth.core.errors import ItemError, UsageError
from dail.synth.core.progress import progress
from dail.synth.engine.admission import Admission
from dail.synth.engine.base import Engine, Limits, Sampled, SequenceKey, TokenSequence
from dail.synth.engine.start import start_engine
from dail.synth.method.grading import Grader, Verdict
from dail.synth.method.prompts import Prompts
from dail.train.evals.arms import Arm
from dail.train.evals.completions import Completion, SampleFile, completion_key
from dail.train.evals.config import EvalConfig
from dail.train.evals.problems import EvalProblem

_log = logging.getLogger(__name__)

MakeEngine = Callable[[EngineConfig, int | None], Engine]


@dataclass(frozen=True)
class Judged:
    """A completion and whether it is right."""

    completion: Completion
    verdict: Verdict


@dataclass(frozen=True)
class _Draw:
    """One completion to draw."""

    key: str
    arm: Arm
    problem: EvalProblem
    sample: int


def evaluate(
    config: EvalConfig,
    problems: list[EvalProblem],
    arms: Sequence[Arm],
    samples_path: Path,
    make_engine: MakeEngine | None = None,
) -> list[Judged]:
    """Draws what samples.jsonl does not hold yet and judges everything, in the order of arms, problems and samples.

    A grader that cannot be loaded is refused before anything is drawn.
    """
    draws, prompts = _draws(config, problems, arms), {one: Prompts(one) for one in _models(arms)}
    with (
        Grader(config.grade_timeout_s, config.grader) as grader,
        SampleFile(samples_path, {draw.key: draw.arm.name for draw in draws}) as file,
    ):
        if missing := [draw for draw in draws if draw.key not in file.kept]:
            _sample(config, missing, file, prompts, make_engine or start_engine)
        in_thought = {model: of_it.is_in_thought(config) for model, of_it in prompts.items()}
        answered = [(file.kept[draw.key], draw.problem.answer, in_thought[draw.arm.subject.folder]) for draw in draws]
        return _judge(grader, answered)


def _models(arms: Iterable[Arm]) -> list[Path]:
    return list(dict.fromkeys(arm.subject.folder for arm in arms))


def _draws(config: EvalConfig, problems: list[EvalProblem], arms: Sequence[Arm]) -> list[_Draw]:
    """By problem within each arm, so that the completions of one prompt run together and share its prefix."""
    if any(arm.budget is not None for arm in arms):
        raise UsageError("eval.budgets is set, and nothing forces a thought to end yet; leave it out")
    return [
        _Draw(completion_key(config, arm, problem, sample), arm, problem, sample)
        for arm in arms
        for problem in problems
        for sample in range(config.samples)
    ]


def _sample(
    config: EvalConfig,
    draws: list[_Draw],
    file: SampleFile,
    prompts: dict[Path, Prompts],
    make_engine: MakeEngine,
) -> None:
    num_tokens, num_done, started = 0, 0, time.monotonic()
    by_key = {draw.key: draw for draw in draws}
    with progress("sampling", len(draws)) as bar:
        for model in _models(draw.arm for draw in draws):
            of_model = [draw for draw in draws if draw.arm.subject.folder == model]
            for sampled, engine in _sampled(config, of_model, prompts[model], make_engine):
                file.add(_completion(by_key[sampled.key.unit_id], sampled, prompts[model], engine, config.date))
                num_tokens, num_done = num_tokens + len(sampled.tokens), num_done + 1
                bar.update(num_done, tokens_per_s=num_tokens / (time.monotonic() - started))


def _sampled(
    config: EvalConfig, draws: list[_Draw], prompts: Prompts, make_engine: MakeEngine
) -> Iterator[tuple[Sampled, str]]:
    """The draws of one model, each with the name of its engine."""
    problems = {draw.problem.id: draw.problem.problem for draw in draws}
    prompt_ids = {name: prompts.student_ids(problem, config, config.prompts) for name, problem in problems.items()}
    ranks = [draw.arm.subject.adapter.rank for draw in draws if draw.arm.subject.adapter]
    model = draws[0].arm.subject.folder
    _log.info(f"starting the engine of {model.name}")
    engine = make_engine(config.engine.model_copy(update={"model": model}), max(ranks, default=None))
    try:
        sequences = [_sequence(config, draw, prompt_ids[draw.problem.id], prompts, engine.limits) for draw in draws]
        # one drive after the other: the engine is empty in between
        for _, alike in groupby(sequences, key=lambda sequence: sequence.adapter):
            for sampled in drive(engine, alike):
                yield sampled, engine.name
    finally:
        engine.close()


def drive(engine: Engine, sequences: Iterable[TokenSequence]) -> Iterator[Sampled]:
    """Steps the engine until every sequence has ended.

    They enter as the rollouts' admission lets them. A prompt that vLLM prefilled in two steps would end a seeded run on
    the CPU: it winds the sequence's generator back, which torch has for CUDA only.
    """
    admission = Admission(engine.limits)
    waiting = deque(sequences)
    num_inside = 0
    while waiting or num_inside:
        admission.begin_step()
        while waiting and admission.take(waiting[0].key, [len(waiting[0].prompt_ids)], waiting[0].max_tokens):
            engine.add(waiting.popleft())
            num_inside += 1
        for sampled in engine.step():
            num_inside -= 1
            admission.release(sampled.key)
            yield sampled


def _sequence(
    config: EvalConfig, draw: _Draw, prompt_ids: list[int], prompts: Prompts, limits: Limits
) -> TokenSequence:
    adapter = draw.arm.subject.adapter
    try:
        room = Admission(limits).check([len(prompt_ids)])
    except ItemError as error:
        raise UsageError(f"problem {draw.problem.id}: {error}") from None
    wanted = config.max_tokens or room
    if room < wanted:
        raise UsageError(
            f"problem {draw.problem.id}: its prompt has {len(prompt_ids)} tokens, which leaves {room} of the engine's "
            f"for the completion, wanted {wanted}; lower --max-tokens or raise engine.model_tokens"
        )
    return TokenSequence(
        key=SequenceKey(draw.key),
        prompt_ids=prompt_ids,
        max_tokens=wanted,
        temperature=draw.arm.temperature,
        seed=_seed(config.seed, draw),
        stop_ids=prompts.stop_ids,
        adapter=str(adapter.folder) if adapter else None,
    )


def _seed(seed: int, draw: _Draw) -> int:
    """The same for every arm."""
    return int.from_bytes(hashlib.sha256(canonical([seed, draw.problem.id, draw.sample])).digest()[:8]) >> 1


def _completion(draw: _Draw, sampled: Sampled, prompts: Prompts, engine: str, date: dt.date | None) -> Completion:
    assert sampled.reason in ("stop", "length"), f"{draw.key} was never one of a pair"
    return Completion(
        key=draw.key,
        arm=draw.arm.name,
        problem_id=draw.problem.id,
        sample=draw.sample,
        text=prompts.text(sampled.tokens.ids),
        num_tokens=len(sampled.tokens),
        finish_reason=sampled.reason,
        engine=engine,
        date=date,
    )


def _judge(grader: Grader, completions: list[tuple[Completion, str, bool]]) -> list[Judged]:
    judged: list[Judged] = []
    num_correct = 0
    with progress("judging", len(completions)) as bar:
        for completion, answer, in_thought in completions:
            judged.append(Judged(completion, _verdict(grader, completion, answer, in_thought)))
            num_correct += judged[-1].verdict.correct
            bar.update(len(judged), correct=num_correct)
    return judged


def _verdict(grader: Grader, completion: Completion, answer: str, in_thought: bool) -> Verdict:
    try:
        return grader.grade(completion.text, answer, in_thought)
    except UsageError as error:
        where = f"problem {completion.problem_id}, sample {completion.sample} of {completion.arm}"
        raise UsageError(f"{where}: {error}; the completions are kept") from None
