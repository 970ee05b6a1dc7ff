"""`dail eval` with benchmarks, names for files, and problems that were trained on, from flags to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dail.synth.core.errors import UsageError
from dail.synth.engine.base import Engine, TokenSequence
from dail.synth.method.prompts import Prompts
from dail.train.evals import run
from dail.train.evals.commands import evaluate
from dail.train.evals.results import Evaluation
from tests.conftest import DEMO_MODEL
from tests.train.evals.conftest import HOSTILE, TableEngine

LOCK = f"A lock shows 417 {HOSTILE}"  # the problem of the traces that `trained` was trained on
GPQA = {"Question": "Which?", "Correct Answer": "right", "Incorrect Answer 1": "4 eV", "Incorrect Answer 2": "w2",
        "Incorrect Answer 3": "w3", "Explanation": "e"}  # fmt: skip


@pytest.fixture(autouse=True)
def table_engine(monkeypatch: pytest.MonkeyPatch, prompts: Prompts) -> None:
    """Writes the text of the right choice into the box to all that is a choice, and 7 to everything else."""

    def answer(row: TokenSequence) -> list[int]:
        said = "right" if "(A)" in str(prompts.tokenizer.decode(row.prompt_ids)) else "7"
        return prompts.tokenizer.encode(rf"\boxed{{\text{{{said}}}}}", add_special_tokens=False)

    def engine(*_: Any) -> Engine:
        return TableEngine(answer, model_tokens=2048)

    monkeypatch.setattr(run, "start_engine", engine)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dail_eval(out: Path, *more: str) -> tuple[Result, Evaluation]:
    fixed = ["--model", str(DEMO_MODEL), "--out", str(out), "--samples", "2"]
    result = CliRunner().invoke(evaluate, [*fixed, *more], catch_exceptions=False)
    return result, Evaluation.model_validate_json((out / "eval.json").read_bytes())


def test_benchmarks_and_a_named_file_are_groups_of_one_run(tmp_path: Path) -> None:
    aime = write(tmp_path / "aime24.jsonl", *({"problem": f"Say {n}.", "answer": n} for n in range(6, 10)))
    gpqa = write(tmp_path / "gpqa_diamond.jsonl", GPQA)
    mine = write(tmp_path / "mine.jsonl", {"problem": "Say seven.", "answer": 7})
    flags = [f"--benchmark=aime-2024={aime}", f"--benchmark=gpqa-diamond={gpqa}", f"--problems=my own={mine}"]
    result, evaluation = dail_eval(tmp_path / "e", *flags, "--seed", "3")
    means = {group.group: group.passes["base"][0].mean for group in evaluation.groups}
    assert means == {"all problems": 0.5, "my own": 1.0, "aime": 0.25, "gpqa-diamond": 1.0}
    assert [(one.benchmark, one.num_problems, one.group) for one in evaluation.sources] == [
        (None, 1, "my own"), ("aime-2024", 4, "aime"), ("gpqa-diamond", 1, "gpqa-diamond"),
    ]  # fmt: skip
    assert evaluation.warning and "aime-2024 has 30 problems, and it gives 4." in evaluation.warning
    assert "my own, 1 problems: pass@k in %" in result.stdout
    assert evaluation.contamination is None and evaluation.without == ()
    asked = [line for line in (tmp_path / "e" / "samples.jsonl").read_text().splitlines() if "gpqa-diamond:1" in line]
    assert len(asked) == 2


def test_another_seed_is_another_order_of_the_choices(tmp_path: Path) -> None:
    gpqa = write(tmp_path / "g.jsonl", *({**GPQA, "Question": f"Which {n}?"} for n in range(8)))
    letters = {}
    for seed in "01":
        _, evaluation = dail_eval(tmp_path / seed, f"--benchmark=gpqa-diamond={gpqa}", "--seed", seed)
        letters[seed] = [problem.answer for problem in evaluation.problems]
        assert evaluation.groups[0].passes["base"][0].mean == 1.0
    assert letters["0"] != letters["1"]


def test_what_was_trained_on_is_told_and_figures_without_it_stand_beside(trained: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "seen", "problem": LOCK, "answer": 7, "metadata": {"group": "old"}},
        {"id": "new", "problem": "Say 7.", "answer": 7, "metadata": {"group": "mixed"}},
        {"id": "other", "problem": "Say 8.", "answer": 8, "metadata": {"group": "mixed"}},
    ]
    problems = write(tmp_path / "p.jsonl", *rows)
    elsewhere = write(tmp_path / "t.jsonl", {"problem": "say  8", "answer": 8})
    flags = ["--problems", str(problems), "--adapter", str(trained), "--trained-on", str(elsewhere)]
    result, evaluation = dail_eval(tmp_path / "e", *flags)
    found = evaluation.contamination
    assert found is not None and found.problem_ids == {"seen", "other"}
    assert [one.subjects for one in found.sets] == [("adapter",), ()]
    assert [(group.group, group.is_trained_on) for group in evaluation.groups] == [
        ("all problems", False), ("old", True), ("mixed", False),
    ]  # fmt: skip
    assert [(group.group, group.num_problems, group.passes["base"][0].mean) for group in evaluation.without] == [
        ("all problems", 1, 1.0), ("mixed", 1, 1.0),
    ]  # fmt: skip
    assert "old, 1 problems, trained on: pass@k" in result.stdout
    assert "mixed, 1 problems that were not trained on: pass@k" in result.stdout
    assert evaluation.warning and "2 of 3 problems were trained on" in evaluation.warning
    page = (tmp_path / "e" / "report.html").read_text()
    assert "contamination: 2 of 3 problems are in 2 training sets: 2 equal, 0 near" in page
    assert "mixed without them, 1 problem" in page and HOSTILE not in page
    said = json.loads(dail_eval(tmp_path / "e", *flags, "--json")[0].stdout)
    assert said["contamination"]["groups"][0]["group"] == "old" and len(said["without"]) == 2


def test_problems_or_a_benchmark_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no problems are named; give --problems FILE, or --benchmark with aime-2024"):
        dail_eval(tmp_path)
