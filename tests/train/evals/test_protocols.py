"""Protocols by name: what they set, what wins over them, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.core.settings import Chosen, read
from dail.train.evals.commands import evaluate
from dail.train.evals.config import EvalConfig
from dail.train.evals.protocols import PROTOCOLS, check_thinking, departures, protocolled
from dail.train.evals.protocols import told as told_of
from tests.conftest import DEMO_MODEL, Told

BUDGETS = (512, 1024, 2048, 4096)


def config(**settings: Any) -> EvalConfig:
    return EvalConfig(engine=EngineConfig(model=DEMO_MODEL), **settings)


def test_the_paper_s_protocol_ends_thoughts_and_lets_2048_tokens_follow() -> None:
    thinking = config(protocol="paper", thinking=True)
    assert (thinking.samples, thinking.temperature, thinking.budgets) == (128, 0.6, BUDGETS)
    assert (thinking.answer_tokens, thinking.announce, thinking.top_p, thinking.presence_penalty) == (2048, "", 1.0, 0)
    assert (config(protocol="paper").budgets, config(protocol="paper").announce) == ((), "")


@pytest.mark.parametrize(("thinking", "budgets"), [(True, BUDGETS), (False, ()), (None, ())])
def test_the_authors_protocol_announces_the_answer_whether_the_model_thinks_or_not(
    thinking: bool | None, budgets: tuple[int, ...]
) -> None:
    one = config(protocol="official", thinking=thinking)
    assert (one.samples, one.temperature, one.top_p, one.presence_penalty) == (128, 0.6, 0.95, 1.5)
    assert (one.answer_tokens, one.grader, one.engine.model_tokens, one.budgets) == (100, "official", 8000, budgets)
    assert one.announce.endswith("\\boxed{")
    assert not departures("official", one)


def chosen(file: str, tmp_path: Path, *overrides: str) -> Chosen:
    (tmp_path / "c.toml").write_text(file)
    return read("eval", tmp_path / "c.toml", overrides)


def test_a_protocol_wins_over_a_file_and_not_over_the_command_line(tmp_path: Path) -> None:
    said = "samples = 3\ntop_p = 0.5\nthinking = true\nmax_tokens = 9\ntemperatures = [1]\n"
    file = f"[eval]\n{said}[engine]\nmodel_tokens = 16000\n"
    by_set = protocolled(chosen(file, tmp_path, "eval.top_p=0.7"), "official", {"samples": 8, "seed": None})
    one = by_set.load(EvalConfig, "eval", engine=by_set.told("engine", model=DEMO_MODEL).load(EngineConfig, "engine"))
    assert (one.samples, one.top_p, one.budgets, one.engine.model_tokens) == (8, 0.7, BUDGETS, 8000)
    assert (one.max_tokens, one.drawn_at) == (None, (0.6,))
    assert departures("official", one) == {"eval.samples": (128, 8), "eval.top_p": (0.95, 0.7)}
    assert told_of("official", one).endswith("; no longer it: eval.samples=8, eval.top_p=0.7")
    without = protocolled(chosen(file, tmp_path), None, {"samples": None})
    assert without.values["eval"]["samples"] == 3


def test_a_protocol_with_other_temperatures_is_no_longer_it() -> None:
    assert departures("paper", config(protocol="paper", temperatures=(0.6, 1.0))) == {
        "eval.temperatures": ([], [0.6, 1.0])
    }


def test_what_a_protocol_sets_comes_back_from_its_json() -> None:
    one = config(protocol="official", thinking=True, samples=2)
    assert EvalConfig.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"is_told": False, "has_switch": True}, "say --thinking or --no-thinking"),
        ({"opens_thought": True}, "add --set eval.budgets=512,1024,2048,4096"),
    ],
)
def test_a_protocol_asks_whether_a_model_thinks(settings: dict[str, bool], why: str) -> None:
    said = {"thinks": False, "is_told": True, "has_switch": False, "opens_thought": False}
    check_thinking("paper", **said)
    check_thinking("paper", **{**said, **settings, "thinks": True})
    with pytest.raises(UsageError, match=why):
        check_thinking("paper", **{**said, **settings})


def test_dail_eval_says_its_protocol_and_what_departs_from_it(tmp_path: Path, told: Told) -> None:
    problem = {"id": "p", "problem": "Say 1.", "answer": "1"}
    (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n")
    common = ["--model", str(DEMO_MODEL), "--problems", str(tmp_path / "p.jsonl"), "--out", str(tmp_path)]
    small = ["engine.kind=fake", "engine.model_tokens=600", "eval.budgets=4,8", "eval.answer_tokens=5"]
    asked = [*common, "--protocol", "official", "--samples", "2", *(word for one in small for word in ("--set", one))]
    with pytest.raises(UsageError, match=r"model model: .*say --thinking or --no-thinking"):
        paper = [*common, "--protocol", "paper", "--set", "engine.kind=fake"]
        CliRunner().invoke(evaluate, paper, catch_exceptions=False)
    assert CliRunner().invoke(evaluate, [*asked, "--thinking"], catch_exceptions=False).exit_code == 0
    said = told()
    assert "protocol official (the authors' code" in said and "no longer it: eval.samples=2" in said
    written = json.loads((tmp_path / "eval.json").read_text())
    assert written["settings"]["protocol"] == "official" and written["departs"]["eval.samples"] == [128, 2]
    assert {arm["budget"] for arm in written["arms"]} == {4, 8}
    report = (tmp_path / "report.html").read_text()
    assert "top-p 0.95, presence penalty 1.5" in report and "eval.samples 2 instead of 128" in report
    assert "4, 8 tokens, then an answer of up to 5, announced" in report


def test_no_words_of_the_authors_are_ours() -> None:
    """The half sentence is worded here alone: nothing of theirs is copied."""
    assert PROTOCOLS["official"].eval["announce"] == "\n\nFinal answer: \\boxed{"
