"""An evaluation with a grader and prompts of the user's own, from the setting to eval.json and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dail.serve.cli import dail, main
from dail.synth import EngineConfig
from dail.synth.core.config import fingerprint
from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import label
from dail.synth.engine.base import Engine
from dail.synth.method.prompts import Prompts
from dail.train.evals import EvalConfig, EvalProblem, Evaluation, evaluate, run
from tests.conftest import DEMO_MODEL, Told
from tests.train.evals.conftest import TableEngine

SOURCE = """
import re, time

def statute(completion, answer):
    cited = re.findall(r"§ ?\\d+[a-z]? [A-Z]\\w+", completion)
    return bool(cited) and cited[-1] == answer

def anything(completion, answer):
    return True

def slow(completion, answer):
    time.sleep(600)

def broken(completion, answer):
    return {}[answer]
"""
PROBLEMS = [
    {"id": "sale", "problem": "What may the buyer claim?", "answer": "§ 433 BGB"},
    {"id": "damages", "problem": "What may the seller claim?", "answer": "§ 280 BGB"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "law.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch, prompts: Prompts) -> TableEngine:
    """It cites one statute, whatever it is asked, and no box."""
    said = prompts.tokenizer.encode("Not § 280 BGB, but § 433 BGB.", add_special_tokens=False)
    engine = TableEngine(lambda row: said)
    monkeypatch.setattr(run, "start_engine", lambda *_: engine)
    return engine


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Evaluation]:
    def judge(grader: str, problems: Any = PROBLEMS, **changes: Any) -> Evaluation:
        config = EvalConfig(engine=EngineConfig(model=DEMO_MODEL), samples=2, max_tokens=50, grader=grader, **changes)
        return evaluate(problems, tmp_path / "e", config=config)

    return judge


def test_law_is_judged_and_eval_json_says_by_what(judged: Callable[..., Evaluation], file: Path, tmp_path: Path):
    evaluation = judged(f"{file}:statute")
    assert Evaluation.model_validate_json((tmp_path / "e" / "eval.json").read_bytes()) == evaluation
    assert [problem.num_correct["base"] for problem in evaluation.problems] == [2, 0]
    pinned = evaluation.settings.grader
    assert pinned.startswith(f"{file}:statute#")
    judgement = evaluation.problems[0].judgements["base"][0]
    assert (judgement.method, judgement.extracted) == (label(pinned), None)
    assert evaluation.summary["base"].num_without_box is None


def test_the_report_shows_the_grader_and_says_nothing_of_boxes(
    judged: Callable[..., Evaluation], file: Path, tmp_path: Path
):
    evaluation = judged(f"{file}:statute", grade_timeout_s=7)
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert f"{label(evaluation.settings.grader)}, at most 7 s a completion" in html
    assert "without a box" not in html and "cut in thought" not in html and "judging given up" in html
    assert judged("math").summary["base"].num_without_box == 4
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert "without a box" in html and "cut in thought" in html and "math, at most 5 s a completion" in html


def test_another_grader_judges_the_same_completions_anew(
    judged: Callable[..., Evaluation], file: Path, tmp_path: Path, engine: TableEngine
):
    judged(f"{file}:statute")
    drawn = (tmp_path / "e" / "samples.jsonl").read_bytes()
    assert [problem.num_correct["base"] for problem in judged(f"{file}:anything").problems] == [2, 2]
    assert [problem.num_correct["base"] for problem in judged("math").problems] == [0, 0]
    assert (tmp_path / "e" / "samples.jsonl").read_bytes() == drawn and len(engine.asked) == 4


def test_one_that_takes_too_long_is_counted_as_given_up(judged: Callable[..., Evaluation], file: Path):
    summary = judged(f"{file}:slow", grade_timeout_s=0.3).summary["base"]
    assert (summary.num_given_up, summary.num_correct) == (4, 0)


def test_a_mistake_of_the_grader_ends_it_with_the_problem_named(
    judged: Callable[..., Evaluation], file: Path, tmp_path: Path, engine: TableEngine
):
    with pytest.raises(UsageError, match=r"problem sale, sample 0 of base: grader .*law\.py:broken failed with KeyErr"):
        judged(f"{file}:broken")
    assert not (tmp_path / "e" / "eval.json").exists()
    file.write_text(SOURCE.replace("{}[answer]", "False"))
    judged(f"{file}:broken")
    assert len(engine.asked) == 4


def test_a_grader_that_changed_after_it_was_pinned_is_refused(judged: Callable[..., Evaluation], file: Path):
    pinned = judged(f"{file}:statute").settings.grader
    file.write_text(SOURCE + "\n")
    with pytest.raises(UsageError, match=r"grader .*law\.py:statute has source .* it changed since this began"):
        judged(pinned)


def test_a_change_while_it_draws_and_judges_does_not_pass_unseen(
    judged: Callable[..., Evaluation], file: Path, tmp_path: Path
):
    file.write_text(SOURCE + f"\ndef turns(completion, answer):\n    open({str(file)!r}, 'a').write('#')\n    1 / 0\n")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        judged(f"{file}:turns")
    file.write_text(
        SOURCE + f"\ndef turns(completion, answer):\n    open({str(file)!r}, 'a').write('#')\n    slow(1, 2)\n"
    )
    with pytest.raises(UsageError, match=r"problem damages, .* it changed since this began"):
        judged(f"{file}:turns", grade_timeout_s=0.3)


@pytest.mark.parametrize("content", ["1 / 0", "import no_such_module", None])
def test_one_that_cannot_be_imported_is_refused_before_the_engine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None
):
    def no_engine(*_: Any) -> Engine:
        raise AssertionError("the engine was started")

    monkeypatch.setattr(run, "start_engine", no_engine)
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "bad.py").write_text(content)
    (tmp_path / "problems.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}\n')
    command = ["dail", "eval", "--model", str(DEMO_MODEL), "--problems", "problems.jsonl", "--out", "e"]
    monkeypatch.setattr("sys.argv", [*command, "--set", "eval.grader=bad.py:grade"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"grader {tmp_path}/bad.py:grade" in (said := capsys.readouterr().err) and "Traceback" not in said


def test_the_command_takes_a_grader_beside_it(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "problems.jsonl").write_text('{"problem": "What may the buyer claim?", "answer": "§ 433 BGB"}\n')
    command = ["eval", "--model", DEMO_MODEL, "--problems", "problems.jsonl", "--out", "e", "--samples", "1"]
    done = CliRunner().invoke(dail, [*map(str, command), "--set", "eval.grader=law.py:statute", "--json"])
    assert done.exit_code == 0, done.stderr
    evaluation = Evaluation.model_validate_json((tmp_path / "e" / "eval.json").read_bytes())
    assert evaluation.settings.grader.startswith(f"{file}:statute#")
    assert evaluation.summary["base"].num_correct == 1


def test_problems_come_as_objects_of_either_kind(
    judged: Callable[..., Evaluation], file: Path, engine: TableEngine, told: Told
):
    mappings = judged(f"{file}:statute")
    objects = judged(f"{file}:statute", (EvalProblem.model_validate(problem) for problem in PROBLEMS))
    assert objects.problems == mappings.problems and len(engine.asked) == 4
    plain = [{**problem, "metadata": {}} for problem in PROBLEMS]
    assert objects.problems_digest == mappings.problems_digest == fingerprint(plain)
    assert objects.problems_file is None


def test_own_prompts_ask_and_are_told_and_give_other_completions(
    judged: Callable[..., Evaluation], file: Path, engine: TableEngine, prompts: Prompts, tmp_path: Path
):
    folder = tmp_path / "law"
    folder.mkdir()
    (folder / "student.jinja").write_text("{{ problem }} Cite one provision.")
    judged(f"{file}:statute")
    num_asked = len(engine.asked)
    evaluation = judged(f"{file}:statute", prompts=str(folder))
    asked = engine.asked[num_asked:]
    assert len(asked) == num_asked and all("Cite one" in prompts.text(list(one.prompt_ids)) for one in asked)
    assert label(evaluation.settings.prompts).startswith("law#")
    assert label(evaluation.settings.prompts) in (tmp_path / "e" / "report.html").read_text("utf-8")
    judged(f"{file}:statute", prompts=str(folder))
    assert len(engine.asked) == 2 * num_asked, "the same prompts find their completions again"


def test_prompts_that_cannot_be_used_are_refused_before_the_engine_starts(
    judged: Callable[..., Evaluation], engine: TableEngine, tmp_path: Path
):
    (tmp_path / "law").mkdir()
    (tmp_path / "law" / "student.jinja").write_text("{{ problem }} {{ solution }}")
    with pytest.raises(UsageError, match="of student shows solution; it may show kind, problem"):
        judged("math", [{"id": "a", "problem": "1?", "answer": "1"}], prompts=str(tmp_path / "law"))
    assert not engine.asked
