"""Budget forcing and announcements: what stands in a completion, what it counts, and what a rerun draws again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.engine.base import Engine, Limits, Sampled, SequenceKey, TokenSequence
from dail.synth.engine.fake import FakeEngine, made_up
from dail.synth.method.prompts import Prompts
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.trace_tokens import Tokens
from dail.train.evals.arms import Subject, arms_of
from dail.train.evals.completions import Beginning, packed
from dail.train.evals.config import EvalConfig
from dail.train.evals.problems import EvalProblem
from dail.train.evals.run import Judged, evaluate
from tests.conftest import DEMO_MODEL, ROOT, Told

PROBLEMS = [EvalProblem(id=f"p{number}", problem=f"Say {number}.", answer=str(number)) for number in range(3)]
ANNOUNCED = "\n\nFinal answer: \\boxed{"
CLOSE, END = 1023, 1021  # of the demo model's tokens: </think>, and the end of a turn


class Scripted:
    """Writes what a table says, a text a prompt, to its end or to the limit; keeps what it was asked."""

    name = "scripted 1"

    def __init__(self, prompts: Prompts, says: Callable[[str], str], model_tokens: int = 640) -> None:
        self.limits = Limits(model_tokens=model_tokens, rows=4, step_tokens=4096, kv_tokens=1 << 20, kv_block=16)
        self.prompts, self.says = prompts, says
        self.asked: list[TokenSequence] = []
        self._inside: list[TokenSequence] = []

    def __call__(self, config: EngineConfig, max_rank: int | None) -> Engine:
        return self

    def prompt(self, sequence: TokenSequence) -> str:
        return str(self.prompts.tokenizer.decode(list(sequence.prompt_ids), skip_special_tokens=False))

    def add(self, sequence: TokenSequence) -> None:
        self.asked.append(sequence)
        self._inside.append(sequence)

    def abort(self, keys: Sequence[SequenceKey]) -> None:
        raise AssertionError("all ends in its one step")

    def step(self) -> list[Sampled]:
        sequence = self._inside.pop(0)
        text = self.says(self.prompt(sequence))
        ids = self.prompts.tokenizer.encode(text, add_special_tokens=False)
        ends = [place for place, token in enumerate(ids) if token in sequence.stop_ids]
        if ends and ends[0] < sequence.max_tokens:
            return [Sampled(sequence.key, Tokens.of(ids[: ends[0] + 1]), "stop")]
        return [Sampled(sequence.key, Tokens.of(ids[: sequence.max_tokens]), "length")]

    def written(self) -> list[Sampled]:
        return []

    def close(self) -> None:
        pass


def config(**changes: Any) -> EvalConfig:
    engine = EngineConfig(model=DEMO_MODEL, kind="fake")
    return EvalConfig(engine=engine, **({"samples": 1, "opening": "<think>", "answer_tokens": 40} | changes))


def run(
    asked: EvalConfig,
    path: Path,
    model: ModelIdentity,
    make: Any,
    problems: Sequence[EvalProblem] = PROBLEMS[:1],
) -> dict[tuple[int | None, str, int], Judged]:
    """By budget, problem and sample."""
    arms = arms_of([Subject("base", asked.engine.model, model)], asked.drawn_at, asked.budgets)
    budgets = {arm.name: arm.budget for arm in arms}
    path.mkdir(exist_ok=True)
    judged = evaluate(asked, list(problems), arms, path / "samples.jsonl", make)
    return {(budgets[one.completion.arm], one.completion.problem_id, one.completion.sample): one for one in judged}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]


def says(thought: str, answer: str) -> Callable[[str], str]:
    """One text to a prompt that ends in the opened thought, another behind it."""
    return lambda prompt: thought if prompt.endswith("<think>") else answer


def test_a_thought_that_reaches_a_budget_is_ended_there_and_answered(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    engine = Scripted(prompts, says("1234567890</think>", "So \\boxed{0}.<|im_end|>"))
    found = run(config(budgets=(4, 100)), tmp_path, model, engine)
    cut, whole = found[4, "p0", 0].completion, found[100, "p0", 0].completion
    assert (cut.text, whole.text) == ("1234</think>So \\boxed{0}.", "1234567890</think>So \\boxed{0}.")
    assert (cut.forced, cut.thought_tokens, whole.forced, whole.thought_tokens) == (True, 4, False, 11)
    assert all(one.verdict.correct and one.completion.finish_reason == "stop" for one in found.values())
    answer = len(prompts.tokenizer.encode("So \\boxed{0}.<|im_end|>", add_special_tokens=False))
    assert (cut.num_tokens, whole.num_tokens) == (4 + answer, 11 + answer)
    assert [sequence.max_tokens for sequence in engine.asked] == [100, 40, 40], "the thought is drawn once"
    assert len({sequence.seed for sequence in engine.asked}) == 2, "answers have a seed of their own, both the same"


def test_budgets_that_a_thought_did_not_reach_share_its_answer(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    engine = Scripted(prompts, says("12</think>", "\\boxed{0}<|im_end|>"))
    found = run(config(budgets=(50, 100, 200)), tmp_path, model, engine)
    assert len(engine.asked) == 2 and len({one.completion.text for one in found.values()}) == 1
    names = [f"base, {budget} tokens" for budget in (50, 100, 200)]
    assert [line.get("arm") for line in lines(tmp_path)] == [None, *names]


@pytest.mark.parametrize("thought", ["12</think>", "1234567890</think>", "12<|im_end|>", "xy 7"])
@pytest.mark.parametrize("opening", ["", "<think>"])
def test_samples_that_say_the_same_are_completions_of_their_own(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, thought: str, opening: str
) -> None:
    def answer(prompt: str) -> str:
        return "\\boxed{0}<|im_end|>" if "</think>" in prompt else thought

    asked = config(budgets=(4, 9), samples=3, opening=opening, stop=("y",))
    found = run(asked, tmp_path, model, Scripted(prompts, answer), PROBLEMS[:2])
    assert len({one.completion.key for one in found.values()}) == len(found) == 12
    assert len(lines(tmp_path)) == 18


def test_the_announcement_stands_behind_every_thought_and_opens_the_box_that_is_judged(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    engine = Scripted(prompts, says("12345</think>", "0} it is.<|im_end|>"))
    found = run(config(budgets=(3, 100), announce=ANNOUNCED), tmp_path, model, engine)
    assert found[3, "p0", 0].completion.text == "123</think>\n\nFinal answer: \\boxed{0} it is."
    assert found[100, "p0", 0].completion.text == "12345</think>\n\nFinal answer: \\boxed{0} it is."
    assert all(one.verdict.correct and one.completion.announced for one in found.values())
    own = prompts.tokenizer.encode(ANNOUNCED, add_special_tokens=False)
    assert list(engine.asked[1].prompt_ids[-len(own) - 1 :]) == [CLOSE, *own], "its ids are its own"


def test_a_turn_that_ends_inside_the_thought_has_it_ended(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    engine = Scripted(prompts, says("12<|im_end|>", "\\boxed{0}<|im_end|>"))
    one = run(config(budgets=(100,)), tmp_path, model, engine)[100, "p0", 0].completion
    assert (one.text, one.forced, one.thought_tokens) == ("12</think>\\boxed{0}", False, 3)


def test_a_turn_that_ends_without_a_thought_has_answered(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    engine = Scripted(prompts, lambda prompt: "So \\boxed{0}.<|im_end|>")
    one = run(config(budgets=(100,), opening=""), tmp_path, model, engine)[100, "p0", 0].completion
    assert (one.text, one.forced, one.thought_tokens, len(engine.asked)) == ("So \\boxed{0}.", False, 0, 1)


def test_an_answer_without_a_thought_and_a_box_is_announced(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    engine = Scripted(prompts, lambda prompt: "0}<|im_end|>" if prompt.endswith("boxed{") else "0!<|im_end|>")
    one = run(config(budgets=(100,), opening="", announce=ANNOUNCED), tmp_path, model, engine)[100, "p0", 0]
    assert (one.completion.text, one.verdict.correct) == (f"0!{ANNOUNCED}0}}", True)
    assert (one.completion.thought_tokens, one.completion.announced) == (0, True)


def test_a_stop_string_in_a_thought_ends_the_completion(tmp_path: Path, prompts: Prompts, model: ModelIdentity) -> None:
    engine = Scripted(prompts, says("12345</think>", "\\boxed{0}<|im_end|>"))
    found = run(config(budgets=(2, 100), stop=("34",)), tmp_path, model, engine)
    whole, cut = found[100, "p0", 0].completion, found[2, "p0", 0].completion
    assert (whole.text, whole.finish_reason, whole.thought_tokens) == ("1234", "stop", 4)
    assert (cut.text, cut.forced) == ("12</think>\\boxed{0}", True)


@pytest.mark.parametrize(("budget", "forced"), [(2, True), (3, False), (4, False)])
def test_a_mark_that_is_the_budgets_last_token_ends_the_thought_by_itself(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, budget: int, forced: bool
) -> None:
    engine = Scripted(prompts, says("12</think>", "\\boxed{0}<|im_end|>"))
    one = run(config(budgets=(budget,)), tmp_path, model, engine)[budget, "p0", 0].completion
    assert (one.forced, one.text) == (forced, "12</think>\\boxed{0}")


def test_an_announcement_without_budgets_stands_where_there_is_no_box(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    """By problem: a box; none, with the turn's end; none, cut."""

    def answer(prompt: str) -> str:
        if prompt.endswith("boxed{"):
            return "2}<|im_end|>" if "Say 2" in prompt else "1}<|im_end|>"
        return {"0": "\\boxed{0}<|im_end|>", "1": "1!<|im_end|>"}.get(prompt.partition("Say ")[2][:1], "2" * 60)

    asked = config(opening="", announce=ANNOUNCED, max_tokens=9)
    engine = Scripted(prompts, answer)
    found = run(asked, tmp_path, model, engine, PROBLEMS)
    texts = [found[None, f"p{number}", 0].completion.text for number in range(3)]
    assert texts == ["\\boxed{0}", f"1!{ANNOUNCED}1}}", f"{'2' * 9}{ANNOUNCED}2}}"]
    assert all(one.verdict.correct for one in found.values())
    assert [one.completion.announced for one in found.values()] == [False, True, True]
    plain = Scripted(prompts, answer)
    run(asked.model_copy(update={"announce": ""}), tmp_path, model, plain, PROBLEMS)
    assert len(plain.asked) == 2, "the one with a box is the same completion"


def test_an_announcement_leaves_an_open_thought_alone(tmp_path: Path, prompts: Prompts, model: ModelIdentity) -> None:
    engine = Scripted(prompts, says("12<|im_end|>", "0}"))
    one = run(config(announce=ANNOUNCED), tmp_path, model, engine)[None, "p0", 0]
    assert (one.completion.text, one.verdict.method, len(engine.asked)) == ("12", "cut in thought", 1)


# what is drawn, with probabilities


def likely(closing: float) -> Callable[[EngineConfig, int | None], Engine]:
    """A fake engine that ends thoughts now and then."""
    of = made_up(40)

    def logits(context: Sequence[int]) -> Tensor:
        given = torch.full((1024,), -torch.inf)
        given[100:140] = of(context)
        given[CLOSE], given[END] = closing, 1.0
        return given

    return lambda asked, rank: FakeEngine(EngineConfig(model=DEMO_MODEL, kind="fake", rows=4), logits)


HARD = {"samples": 6, "presence_penalty": 1.0, "top_p": 0.9, "temperature": 1.0, "answer_tokens": 5}


def key_figures(one: Judged) -> tuple[Any, ...]:
    done = one.completion
    return done.key, done.text, done.num_tokens, done.thought_tokens, done.forced, done.finish_reason


def test_budgets_side_by_side_are_what_each_is_alone(tmp_path: Path, model: ModelIdentity) -> None:
    together = run(config(budgets=(4, 8, 16), **HARD), tmp_path / "all", model, likely(2.5), PROBLEMS)
    assert 0 < sum(one.completion.forced for one in together.values()) < len(together)
    for budget in (4, 8, 16):
        alone = run(config(budgets=(budget,), **HARD), tmp_path / str(budget), model, likely(2.5), PROBLEMS)
        for place, one in alone.items():
            assert key_figures(one) == key_figures(together[place])


def test_a_larger_budget_draws_again_only_thoughts_that_were_cut(tmp_path: Path, model: ModelIdentity) -> None:
    small = run(config(budgets=(6,), **HARD), tmp_path, model, likely(2.5), PROBLEMS)
    cut = sum(one.completion.forced for one in small.values())
    asked: list[TokenSequence] = []
    both = run(config(budgets=(6, 30), **HARD), tmp_path, model, recording(likely(2.5), asked), PROBLEMS)
    thoughts = [sequence for sequence in asked if sequence.max_tokens == 30]
    assert 0 < len(thoughts) == cut < len(small)
    assert len(asked) - len(thoughts) == cut, "and the answers behind them"
    assert {place: key_figures(one) for place, one in both.items() if place[0] == 6} == {
        place: key_figures(one) for place, one in small.items()
    }
    assert not list(tmp_path.glob("samples-until*")), "nothing was set aside"
    again: list[TokenSequence] = []
    run(config(budgets=(6, 30), **HARD), tmp_path, model, recording(likely(2.5), again), PROBLEMS)
    assert again == []


@pytest.mark.parametrize(
    "change", [{"announce": ANNOUNCED}, {"answer_tokens": 7}, {"budgets": (3,)}, {"budgets": (2, 6)}]
)
def test_another_announcement_answer_or_smaller_budget_draws_no_thought(
    tmp_path: Path, model: ModelIdentity, change: dict[str, Any], told: Told
) -> None:
    run(config(budgets=(6,), **HARD), tmp_path, model, likely(2.5))
    asked: list[TokenSequence] = []
    settings = {"budgets": (6,), **HARD, **change}
    fresh = run(config(**settings), tmp_path / "fresh", model, likely(2.5))
    told()
    found = run(config(**settings), tmp_path, model, recording(likely(2.5), asked))
    assert "and 6 that others begin with" in told()
    prompt = min(len(sequence.prompt_ids) for sequence in asked)
    assert prompt > len(Prompts(DEMO_MODEL).student_ids(PROBLEMS[0].problem, config())), "a thought was drawn"
    assert {place: key_figures(one) for place, one in found.items()} == {
        place: key_figures(one) for place, one in fresh.items()
    }


@pytest.mark.parametrize("change", [{"top_p": 0.8}, {"top_k": 5}, {"presence_penalty": -1.0}, {"stop": ("x",)}])
def test_what_a_thought_is_drawn_from_is_in_its_key(
    tmp_path: Path, model: ModelIdentity, change: dict[str, Any]
) -> None:
    run(config(budgets=(6,), **HARD), tmp_path, model, likely(2.5))
    asked: list[TokenSequence] = []
    run(config(budgets=(6,), **{**HARD, **change}), tmp_path, model, recording(likely(2.5), asked))
    assert sum(sequence.max_tokens == 6 for sequence in asked) == 6


def recording(make: Callable[..., Engine], asked: list[TokenSequence]) -> Callable[..., Engine]:
    def made(config: EngineConfig, rank: int | None) -> Engine:
        engine = make(config, rank)
        add = engine.add
        engine.add = lambda sequence: (asked.append(sequence), add(sequence))[1]  # type: ignore[method-assign]
        return engine

    return made


# what is refused


def test_budgets_beyond_the_context_are_refused_before_an_engine_is_there(tmp_path: Path, model: ModelIdentity) -> None:
    def no_engine(asked: EngineConfig, rank: int | None) -> Engine:
        raise AssertionError("an engine was started")

    engine = EngineConfig(model=DEMO_MODEL, kind="fake", model_tokens=640)
    asked = EvalConfig(engine=engine, budgets=(64, 600), announce=ANNOUNCED, answer_tokens=100)
    wanted = r"problem p0: its prompt has \d+ tokens, a thought up to 600.*engine holds 640; lower eval.budgets or"
    with pytest.raises(UsageError, match=wanted):
        run(asked, tmp_path, model, no_engine)


def test_budgets_beyond_what_the_engine_holds_are_refused_before_it_draws(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    engine = Scripted(prompts, lambda prompt: "", model_tokens=200)
    with pytest.raises(UsageError, match=r"a thought up to 512.*the engine holds 200"):
        run(config(budgets=(512,)), tmp_path, model, engine)
    assert engine.asked == []


def altered(tmp_path: Path, template: str, change: Callable[[str], str] = lambda text: text) -> Path:
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    file = folder / "tokenizer.json"
    file.write_text(change(file.read_text()))
    return folder


PLAIN = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}A:"


def test_a_model_without_a_mark_is_refused_naming_what_was_looked_for(tmp_path: Path, model: ModelIdentity) -> None:
    folder = altered(tmp_path, PLAIN, lambda text: text.replace("think>", "thonk>"))
    asked = EvalConfig(engine=EngineConfig(model=folder, kind="fake"), budgets=(8,))
    with pytest.raises(UsageError, match=r"looked for </think>, \[/THINK\].*leave budgets out"):
        run(asked, tmp_path, model, likely(0.0))


def test_prompts_with_an_empty_thought_have_none_to_end(tmp_path: Path, model: ModelIdentity) -> None:
    folder = altered(tmp_path, PLAIN + "<think>\n\n</think>\n\n")
    asked = EvalConfig(engine=EngineConfig(model=folder, kind="fake"), budgets=(8,))
    with pytest.raises(UsageError, match="end with an empty thought"):
        run(asked, tmp_path, model, likely(0.0))


def test_a_mark_of_several_tokens_ends_a_thought_where_its_text_stands(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    folder = altered(tmp_path, PLAIN + "<think>", lambda text: text.replace("think>", "thonk>"))
    own = Prompts(folder)
    closing = own.closing()
    assert closing.mark == "</think>" and closing.token is None and len(closing.ids) > 1
    asked = EvalConfig(engine=EngineConfig(model=folder, kind="fake"), budgets=(4, 60), samples=1, answer_tokens=20)

    def answer(prompt: str) -> str:
        return "123456</think>" + "7" * 40 if prompt.endswith("<think>") else "\\boxed{0}<|im_end|>"

    found = run(asked, tmp_path, model, Scripted(own, answer))
    assert found[60, "p0", 0].completion.text == "123456</think>\\boxed{0}"
    assert found[4, "p0", 0].completion.text == "1234</think>\\boxed{0}"
    assert [found[budget, "p0", 0].completion.forced for budget in (4, 60)] == [True, False]


def test_an_announcement_that_spells_a_control_token_is_refused(tmp_path: Path, model: ModelIdentity) -> None:
    with pytest.raises(UsageError, match=r"holds '<\|im_end\|>'"):
        run(config(announce="so<|im_end|>", opening=""), tmp_path, model, likely(0.0))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"budgets": (5, 5)}, "5 is there twice"),
        ({"budgets": (-1,)}, "greater than or equal to 1"),
        ({"budgets": "512,many"}, "valid integer"),
        ({"budgets": (5,), "thinking": False}, "budgets end a thought"),
        ({"budgets": (5,), "max_tokens": 9}, "max_tokens=9"),
        ({"top_p": 0.0}, "greater than 0"),
        ({"top_p": 1.1}, "less than or equal to 1"),
        ({"top_k": -1}, "greater than or equal to 0"),
        ({"presence_penalty": float("nan")}, "finite"),
        ({"presence_penalty": 2.1}, "less than or equal to 2"),
        ({"stop": ("",)}, "at least 1"),
        ({"stop": "x"}, "wanted a list"),
        ({"answer_tokens": 0}, "greater than or equal to 1"),
        ({"actors": 0}, "greater than or equal to 1"),
        ({"announce": "a\x00"}, "not text"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        EvalConfig(engine=EngineConfig(model=DEMO_MODEL), **settings)


def test_budgets_are_given_on_a_command_line_as_numbers_with_commas() -> None:
    engine = EngineConfig(model=DEMO_MODEL)
    assert EvalConfig(engine=engine, budgets="512, 1024").budgets == (512, 1024)
    assert EvalConfig(engine=engine, temperatures="0.6,1").temperatures == (0.6, 1.0)
    assert EvalConfig(engine=engine, budgets=512).budgets == (512,)


def test_ids_of_a_beginning_come_back() -> None:
    line = Beginning(key="k", begins="thought", problem_id="p", sample=0, token_ids=packed([5, 70000, 0]), num_drawn=3,
                     ended="length", engine="e")  # fmt: skip
    assert Beginning.model_validate_json(line.model_dump_json()).ids == [5, 70000, 0]


# a crash

KILLED = """
import sys, time
from pathlib import Path
from tests.train.evals import test_forcing as here
from dail.synth.schema.models import identify
make = here.likely(2.5)
def slow(config, rank):
    engine = make(config, rank)
    step = engine.step
    engine.step = lambda: (time.sleep(0.01), step())[1]
    return engine
asked = here.config(budgets=(8, 24), **{**here.HARD, "samples": 24})
here.run(asked, Path(sys.argv[1]), identify(here.DEMO_MODEL), slow)
"""


def test_a_run_that_is_killed_draws_again_only_what_was_in_flight(tmp_path: Path, model: ModelIdentity) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, env={**os.environ})
    file = tmp_path / "samples.jsonl"
    while process.poll() is None and not (file.exists() and len(file.read_text().splitlines()) > 20):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    *whole, _torn = file.read_text().split("\n")
    thoughts = {line["key"] for line in map(json.loads, whole) if "begins" in line}
    answers = [line for line in map(json.loads, whole) if "begins" not in line]
    assert thoughts and answers and process.returncode == -signal.SIGKILL
    asked: list[TokenSequence] = []
    settings = config(budgets=(8, 24), **{**HARD, "samples": 24})
    found = run(settings, tmp_path, model, recording(likely(2.5), asked))
    again = {sequence.key.unit_id for sequence in asked}
    assert not again & thoughts, "a thought that was written down was drawn again"
    assert len(found) == 48 and {line["key"] for line in answers} <= {one.completion.key for one in found.values()}
    whole_run = run(settings, tmp_path / "whole", model, likely(2.5))
    assert {key: one.completion.text for key, one in found.items()} == {
        key: one.completion.text for key, one in whole_run.items()
    }
