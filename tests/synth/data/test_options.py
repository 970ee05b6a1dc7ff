"""The same options on every verb that reads items, and what a verb with `--json` prints when it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dail.serve.cli import main
from dail.synth.run import local
from dail.synth.run.local import SynthesisResult
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import ItemKinds
from dail.train.evals import evaluation
from dail.train.evals.problems import EvalProblem
from tests.conftest import DEMO_MODEL

ROW = {"question": "1+1?", "worked_1": "It is \\boxed{2}.", "worked_2": "Count.", "final": 2.0, "area": "sums"}
MAP = ("--map", "problem=question,solution=worked_*", "--map", "answer=final")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Dail = Callable[..., Ended]


@pytest.fixture
def dail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Dail:
    """Runs a verb in this process, the way the script does, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dail", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[ExpertSolution]:
    """What `dail synth` would draw."""
    found: list[ExpertSolution] = []

    def draw(items: list[ExpertSolution], *_: Any) -> SynthesisResult:
        found.extend(items)
        return SynthesisResult(
            batch_id="b", manifest=None, units=1, committed=1, failed=0, tokens=1, student_share=None,
            interrupted=False, kinds=ItemKinds(), failures=(),
        )  # fmt: skip

    monkeypatch.setattr(local, "_synthesise", draw)
    return found


def write(path: str, *rows: Any) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_synth_takes_several_files_maps_them_and_says_so_in_json(dail: Dail, drawn: list[ExpertSolution]):
    files = write("a.jsonl", ROW), write("b.jsonl", {**ROW, "question": "2+2?", "final": 4})
    ended = dail("synth", *files, *MAP, "--keep-rest", "--out", "out", "--model", DEMO_MODEL, "--json")
    assert ended.code == 0, ended.err
    assert [(item.problem, item.answer, item.solution, item.metadata) for item in drawn] == [
        ("1+1?", "2", ("It is \\boxed{2}.", "Count."), {"area": "sums"}),
        ("2+2?", "4", ("It is \\boxed{2}.", "Count."), {"area": "sums"}),
    ]
    read = json.loads(ended.out)["read"]
    assert [source["mapped"]["answer"] for source in read["sources"]] == ["final", "final"]
    assert "mapped: 1 item from b.jsonl: question → problem, worked_* → solution, final → answer; 1 column" in ended.err


def test_synth_leaves_out_bad_rows_and_writes_them_beside_the_shards(dail: Dail, drawn: list[ExpertSolution]):
    file = write("a.jsonl", ROW, {**ROW, "question": " "})
    command = ("synth", file, *MAP, "--keep-rest", "--out", "out", "--model", DEMO_MODEL, "--json")
    refused = dail(*command)
    facts = json.loads(refused.out)
    assert (refused.code, facts["error"], facts["bad_rows"], len(facts["faults"])) == (2, "invalid_input", 1, 1)
    assert facts["faults"][0] | {"detail": ""} == {
        "file": "a.jsonl", "line": 2, "column": "question (as problem)", "code": "value_error", "detail": "",
    }  # fmt: skip
    assert not drawn and not Path("out").exists()
    ended = dail(*command, "--skip-invalid")
    assert (ended.code, len(drawn), json.loads(ended.out)["read"]["invalid"]) == (0, 1, 1)
    assert json.loads((Path("out") / "invalid.jsonl").read_text())["line"] == 2
    dail(*command, "--skip-invalid", "--invalid-to", "elsewhere.jsonl")
    assert json.loads(Path("elsewhere.jsonl").read_text())["line"] == 2


def test_doctor_reads_as_synth_does(dail: Dail):
    file = write("a.jsonl", ROW, {**ROW, "question": "2+2?", "worked_1": "a\f"})
    command = ("doctor", file, *MAP, "--keep-rest", "--model", DEMO_MODEL, "--no-preview", "--json")
    refused = dail(*command)
    assert (refused.code, json.loads(refused.out)["bad_rows"]) == (2, 1)
    ended = dail(*command, "--skip-invalid")
    report = json.loads(ended.out)
    assert (ended.code, report["items"]["items"], report["read"]["invalid_to"]) == (0, 1, "invalid.jsonl")
    assert Path("invalid.jsonl").exists()


def test_eval_reads_problems_in_the_same_way(dail: Dail, monkeypatch: pytest.MonkeyPatch):
    asked: list[EvalProblem] = []

    def judge(problems: list[EvalProblem], *_: Any) -> None:
        asked.extend(problems)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "_evaluate", judge)
    one, two = write("a.jsonl", ROW, {**ROW, "final": ""}), write("b.jsonl", {**ROW, "question": "2+2?"})
    more = ("--map", "problem=question,answer=final,metadata.group=area", "--keep-rest", "--skip-invalid")
    ended = dail("eval", "--problems", one, "--problems", two, *more, "--model", DEMO_MODEL, "--out", "e")
    assert ended.code == 130, ended.err
    assert [(problem.problem, problem.answer, problem.group) for problem in asked] == [
        ("1+1?", "2", "sums"),
        ("2+2?", "2", "sums"),
    ]
    assert json.loads((Path("e") / "invalid.jsonl").read_text())["line"] == 2


FAILING = {
    "a file that is not there": (("synth", "no.jsonl", "--out", "o", "--model", str(DEMO_MODEL)), "does not exist"),
    "columns nobody knows": (("submit", "unknown.jsonl"), "no column is the problem"),
    "an argument that is missing": (("synth",), "FILE"),
    "an option that is missing": (("eval", "--out", "o"), "--problems"),
    "a setting that is wrong": (("submit", "unknown.jsonl", "--set", "tau=7"), "synthesis.tau"),
    "no server": (("watch", "b", "--api", "http://127.0.0.1:9"), "no API at"),
    "a manifest that is not there": (("train", "--model", "m", "--manifest", "no", "--out", "o"), "no"),
}


@pytest.mark.parametrize("name", FAILING)
def test_where_a_verb_with_json_fails_standard_output_says_why(dail: Dail, name: str):
    arguments, why = FAILING[name]
    write("unknown.jsonl", {"text": "?"})
    ended = dail(*arguments, "--json")
    facts = json.loads(ended.out)
    assert ended.code == facts["exit_code"] != 0
    assert why in facts["message"] and facts["error"] and "Traceback" not in ended.err
    assert dail(*arguments).out == ""


def test_submit_sends_what_was_mapped(dail: Dail, monkeypatch: pytest.MonkeyPatch):
    from dail.serve import commands

    sent: list[Any] = []

    def post(client: Any, path: str, body: Any) -> Any:
        sent.append(body)
        counts = {"total": 1}
        known = {"id": "b", "status": "queued", "model": {"name": "m"}, "item_kinds": {}}
        return {**known, "request_counts": counts, "units": counts}

    monkeypatch.setattr(commands.Client, "post", post)
    ended = dail(
        "submit",
        write("a.jsonl", ROW, ROW, {**ROW, "worked_1": 3, "final": True}),
        *MAP,
        "--keep-rest",
        "--skip-invalid",
    )
    assert (ended.code, ended.out) == (0, "b\n"), ended.err
    assert sent[0]["items"] == [
        {
            "id": "item-00000", "problem": "1+1?", "solution": ["It is \\boxed{2}.", "Count."], "answer": "2",
            "metadata": {"area": "sums"},
        }
    ]  # fmt: skip
    assert "equal items are drawn once, 1 left out" in ended.err and Path("invalid.jsonl").exists()
