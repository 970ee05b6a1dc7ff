"""Problems → completions of the base model and of the adapter → verdicts.

Both are sampled in one engine, the adapter as a per-request LoRA, with the same seeds, so nothing else differs. They
are never in it at once: vLLM's CPU kernels (0.32) read "no adapter" as slot -1, the last one, so a base row in a step
with an adapter's row is decoded with the adapter.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
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
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.completions import Completion, SampleFile, Subject, completion_key
from dail.train.evals.config import EvalConfig
from dail.train.evals.lineage import Adapter
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
    subject: Subject
    problem: EvalProblem
    sample: int


def evaluate(
    config: EvalConfig,
    problems: list[EvalProblem],
    model: ModelIdentity,
    adapter: Adapter | None,
    samples_path: Path,
    make_engine: MakeEngine | None = None,
) -> list[Judged]:
    """Draws what samples.jsonl does not hold yet and judges everything: first all of base, then all of the adapter.

    A grader that cannot be loaded is refused before anything is drawn.
    """
    draws, prompts = _draws(config, problems, model, adapter), Prompts(config.engine.model)
    with (
        Grader(config.grade_timeout_s, config.grader) as grader,
        SampleFile(samples_path, {draw.key for draw in draws}) as file,
    ):
        missing = [draw for draw in draws if draw.key not in file.kept]
        if missing:
            _sample(config, missing, adapter, file, prompts, make_engine or start_engine)
        answered = [(file.kept[draw.key], draw.problem.answer) for draw in draws]
        return _judge(grader, answered, prompts.is_in_thought(config))


def _draws(
    config: EvalConfig, problems: list[EvalProblem], model: ModelIdentity, adapter: Adapter | None
) -> list[_Draw]:
    """By problem within each subject, so that the completions of one prompt run together and share its prefix."""
    subjects: list[tuple[Subject, str | None]] = [("base", None)]
    if adapter is not None:
        subjects.append(("adapter", adapter.digest))
    return [
        _Draw(completion_key(config, model, digest, problem, sample), subject, problem, sample)
        for subject, digest in subjects
        for problem in problems
        for sample in range(config.samples)
    ]


def _sample(
    config: EvalConfig,
    draws: list[_Draw],
    adapter: Adapter | None,
    file: SampleFile,
    prompts: Prompts,
    make_engine: MakeEngine,
) -> None:
    problems = {draw.problem.id: draw.problem.problem for draw in draws}
    prompt_ids = {name: prompts.student_ids(problem, config, config.prompts) for name, problem in problems.items()}
    by_key = {draw.key: draw for draw in draws}
    _log.info("starting the engine")
    engine = make_engine(config.engine, adapter.rank if adapter else None)
    try:
        sequences = [
            _sequence(config, draw, prompt_ids[draw.problem.id], prompts, adapter, engine.limits) for draw in draws
        ]
        # one drive after the other: the engine is empty in between
        apart = chain.from_iterable(
            drive(engine, alike) for _, alike in groupby(sequences, key=lambda sequence: sequence.adapter)
        )
        num_tokens, started = 0, time.monotonic()
        with progress("sampling", len(sequences)) as bar:
            for done, sampled in enumerate(apart, 1):
                file.add(_completion(by_key[sampled.key.unit_id], sampled, prompts, engine.name, config.date))
                num_tokens += len(sampled.tokens)
                bar.update(done, tokens_per_s=num_tokens / (time.monotonic() - started))
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
    config: EvalConfig, draw: _Draw, prompt_ids: list[int], prompts: Prompts, adapter: Adapter | None, limits: Limits
) -> TokenSequence:
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
        temperature=config.temperature,
        seed=_seed(config.seed, draw),
        stop_ids=prompts.stop_ids,
        adapter=str(adapter.folder) if adapter and draw.subject == "adapter" else None,
    )


def _seed(seed: int, draw: _Draw) -> int:
    """The same for base and adapter."""
    return int.from_bytes(hashlib.sha256(canonical([seed, draw.problem.id, draw.sample])).digest()[:8]) >> 1


def _completion(draw: _Draw, sampled: Sampled, prompts: Prompts, engine: str, date: dt.date | None) -> Completion:
    assert sampled.reason in ("stop", "length"), f"{draw.key} was never one of a pair"
    return Completion(
        key=draw.key,
        subject=draw.subject,
        problem_id=draw.problem.id,
        sample=draw.sample,
        text=prompts.text(sampled.tokens.ids),
        num_tokens=len(sampled.tokens),
        finish_reason=sampled.reason,
        engine=engine,
        date=date,
    )


def _judge(grader: Grader, completions: list[tuple[Completion, str]], in_thought: bool) -> list[Judged]:
    judged: list[Judged] = []
    num_correct = 0
    with progress("judging", len(completions)) as bar:
        for completion, answer in completions:
            judged.append(Judged(completion, _verdict(grader, completion, answer, in_thought)))
            num_correct += judged[-1].verdict.correct
            bar.update(len(judged), correct=num_correct)
    return judged


def _verdict(grader: Grader, completion: Completion, answer: str, in_thought: bool) -> Verdict:
    try:
        return grader.grade(completion.text, answer, in_thought)
    except UsageError as error:
        where = f"problem {completion.problem_id}, sample {completion.sample} of {completion.subject}"
        raise UsageError(f"{where}: {error}; the completions are kept") from None
