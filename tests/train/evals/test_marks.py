"""Shortcuts that a user's own function finds: counted beside pass@k, marked in the samples, and its mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from dail.synth import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import label
from dail.synth.engine.base import TokenSequence
from dail.synth.method.prompts import Prompts
from dail.train.evals import EvalConfig, EvalProblem, Evaluation, evaluate, marks, run
from dail.train.evals.commands import evaluate as command
from dail.train.evals.formulas import marked, with_formulas
from dail.train.evals.marks import MARKS, Marker, clipped
from tests.conftest import DEMO_MODEL
from tests.synth.method.test_grading import gone_within, is_alive
from tests.train.evals.conftest import TableEngine, write_adapter

SOURCE = r"""
import re, sys, time

def jumps(completion, problem):
    assert problem.id.startswith("p") and problem.answer
    return [match.span() for match in re.finditer("clearly", completion)]

def nothing(completion, problem):
    return []

def chatty(completion, problem):
    print("[[0, 1]]"); sys.stdin.read(0)
    return [(0, 1)]

def broken(completion, problem):
    return [{}[problem.id]]

def leaves(completion, problem):
    sys.exit(3)

def dies(completion, problem):
    import os; os._exit(7)

def far(completion, problem):
    return [(0, len(completion) + 1)]

def empty(completion, problem):
    return [(2, 2)]

def words(completion, problem):
    return ["clearly"]

def halves(completion, problem):
    return [(0.0, 1.0)]

def slow(completion, problem):
    time.sleep(600)

def starts(completion, problem):
    import subprocess
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    open(completion, "w").write(str(child.pid))
    return []

def one(completion):
    return []

value = 3
"""
PROBLEMS = [{"id": f"p{n}", "problem": f"Say {n}.", "answer": str(n)} for n in range(3)]
Judge = Callable[..., Evaluation]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shortcuts.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch, prompts: Prompts) -> TableEngine:
    """The base jumps twice in p0 and once in p1; the adapter never."""

    def answer(row: TokenSequence) -> list[int]:
        asked = prompts.text(list(row.prompt_ids))
        jumps = 0 if row.adapter else 2 if "Say 0." in asked else 1 if "Say 1." in asked else 0
        text = "so " + "clearly $x_1 = 4$ " * jumps + r"\boxed{1}"
        return prompts.tokenizer.encode(text, add_special_tokens=False)

    engine = TableEngine(answer)
    monkeypatch.setattr(run, "start_engine", lambda *_: engine)
    return engine


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    adapter = write_adapter(tmp_path / "adapter", None)

    def judge(marks: str | None) -> Evaluation:
        config = EvalConfig(engine=EngineConfig(model=DEMO_MODEL), samples=2, max_tokens=60, marks=marks)
        return evaluate(PROBLEMS, tmp_path / "e", adapter, config)

    return judge


def test_shortcuts_are_counted_by_arm_with_the_difference(judge: Judge, file: Path, tmp_path: Path):
    evaluation = judge(f"{file}:jumps")
    assert Evaluation.model_validate_json((tmp_path / "e" / "eval.json").read_bytes()) == evaluation
    (everything,) = evaluation.groups
    assert {who: one.mean for who, one in everything.marked.items()} == {"base": pytest.approx(2 / 3), "adapter": 0}
    assert everything.marked_difference["adapter"].mean == pytest.approx(-2 / 3)
    base = evaluation.summary["base"]
    assert (base.num_marked, base.mean_marks) == (4, 1.0)
    assert [problem.judgements["base"][0].num_marks for problem in evaluation.problems] == [2, 1, 0]
    assert str(evaluation.settings.marks).startswith(f"{file}:jumps#")


def test_they_stand_beside_pass_at_k_and_are_marked_where_they_are(judge: Judge, file: Path, tmp_path: Path):
    evaluation = judge(f"{file}:jumps")
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert '<th scope="col">with a shortcut, %</th>' in html and '<td data-of="with a shortcut, %">66.7<small>' in html
    assert html.count("<mark>clearly</mark>") == 2 * (2 + 1), "as prose, and as it was written"
    assert "<b>2 shortcuts</b>" in html and f"is what {label(str(evaluation.settings.marks))} calls a shortcut" in html
    without = judge(None)
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert "<mark" not in html and "shortcut" not in html and without.groups[0].marked == {}


def test_another_function_draws_nothing_anew(judge: Judge, file: Path, engine: TableEngine):
    judge(f"{file}:jumps")
    num_asked = len(engine.asked)
    assert judge(f"{file}:nothing").groups[0].marked["base"].mean == 0
    assert judge(f"{file}:chatty").summary["base"].mean_marks == 1  # what it prints is no reply
    assert len(engine.asked) == num_asked


def test_the_verb_shows_them(file: Path, tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    fixed = ["--model", str(DEMO_MODEL), "--problems", str(path), "--out", str(tmp_path / "v"), "--samples", "2"]
    told = [*fixed, "--set", f"eval.marks={file}:jumps"]
    assert re.search(r"shortcut .*66\.7", CliRunner().invoke(command, told).stdout, re.DOTALL)
    said = json.loads(CliRunner().invoke(command, [*told, "--json"]).stdout)
    assert said["groups"][0]["marked"]["base"]["mean"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "broken",
            r"marks .*:broken failed with KeyError: 'p0', in line 16 of shortcuts",
        ),
        ("leaves", "failed with SystemExit: 3"),
        ("dies", r"marks .*:dies ended its process \(exit code 7\)"),
        ("far", r"returned \(0, (\d+)\) for a text of \d+ characters; wanted whole numbers"),
        ("empty", r"returned \(2, 2\)"),
        ("words", "failed with ValueError: too many values to unpack.*; wanted pairs"),
        ("halves", r"returned \(0\.0, 1\.0\)"),
        ("slow", "took longer than 0.2 s"),
    ],
)
def test_its_mistakes_are_told(file: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str):
    if name == "slow":
        monkeypatch.setattr(marks, "_LONGEST_S", 0.2)
        monkeypatch.setattr(marks, "_LOOK_S", 0.1)
    with Marker(MARKS.pin(f"{file}:{name}")) as marker, pytest.raises(UsageError, match=says):
        marker.spans("so it is 4", EvalProblem(id="p0", problem="Say 0.", answer="0"))


def test_a_mistake_ends_the_evaluation_and_keeps_the_completions(
    judge: Judge, file: Path, engine: TableEngine, tmp_path: Path
):
    with pytest.raises(UsageError, match=r"problem p0, sample 0 of base: marks .*; the completions are kept"):
        judge(f"{file}:broken")
    assert len(engine.asked) == len((tmp_path / "e" / "samples.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("{file}:none", "nothing named none"),
        ("{file}:value", "is a int; wanted a function of completion and problem"),
        ("{file}:one", "cannot be called with a completion and a problem"),
        ("{file}.py:jumps", "there is no file"),
        ("jumps", "there is no marks 'jumps'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_anything_is_drawn(
    judge: Judge, file: Path, engine: TableEngine, reference: str, says: str
):
    with pytest.raises(UsageError, match=says):
        judge(reference.format(file=file))
    assert not engine.asked


def test_marks_keep_their_places_beside_formulas_and_markup():
    text = "a <b> $x^2$ then\r\n$$y$$\nend"
    start = text.index("then")
    html = with_formulas(text, [(2, 5), (start, start + 4), (len(text) - 3, len(text))])
    assert html.startswith("a <mark>&lt;b&gt;</mark> <math>") and "<mark>then</mark><math" in html
    assert html.endswith("</math><mark>end</mark>")
    inside = with_formulas(text, [(text.index("^"), text.index("^") + 1)])
    assert inside.startswith("a &lt;b&gt; <mark><math>") and inside.count("<mark>") == 1
    assert with_formulas(text, []) == with_formulas(text)
    assert marked("a\r\nb\x00c", [(3, 5)]) == "a\n<mark>b␀</mark>c"


def test_spans_are_clipped_to_the_part_that_is_shown_and_joined_where_they_overlap():
    assert clipped([(8, 20), (3, 6), (0, 4)], 2, 10) == ((0, 4), (6, 8))
    assert clipped([(0, 2), (10, 12)], 2, 10) == ()


def test_what_the_function_started_ends_with_it(file: Path, tmp_path: Path) -> None:
    with Marker(MARKS.pin(f"{file}:starts")) as marker:
        marker.spans(str(tmp_path / "pid"), EvalProblem(id="p0", problem="Say 0.", answer="0"))
        pid = int((tmp_path / "pid").read_text())
        assert is_alive(pid)
    assert gone_within(pid, 60)
