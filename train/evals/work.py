"""What is to be drawn of one model: which requests are next, and what becomes of what was drawn.

    Plan ─▶ Request ─▶ Drawn ─▶ Beginning ─▶ Request ─▶ Drawn ─▶ Completion, one an arm
            first              samples.jsonl  answer             samples.jsonl

Where nothing is put into completions (`dail.train.evals.forcing`), the first is the last.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dail.synth.core.config import canonical
from dail.synth.core.errors import EngineDead, ItemError, UsageError
from dail.synth.engine.admission import Admission
from dail.synth.engine.base import FinishReason, Limits, SequenceKey, TokenSequence
from dail.synth.method.prompts import Prompts
from dail.train.evals.arms import Arm
from dail.train.evals.completer import Drawn, Request
from dail.train.evals.completions import Beginning, Completion, SampleFile, Wanted, digest, drawn_from, packed
from dail.train.evals.config import EvalConfig
from dail.train.evals.forcing import First, Forcing, Part
from dail.train.evals.problems import EvalProblem

MOST_TRIES = 5  # of one request, whose engine died with it

Place = tuple[str, str, int]  # arm, problem, sample


@dataclass(frozen=True)
class Plan:
    """One sample of a problem by a subject at one temperature. Its arms differ in their budgets alone."""

    key: str
    arms: tuple[Arm, ...]
    problem: EvalProblem
    sample: int

    @property
    def name(self) -> str:
        return f"problem {self.problem.id}, sample {self.sample} of {self.arms[0].subject.name}"


@dataclass(frozen=True)
class _Answer:
    """A request for an answer, and the completions that it is the end of."""

    plan: Plan
    parts: tuple[tuple[Arm, Part], ...]


class Work:
    """Args:
        arms: of one model.

    Raises:
        UsageError: the settings are impossible with this model.
    """

    def __init__(
        self, config: EvalConfig, problems: Sequence[EvalProblem], arms: Sequence[Arm], prompts: Prompts
    ) -> None:
        self._config, self._prompts, self._forcing = config, prompts, Forcing(config, prompts)
        self.folder: Path = arms[0].subject.folder
        self.max_rank = max((arm.subject.adapter.rank for arm in arms if arm.subject.adapter), default=None)
        self.plans = self._plans(problems, arms)
        self._prompt_ids = {one.id: prompts.student_ids(one.problem, config, config.prompts) for one in problems}
        self._first_tokens: dict[str, int] = {}  # by problem: how many are drawn first
        self._file: SampleFile | None = None
        self._firsts: deque[Plan] = deque()
        self._answers: deque[Plan] = deque()
        self._again: deque[Request] = deque()
        self._out: dict[str, tuple[Request, Plan | _Answer]] = {}  # what is drawn now
        self._tries: dict[str, int] = {}
        self._keys: dict[Place, str] = {}
        self.num_done = self.num_tokens = 0

    def _plans(self, problems: Sequence[EvalProblem], arms: Sequence[Arm]) -> list[Plan]:
        """By problem within each subject, so that the completions of one prompt run together and share its prefix."""
        alike: dict[tuple[str, float], list[Arm]] = {}
        for arm in arms:
            alike.setdefault((arm.subject.name, arm.temperature), []).append(arm)
        return [
            Plan(self._first_key(of_one[0], problem, sample), tuple(of_one), problem, sample)
            for of_one in alike.values()
            for problem in problems
            for sample in range(self._config.samples)
        ]

    def _first_key(self, arm: Arm, problem: EvalProblem, sample: int) -> str:
        content = drawn_from(self._config, arm, problem, sample)
        if closing := self._forcing.closing:
            return digest(content, "thought", closing.mark)
        most = self._config.max_tokens
        return digest(content, most if most or not self._forcing.has_answers else [most, self._forcing.tokens_behind])

    @property
    def num_completions(self) -> int:
        return sum(len(plan.arms) for plan in self.plans)

    def wanted(self, begun: Mapping[str, Beginning]) -> Wanted:
        """What of a file is of use, given the beginnings that are in it."""
        completions: dict[str, str] = {}
        for plan in self.plans:
            if not self._forcing.closing:
                completions[plan.key] = plan.arms[0].name
            if self._forcing.has_answers and plan.key in begun:
                first = _first_of(begun[plan.key])
                for arm, part in self._parts(plan, first):
                    completions[_key(plan, arm, part, self._config)] = arm.name
        return Wanted(completions, {plan.key for plan in self.plans} if self._forcing.has_answers else set())

    def open(self, file: SampleFile) -> None:
        """Takes from the file what it has; the rest is to be drawn."""
        self._file = file
        for plan in self.plans:
            beginning = file.beginnings.get(plan.key)
            if self._is_whole(plan):
                self._found(plan, plan.arms[0], plan.key)
            elif beginning and self._is_enough(plan, _first_of(beginning)):
                self._settle(plan, beginning)
            else:
                self._firsts.append(plan)

    def _is_whole(self, plan: Plan) -> bool:
        """Whether the file has it as it was drawn at once, and nothing is to be put behind it."""
        known = self._file and self._file.kept.get(plan.key)
        if not known or self._forcing.closing:
            return False
        return self._forcing.is_final(known.text)

    def _is_enough(self, plan: Plan, first: First) -> bool:
        return all(arm.budget is None or self._forcing.is_enough(first, arm.budget) for arm in plan.arms)

    @property
    def is_done(self) -> bool:
        return not (self._firsts or self._answers or self._again or self._out)

    @property
    def num_missing(self) -> int:
        """Completions."""
        return self.num_completions - self.num_done

    def completions(self) -> Iterator[tuple[Place, Completion]]:
        """All, once it is done."""
        assert self._file is not None, "it was never opened"
        for place, key in self._keys.items():
            yield place, self._file.kept[key]

    def check(self, limits: Limits) -> None:
        """Raises UsageError, before anything is drawn: a problem's completions do not fit into such an engine."""
        admission = Admission(limits)
        for problem, ids in self._prompt_ids.items():
            try:
                room = admission.check([len(ids)])
            except ItemError as error:
                raise UsageError(f"problem {problem}: {error}") from None
            self._first_tokens[problem] = self._checked(problem, len(ids), room)

    def check_model_tokens(self, model_tokens: int) -> None:
        """As `check`, before any engine is there, by what one would hold at the most."""
        self.check(Limits(model_tokens, rows=1, step_tokens=1 << 30, kv_tokens=1 << 40, kv_block=1))

    def _checked(self, problem: str, prompt: int, room: int) -> int:
        """How many tokens may be drawn first."""
        behind, most = self._forcing.tokens_behind, self._config.max_tokens
        if closing := self._forcing.closing:
            budget = max(self._config.budgets)
            if budget + behind > room:
                raise UsageError(
                    f"problem {problem}: its prompt has {prompt} tokens, a thought up to {budget}, what ends it "
                    f"{len(closing.ids)}, eval.announce {len(self._forcing.announcement)}, and the answer up to "
                    f"{self._config.answer_tokens}: {prompt + budget + behind} in all, and the engine holds "
                    f"{prompt + room}; lower eval.budgets or eval.answer_tokens, or raise engine.model_tokens"
                )
            return budget
        wanted = most or max(room - behind, 1)
        if wanted + behind > room:
            announced = (
                f", of them {behind} for eval.announce and eval.answer_tokens, which can be lowered" if behind else ""
            )
            raise UsageError(
                f"problem {problem}: its prompt has {prompt} tokens, which leaves {room} of the engine's for the "
                f"completion, wanted {wanted + behind}{announced}; lower --max-tokens or raise engine.model_tokens"
            )
        return wanted

    def next(self, room: int) -> list[Request]:
        """What to draw next, at least so many requests if there are so many. Answers go before what is not begun."""
        requests = list[Request]()
        while len(requests) < room and (self._again or self._answers or self._firsts):
            if self._again:
                requests.append(self._again.popleft())
            elif self._answers:
                requests += self._answer_requests(self._answers.popleft())
            else:
                requests.append(self._first_request(self._firsts.popleft()))
        return requests

    def lost(self, unit_id: str, why: str, retryable: bool) -> None:
        """A request that an engine lost is drawn again. Raises what no other try would mend."""
        request, what = self._out[unit_id]
        name = what.name if isinstance(what, Plan) else what.plan.name
        self._tries[unit_id] = self._tries.get(unit_id, 0) + 1
        if not retryable:
            raise UsageError(f"{name}: {why}")
        if self._tries[unit_id] >= MOST_TRIES:
            raise EngineDead(f"{name}: {MOST_TRIES} engines died while they drew it; the last: {why}")
        self._again.append(request)

    def take(self, drawn: Drawn, engine: str) -> None:
        """Writes down what came of a request."""
        if (out := self._out.pop(drawn.unit_id, None)) is None:
            return
        _, what = out
        self.num_tokens += len(drawn.ids)
        if isinstance(what, Plan):
            self._take_first(what, drawn, engine)
        else:
            for arm, part in what.parts:
                self._write(what.plan, arm, part, engine, drawn.ids, drawn.reason)

    def _take_first(self, plan: Plan, drawn: Drawn, engine: str) -> None:
        assert self._file is not None, "nothing is drawn before it was opened"
        first = self._forcing.read(drawn.ids, drawn.reason)
        if not self._forcing.closing and (part := self._forcing.part(first, None)).is_whole:
            self._write(plan, plan.arms[0], part, engine)
            return
        beginning = Beginning(
            key=plan.key,
            begins="thought" if self._forcing.closing else "completion",
            problem_id=plan.problem.id,
            sample=plan.sample,
            token_ids=packed(first.ids),
            num_drawn=first.num_drawn,
            ended=first.ended,
            engine=engine,
            date=self._config.date,
        )
        self._file.add(beginning)
        self._settle(plan, beginning)

    def _settle(self, plan: Plan, beginning: Beginning) -> None:
        """Finds or writes what is whole with it; if something is not, its answers are next."""
        assert self._file is not None, "nothing is settled before it was opened"
        parts = self._parts(plan, _first_of(beginning))
        keys = [_key(plan, arm, part, self._config) for arm, part in parts]
        answered = {
            _answer_id(plan, part, self._config): self._file.kept[key]
            for (_, part), key in zip(parts, keys, strict=True)
            if key in self._file.kept
        }
        is_missing = False
        for (arm, part), key in zip(parts, keys, strict=True):
            alike = answered.get(_answer_id(plan, part, self._config))
            if key in self._file.kept:
                self._found(plan, arm, key)
            elif part.is_whole:
                self._write(plan, arm, part, beginning.engine)
            elif alike:  # of another budget that the thought did not reach
                self._file.add(alike.model_copy(update={"key": key, "arm": arm.name}))
                self._found(plan, arm, key)
            else:
                is_missing = True
        if is_missing:
            self._answers.append(plan)

    def _parts(self, plan: Plan, first: First) -> list[tuple[Arm, Part]]:
        """Of the arms whose budgets it is long enough for."""
        return [
            (arm, self._forcing.part(first, arm.budget))
            for arm in plan.arms
            if arm.budget is None or self._forcing.is_enough(first, arm.budget)
        ]

    def _first_request(self, plan: Plan) -> Request:
        sequence = self._sequence(
            plan.key,
            plan,
            self._prompt_ids[plan.problem.id],
            self._first_tokens[plan.problem.id],
            _seed(self._config.seed, plan),
            self._forcing.stop_ids,
        )
        request = Request(sequence, (*self._config.stop, *self._forcing.stop_strings))
        self._out[plan.key] = request, plan
        return request

    def _answer_requests(self, plan: Plan) -> list[Request]:
        """One for all arms that go on from the same ids."""
        assert self._file is not None, "nothing is asked before it was opened"
        missing: dict[str, list[tuple[Arm, Part]]] = {}
        for arm, part in self._parts(plan, _first_of(self._file.beginnings[plan.key])):
            if not part.is_whole and _key(plan, arm, part, self._config) not in self._file.kept:
                missing.setdefault(_answer_id(plan, part, self._config), []).append((arm, part))
        requests = []
        for unit_id, parts in missing.items():
            part = parts[0][1]
            prompt = [*self._prompt_ids[plan.problem.id], *part.ids, *part.appended]
            seed = _seed(self._config.seed, plan, "answer")
            sequence = self._sequence(unit_id, plan, prompt, self._config.answer_tokens, seed, self._prompts.stop_ids)
            requests.append(Request(sequence, self._config.stop))
            self._out[unit_id] = requests[-1], _Answer(plan, tuple(parts))
        return requests

    def _sequence(
        self, unit_id: str, plan: Plan, prompt_ids: list[int], max_tokens: int, seed: int, stop_ids: frozenset[int]
    ) -> TokenSequence:
        adapter = plan.arms[0].subject.adapter
        return TokenSequence(
            key=SequenceKey(unit_id),
            prompt_ids=prompt_ids,
            max_tokens=max_tokens,
            temperature=plan.arms[0].temperature,
            top_p=self._config.top_p,
            top_k=self._config.top_k,
            presence_penalty=self._config.presence_penalty,
            seed=seed,
            stop_ids=stop_ids,
            adapter=str(adapter.folder) if adapter else None,
        )

    def _write(
        self,
        plan: Plan,
        arm: Arm,
        part: Part,
        engine: str,
        answer: Sequence[int] = (),
        reason: FinishReason | None = None,
    ) -> None:
        """The completion of an arm; `reason` is the answer's, if there is one."""
        assert self._file is not None, "nothing is written before it was opened"
        key = _key(plan, arm, part, self._config)
        self._file.add(
            Completion(
                key=key,
                arm=arm.name,
                problem_id=plan.problem.id,
                sample=plan.sample,
                text=self._prompts.text([*part.ids, *part.appended, *answer]),
                num_tokens=part.num_drawn + len(answer),
                thought_tokens=part.thought_tokens,
                forced=part.forced,
                announced=bool(self._forcing.announcement) and not part.is_whole,
                finish_reason=reason or part.reason,
                engine=engine,
                date=self._config.date,
            )
        )
        self._found(plan, arm, key)

    def _found(self, plan: Plan, arm: Arm, key: str) -> None:
        self._keys[arm.name, plan.problem.id, plan.sample] = key
        self.num_done += 1


def _first_of(beginning: Beginning) -> First:
    return First(beginning.ids, beginning.num_drawn, beginning.ended)


def _key(plan: Plan, arm: Arm, part: Part, config: EvalConfig) -> str:
    if part.is_whole and arm.budget is None:
        return plan.key
    answer = "whole" if part.is_whole else _answer_id(plan, part, config)
    return digest(plan.key, answer, _spelled(part), arm.budget)


def _answer_id(plan: Plan, part: Part, config: EvalConfig) -> str:
    """Of all that an answer is drawn from; two budgets that a thought did not reach have it in common."""
    return digest(plan.key, _spelled(part), config.answer_tokens)


def _spelled(part: Part) -> str:
    return hashlib.sha256(array("I", [*part.ids, *part.appended]).tobytes()).hexdigest()


def _seed(seed: int, plan: Plan, *part: str) -> int:
    """The same for every arm, and another one for the answer."""
    return int.from_bytes(hashlib.sha256(canonical([seed, plan.problem.id, plan.sample, *part])).digest()[:8]) >> 1
