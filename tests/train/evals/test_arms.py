"""Who is judged: names, subjects and arms, several models and adapters in one evaluation, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dail.synth.config import EngineConfig
from dail.synth.core.errors import EXIT_GATE, IntegrityError, UsageError
from dail.synth.engine.base import Engine, TokenSequence
from dail.synth.method.prompts import Prompts
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.train.config import TrainConfig
from dail.train.evals import EvalConfig, run
from dail.train.evals import evaluate as evaluate_door
from dail.train.evals.arms import arms_of, name_adapters, name_models, read_subjects
from dail.train.evals.commands import compare, evaluate
from dail.train.evals.results import Evaluation
from dail.train.record import Provenance, RunRecord
from tests.conftest import DEMO_MODEL
from tests.train.evals.conftest import HOSTILE, NOW, TableEngine, write_adapter

NUM_PROBLEMS, NUM_SAMPLES = 10, 4  # of fewer problems a gain of half of all is within noise


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """The demo model under another revision: a byte of its config.json is different."""
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "other-model")
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    return folder


Make = Callable[..., Path]


@pytest.fixture
def make_adapter(tmp_path: Path, model: ModelIdentity) -> Make:
    """An adapter of a run of this name, trained so; each has other bytes."""

    def make(name: str, of: ModelIdentity = model, train: dict[str, Any] | None = None, **synthesis: Any) -> Path:
        record = RunRecord(
            config=TrainConfig(**(train or {})), model=of, model_folder="m", manifest="m", manifest_digest="sha256:0",
            batch_id="b", synthesis=Synthesis(**synthesis), started_at=NOW,
        )  # fmt: skip
        trained = Provenance(run=record, fingerprint="f", steps=1, metrics="m", finished_at=NOW)
        folder = write_adapter(tmp_path / name / "adapter", trained.model_dump(mode="json"))
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(settings | {"alpha_pattern": {name: 1}}))
        return folder

    return make


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    lines = [{"id": f"p{n}", "problem": f"Say {n}.", "answer": n} for n in range(NUM_PROBLEMS)]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch, prompts: Prompts) -> list[tuple[EngineConfig, int | None, TableEngine]]:
    """How many of four samples each is right in, on every problem: the base 1, adapter "good" 3, "bad" 0, any other as
    the base, another model 2. Which sample it is, is told by a table of seeds."""
    made: list[tuple[EngineConfig, int | None, TableEngine]] = []

    def start(config: EngineConfig, rank: int | None) -> Engine:
        seen: dict[tuple[Any, ...], int] = {}

        def answer(row: TokenSequence) -> list[int]:
            found = re.search(r"Say (\d+)\.", prompts.text(list(row.prompt_ids)))
            assert found is not None
            number = int(found[1])
            who = Path(row.adapter).parent.name if row.adapter else config.model.name
            place = (who, row.temperature, number)
            seen[place] = seen.get(place, -1) + 1
            right = seen[place] < {"good": 3, "bad": 0, "other-model": 2}.get(who, 1)
            text = rf"By {who} at {row.temperature}: \boxed{{{number if right else 77}}}"
            return prompts.tokenizer.encode(text, add_special_tokens=False)

        made.append((config, rank, TableEngine(answer)))
        return made[-1][2]

    monkeypatch.setattr(run, "start_engine", start)
    return made


@pytest.fixture
def dail_eval(problems: Path, tmp_path: Path) -> Callable[..., Result]:
    def invoke(*more: object, model: object = DEMO_MODEL) -> Result:
        fixed = ["--model", model, "--problems", problems, "--out", tmp_path / "e", "--samples", NUM_SAMPLES]
        arguments = [str(one) for one in (*fixed, *more)]
        return CliRunner().invoke(evaluate, arguments, catch_exceptions=False, standalone_mode=False)

    return invoke


def read(tmp_path: Path) -> Evaluation:
    return Evaluation.model_validate_json((tmp_path / "e" / "eval.json").read_bytes())


def page(tmp_path: Path) -> str:
    return (tmp_path / "e" / "report.html").read_text("utf-8")


def test_names_are_given_or_follow_from_the_folders():
    assert list(name_models([(None, Path("m/qwen")), (None, Path("m/llama")), ("third", Path("x"))])) == [
        "base", "llama", "third"
    ]  # fmt: skip
    assert list(name_models([("qwen", Path("m"))])) == ["qwen"]
    assert list(name_adapters([(None, Path("runs/a/adapter"))])) == ["adapter"]
    assert list(name_adapters([("mine", Path("runs/a/adapter")), (None, Path("b"))])) == ["mine", "b"]
    several = [(None, Path("runs/gamma-0.1/adapter")), (None, Path("runs/gamma-0.2/adapter/")), (None, Path("mine"))]
    assert list(name_adapters(several)) == ["gamma-0.1", "gamma-0.2", "mine"]
    with pytest.raises(UsageError, match=r"called 'a'; give each a name of its own, as --model NAME=FOLDER"):
        name_adapters([(None, Path("runs/a/adapter")), (None, Path("other/a/adapter"))])


def test_an_arm_is_named_by_what_differs_and_held_against_the_first_subject_under_the_same_condition(
    make_adapter: Make,
):
    subjects = read_subjects({"base": DEMO_MODEL}, {"good": make_adapter("good")})
    plain = arms_of(subjects, (0.6,), ())
    assert [(arm.name, arm.against, arm.budget) for arm in plain] == [("base", None, None), ("good", "base", None)]
    assert [arm.name for arm in arms_of(subjects, (0.6,), (512,))] == ["base", "good"]
    both = arms_of(subjects, (0.6, 1.0), (512, 1024))
    assert [arm.name for arm in both[4:6]] == [
        "good, temperature 0.6, 512 tokens",
        "good, temperature 0.6, 1024 tokens",
    ]
    assert {arm.against for arm in both[:4]} == {None}
    assert [arm.against for arm in both[4:]] == [arm.name for arm in both[:4]]


def test_adapters_and_models_side_by_side_each_with_its_difference(
    dail_eval: Callable[..., Result], make_adapter: Make, other_model: Path, tmp_path: Path, engines: list[Any]
):
    good, bad, same = (make_adapter(name) for name in ("good", "bad", "same"))
    said = dail_eval("--adapter", good, "--adapter", f"worse={bad}", "--adapter", same, "--model", other_model)
    evaluation = read(tmp_path)
    assert [arm.name for arm in evaluation.arms] == ["base", "good", "worse", "same", "other-model"]
    assert [(one.name, bool(one.adapter)) for one in evaluation.subjects][2:] == [
        ("worse", True), ("same", True), ("other-model", False)
    ]  # fmt: skip
    everything = evaluation.groups[0]
    # of 4 samples c are right, so pass@1 is c / 4, and pass@2 is 1 - C(4 - c, 2) / 6
    assert {who: [point.mean for point in points] for who, points in everything.passes.items()} == {
        "base": [0.25, 0.5, 1.0], "good": [0.75, 1.0, 1.0], "worse": [0, 0, 0], "same": [0.25, 0.5, 1.0],
        "other-model": [0.5, pytest.approx(5 / 6), 1.0],
    }  # fmt: skip
    assert {who: [point.mean for point in points] for who, points in everything.difference.items()} == {
        "good": [0.5, 0.5, 0.0], "worse": [-0.25, -0.5, -1.0], "same": [0, 0, 0],
        "other-model": [0.25, pytest.approx(1 / 3), 0.0],
    }  # fmt: skip
    assert [(config.model.name, rank) for config, rank, _ in engines] == [("model", 4), ("other-model", None)]
    assert {row.adapter for row in engines[0][2].asked} == {None, str(good), str(bad), str(same)}
    assert re.findall(r"│ (\S+) −", said.stdout) == ["good", "worse", "same", "other-model"]
    assert "cut" in said.stdout


def test_what_arms_share_is_drawn_once_and_a_new_name_draws_nothing(
    dail_eval: Callable[..., Result], make_adapter: Make, tmp_path: Path, engines: list[Any]
):
    good, bad = make_adapter("good"), make_adapter("bad")
    dail_eval("--adapter", good)
    dail_eval("--adapter", f"first={good}", "--adapter", f"second={bad}")
    assert {row.adapter for row in engines[-1][2].asked} == {str(bad)}
    num_engines = len(engines)
    dail_eval("--adapter", f"one={good}", "--adapter", f"two={bad}", model=f"qwen={DEMO_MODEL}")
    assert len(engines) == num_engines
    lines = [json.loads(line) for line in (tmp_path / "e" / "samples.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines][:: NUM_PROBLEMS * NUM_SAMPLES] == ["qwen", "one", "two"]
    assert not list((tmp_path / "e").glob("samples-until-*"))


def test_temperatures_are_drawn_side_by_side(
    dail_eval: Callable[..., Result], make_adapter: Make, tmp_path: Path, engines: list[Any]
):
    dail_eval("--adapter", make_adapter("good"), "--set", "eval.temperatures=[0, 0.7]")
    evaluation = read(tmp_path)
    assert [arm.against for arm in evaluation.arms] == [None, None, "base, temperature 0", "base, temperature 0.7"]
    assert [{row.temperature for row in engines[0][2].asked if bool(row.adapter) is has} for has in (False, True)] == [
        {0, 0.7}, {0, 0.7}
    ]  # fmt: skip
    labels = re.findall(r'aria-label="(pass@[^"]*)"', page(tmp_path))
    assert "pass@k of base and adapter, all problems, temperature 0.7" in labels
    assert "pass@1 of base and adapter over temperature, all problems" in labels
    assert "<h2>By temperature</h2>" in page(tmp_path) and "What more tokens buy" not in page(tmp_path)
    dail_eval("--adapter", tmp_path / "good" / "adapter", "--temperature", "0.7")
    assert len(engines) == 1 and [arm.name for arm in read(tmp_path).arms] == ["base", "adapter"]


def test_budgets_are_judged_side_by_side_with_what_they_forced(
    dail_eval: Callable[..., Result], make_adapter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    prompts: Prompts,
):  # fmt: skip
    """The thought has more than 4 tokens; who was made to end it does not know the answer."""

    def answer(row: TokenSequence) -> list[int]:
        thought = "" if prompts.text(list(row.prompt_ids)).endswith("</think>") else "hm, hm, hm, and hm</think> "
        said = rf"{thought}\boxed{{{1 if thought and row.adapter else 77}}}"
        return prompts.tokenizer.encode(said, add_special_tokens=False)[: row.max_tokens]

    monkeypatch.setattr(run, "start_engine", lambda *_: TableEngine(answer))
    told = ["--set", "eval.budgets=[4, 64]", "--set", "eval.opening=<think>", "--set", "eval.answer_tokens=20"]
    said = dail_eval("--adapter", make_adapter("good"), *told)
    evaluation = read(tmp_path)
    assert {who: all_.forced_share for who, all_ in evaluation.summary.items()} == {
        "base, 4 tokens": 1, "base, 64 tokens": 0, "adapter, 4 tokens": 1, "adapter, 64 tokens": 0,
    }  # fmt: skip
    gains = {who: points[0].mean for who, points in evaluation.groups[0].difference.items()}
    assert gains == {"adapter, 4 tokens": 0, "adapter, 64 tokens": 0.1}  # one of ten answers is 1
    assert "forced" in said.stdout and "<h2>What more tokens buy</h2>" in page(tmp_path)


def test_the_gate_looks_at_each_arm_and_stops_for_any(
    dail_eval: Callable[..., Result], make_adapter: Make, tmp_path: Path
):
    adapters = [word for name in ("good", "same") for word in ("--adapter", make_adapter(name))]
    assert dail_eval(*adapters).return_value == 0
    # "good" is sure from the first sample on, so that its pass@k rises with k by half of what the base's does
    stopped = dail_eval(*adapters, "--set", "gate.action=stop", "--set", "gate.slope_floor=0.9")
    assert stopped.return_value == EXIT_GATE
    evaluation = read(tmp_path)
    assert (evaluation.gate["good"].stops, evaluation.gate["same"].stops) == (True, False)
    assert "warning: good: gate: slope of pass@k, good ÷ base: 0.333 (0.375 of base, 0.125 of good)" in stopped.stderr
    assert "Signs of a collapse in good: 1 warning" in page(tmp_path)
    assert dail_eval(*adapters, "--set", "gate.action=off").return_value == 0
    assert {seen.action for seen in read(tmp_path).gate.values()} == {"off"}


def test_an_adapter_that_changes_nothing_is_named_among_others(
    dail_eval: Callable[..., Result], make_adapter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    prompts: Prompts,
):  # fmt: skip
    def answer(row: TokenSequence) -> list[int]:
        text = "good" if "good" in str(row.adapter) else "the same"
        return prompts.tokenizer.encode(text, add_special_tokens=False)

    monkeypatch.setattr(run, "start_engine", lambda *_: TableEngine(answer))
    said = dail_eval("--adapter", make_adapter("good"), "--adapter", make_adapter("idle")).stderr
    assert "All 40 completions of idle equal the base model's, word for word" in said
    assert "completions of good" not in said
    assert read(tmp_path).num_same_text == {"good": 0, "idle": 40}


def test_dail_and_its_controls_may_be_judged_in_one_evaluation(
    dail_eval: Callable[..., Result], make_adapter: Make, tmp_path: Path
):
    good, control = make_adapter("good"), make_adapter("same", shown="nothing")
    dail_eval("--adapter", good, "--adapter", control)
    assert "<h2>What the controls explain</h2>" in page(tmp_path)
    row = page(tmp_path)[page(tmp_path).index("no_solution<small>same</small>") :]
    assert row.index("0 % (0 to 0 %)") < row.index("</tr>")
    place = str(tmp_path / "e")
    said = CliRunner().invoke(compare, [f"{place}:good", f"{place}:same"], catch_exceptions=False)
    assert "no_solution: +0.0 points" in said.stderr
    with pytest.raises(UsageError, match=rf"judges 2 arms with an adapter; say which is meant: {place}:good, {place}"):
        CliRunner().invoke(compare, [place, f"{place}:same"], catch_exceptions=False)
    with pytest.raises(UsageError, match=r"no arm with an adapter that is called 'sane'; there are .*:good"):
        CliRunner().invoke(compare, [f"{place}:good", f"{place}:sane"], catch_exceptions=False)


def test_without_one_dail_among_the_adapters_no_controls_are_shown(
    dail_eval: Callable[..., Result], make_adapter: Make, tmp_path: Path
):
    dail_eval("--adapter", make_adapter("good"), "--adapter", make_adapter("same"))
    assert "What the controls explain" not in page(tmp_path)


def test_the_report_says_whose_prompts_are_other_tokens(
    dail_eval: Callable[..., Result], other_model: Path, tmp_path: Path
):
    dail_eval("--model", other_model)
    assert "<h2>Model other-model</h2>" in page(tmp_path) and "<dd>the tokens that model has</dd>" in page(tmp_path)
    (other_model / "chat_template.jinja").write_text("{{ messages[-1].content }}\n")
    dail_eval("--model", other_model)
    assert "<dd>its own chat template</dd>" in page(tmp_path)


def test_the_door_takes_names(problems: Path, make_adapter: Make, other_model: Path, tmp_path: Path):
    config = EvalConfig(engine=EngineConfig(model=DEMO_MODEL), samples=NUM_SAMPLES)
    adapters = {"b": make_adapter("good"), "a": make_adapter("bad")}
    models = {"small": DEMO_MODEL, "big": other_model}
    found = evaluate_door(problems, tmp_path / "e", config=config, adapters=adapters, models=models)
    assert [one.name for one in found.subjects] == ["small", "b", "a", "big"]
    assert found == read(tmp_path)
    with pytest.raises(UsageError, match="adapter and adapters are both given"):
        evaluate_door(problems, tmp_path / "e", make_adapter("x"), config, adapters=adapters)
    with pytest.raises(UsageError, match="model and models are both given"):
        evaluate_door(problems, tmp_path / "e", config=config, model=DEMO_MODEL, models=models)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--adapter", "base={good}"], "more than one of those that are judged is called 'base'"),
        (["--adapter", "a={good}", "--adapter", "a={bad}"], "is called 'a'"),
        (["--adapter", "a={good}", "--adapter", "b={good}"], r"b and a are the same adapter \(.*good.* and .*good"),
        (["--model", "again={model}"], r"again and base are the same model \("),
        (["--adapter", "={good}"], "'' cannot be the name of what is judged"),
        (["--adapter", " a={good}"], "' a' cannot be the name"),
        (["--adapter", "a\tb={good}"], r"'a\\tb' cannot be the name"),
        (["--adapter", "a" * 65 + "={good}"], "1 to 64 characters"),
        (["--adapter", "a={model}"], r"adapter_config\.json"),
        (["--set", "eval.temperatures=[0.6, 0.6]"], "0.6 is there twice"),
        (["--set", "eval.temperatures=[2.5]"], "eval.temperatures"),
        (["--set", "eval.temperatures=[nan]"], "eval.temperatures"),
        (["--set", "eval.budgets=[0]"], "eval.budgets"),
        (["--set", "eval.budgets=[8, 8]"], "8 is there twice"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_an_engine_starts(
    dail_eval: Callable[..., Result], make_adapter: Make, engines: list[Any], given: list[str], says: str
):
    places = {name: make_adapter(name) for name in ("good", "bad")} | {"model": DEMO_MODEL}
    with pytest.raises(UsageError, match=says):
        dail_eval(*(one.format(**places) for one in given))
    assert not engines


def test_a_folder_that_is_not_there_is_named(dail_eval: Callable[..., Result]):
    for given in ("nowhere", "mine=nowhere", "mine="):
        with pytest.raises(Exception, match=r"Directory '(nowhere)?' does not exist"):
            dail_eval("--adapter", given)


def test_a_folder_with_an_equals_sign_in_its_name_is_a_folder(
    dail_eval: Callable[..., Result], make_adapter: Make, tmp_path: Path
):
    make_adapter("good").parent.rename(tmp_path / "epochs=3")
    dail_eval("--adapter", tmp_path / "epochs=3" / "adapter", "--adapter", make_adapter("bad"))
    assert [one.name for one in read(tmp_path).subjects] == ["base", "epochs=3", "bad"]


def test_an_adapter_of_the_second_model_is_refused_with_the_way_out(
    dail_eval: Callable[..., Result], make_adapter: Make, other_model: Path, engines: list[Any]
):
    from dail.synth.schema.models import identify

    adapter = make_adapter("good", of=identify(other_model))
    with pytest.raises(IntegrityError, match=r"was trained on .*; it fits other-model, and adapters are judged on the"):
        dail_eval("--model", other_model, "--adapter", adapter)
    with pytest.raises(IntegrityError, match=r"give the base model that it was trained on$"):
        dail_eval("--adapter", adapter)
    assert not engines


def test_names_that_are_markup_stay_text(dail_eval: Callable[..., Result], make_adapter: Make, tmp_path: Path):
    name = f"[bold]{HOSTILE}"
    said = dail_eval("--adapter", f"{name}={make_adapter('good')}").stdout
    assert "[bold]<script>" in said
    assert "<script" not in page(tmp_path) and "[bold]&lt;script&gt;" in page(tmp_path)
