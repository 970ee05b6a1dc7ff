"""The plan of `dail loop`, with verbs that only say what they were asked."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dail.serve import loop as loop_module
from dail.serve.children import Children
from dail.serve.cli import dail
from dail.synth.core.errors import EXIT_GATE, DailError, GateStopped
from tests.conftest import DEMO_MODEL
from tests.serve.recorded import Recorded


class Verbs(Recorded):
    def left(self, name: str, said: tuple[str, ...], allowed: Any) -> str:
        if name == "select":
            return f"{said[1]}.chosen\n"
        out = Path(said[said.index("--out") + 1])
        if name == "synth":
            return json.dumps({"manifest": f"{out}/v1.json", "committed": 4})
        (out / "adapter").mkdir(parents=True)
        return json.dumps({"adapter": str(out / "adapter")})

    def run(self, name: str, *args: object) -> None:
        Verbs.asked.append(tuple(map(str, args)))
        Path(str(args[-1])).mkdir(parents=True)


@pytest.fixture(autouse=True)
def verbs(monkeypatch: pytest.MonkeyPatch) -> type[Verbs]:
    Verbs.asked, Verbs.dies_at = [], None
    monkeypatch.setattr(loop_module, "Children", Verbs)
    return Verbs


@pytest.fixture
def items(tmp_path: Path) -> Path:
    rows = [{"problem": f"{n} + {n}?", "solution": "Add.", "answer": str(2 * n), "id": f"sum-{n}"} for n in range(5)]
    return written(tmp_path / "items.jsonl", rows)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(items: Path, out: Path, *settings: str) -> Any:
    words = [word for one in settings for word in ("--set", one)]
    result = CliRunner().invoke(
        dail, ["loop", str(items), "--model", str(DEMO_MODEL), "--out", str(out), "--json", *words]
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def after(option: str, said: tuple[str, ...]) -> list[str]:
    return [said[at + 1] for at, word in enumerate(said) if word == option]


def used(out: Path, number: int) -> list[str]:
    lines = (out / f"round-{number:04d}" / "items.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


@pytest.mark.parametrize(
    ("reference", "of_second", "of_third"),
    [("frozen", None, None), ("live", "round-0001/train/adapter", "round-0002/train/adapter"),
     ("mean", "round-0001/mean", "round-0002/mean")],
)  # fmt: skip
def test_each_round_s_adapter_is_the_next_one_s_student(items, tmp_path, verbs, reference, of_second, of_third):
    out = tmp_path / "rounds"
    result = run(items, out, "loop.rounds=3", f"loop.reference={reference}")
    assert json.loads(result.stdout)["adapter"] == str(out / "round-0003" / "train" / "adapter")
    drawn = [said for said in verbs.asked if said[0] == "synth"]
    trained = [said for said in verbs.asked if said[0] == "train"]
    assert [said[0] for said in verbs.asked if said[0] != "average"] == ["synth", "train"] * 3
    students = [None, "round-0001/train/adapter", "round-0002/train/adapter"]
    references = [None, of_second, of_third]
    for said, student, frozen in zip(drawn, students, references, strict=True):
        wanted = [f"worker.student_adapter={out / student}"] if student else []
        wanted += [f"worker.privileged_adapter={out / frozen}"] if frozen else []
        assert after("--set", said) == wanted
    for said, student, frozen in zip(trained, students, references, strict=True):
        assert after("--init-adapter", said) == ([str(out / student)] if student else [])
        assert after("--reference-adapter", said) == ([str(out / frozen)] if frozen else [])
    means = [said for said in verbs.asked if said[0] == "average"]
    assert [after("--before", said) for said in means] == ([[], [str(out / "round-0001/mean")]] if means else [])
    assert bool(means) == (reference == "mean")


def test_the_paper_is_one_round_with_nothing_given(items, tmp_path, verbs):
    run(items, tmp_path / "one")
    synth, train = verbs.asked
    assert not after("--set", synth) and not after("--init-adapter", train)
    assert used(tmp_path / "one", 1) == [f"sum-{n}" for n in range(5)]


def test_what_is_kept_is_what_is_trained_on(items, tmp_path, verbs):
    run(items, tmp_path / "kept", "loop.keep=first_correct")
    manifest = str(tmp_path / "kept" / "round-0001" / "shards" / "v1.json")
    assert [said[0] for said in verbs.asked] == ["synth", "select", "train"]
    assert verbs.asked[1] == ("select", manifest, "--keep", "first_correct")
    assert after("--manifest", verbs.asked[2]) == [f"{manifest}.chosen"]


def test_rounds_of_some_items_go_through_all_of_them_in_an_order_of_each_pass(items, tmp_path):
    out = tmp_path / "some"
    run(items, out, "loop.rounds=5", "loop.items_per_round=2")
    seen = [used(out, number) for number in range(1, 6)]
    assert all(len(set(one)) == len(one) <= 2 for one in seen)
    assert sorted([*seen[0], *seen[1], seen[2][0]]) == [f"sum-{n}" for n in range(5)]
    # the second pass begins in the third round, whose two items may be one
    assert sorted([*seen[2][-1:], *seen[3], *seen[4]]) == [f"sum-{n}" for n in range(5)]
    again = tmp_path / "again"
    run(items, again, "loop.rounds=3", "loop.items_per_round=2")
    assert [used(again, number) for number in range(1, 4)] == seen[:3]
    other = tmp_path / "other"
    run(items, other, "loop.rounds=3", "loop.items_per_round=2", "synthesis.seed=1")
    assert [used(other, number) for number in range(1, 4)] != seen[:3]


@pytest.mark.parametrize("dies_at", ["synth", "select", "train"])
def test_a_loop_that_was_stopped_goes_on_and_later_gets_more_rounds(items, tmp_path, verbs, dies_at):
    out, settings = tmp_path / "stopped", ["loop.keep=random"]
    run(items, out, *settings)
    verbs.asked, verbs.dies_at = [], dies_at
    with pytest.raises(DailError, match="ended with exit code 1"):
        run(items, out, *settings, "loop.rounds=2")
    verbs.asked = []
    run(items, out, *settings, "loop.rounds=2")
    assert [said[0] for said in verbs.asked] == ["synth", "select", "train"]
    assert all("round-0002" in " ".join(said) for said in verbs.asked)


@pytest.mark.parametrize(
    ("changed", "named"),
    [("synthesis.tau=0.7", "synthesis.tau null there, 0.7 here"), ("lr=1e-3", "train.lr 0.0002 there, 0.001 here"),
     ("loop.reference=live", 'loop.reference "frozen" there, "live" here'),
     ("samples_per_item=2", "synthesis.samples_per_item 1 there, 2 here")],
)  # fmt: skip
def test_rounds_do_not_go_on_under_other_settings(items, tmp_path, changed, named):
    run(items, tmp_path / "out", "synthesis.tau=0.8")
    with pytest.raises(DailError, match="were begun otherwise") as refused:
        run(items, tmp_path / "out", changed, "loop.rounds=2")
    assert named.replace("null", "0.8") in str(refused.value)


def test_what_changes_no_adapter_may_change(items, tmp_path, verbs):
    run(items, tmp_path / "out")
    run(items, tmp_path / "out", "loop.rounds=2", "engine.rows=8", "microbatch_tokens=512")
    settings = (tmp_path / "out" / "settings.toml").read_text()
    assert "rows = 8" in settings and "microbatch_tokens = 512" in settings


def test_the_gate_s_settings_reach_training_and_may_change(items, tmp_path, verbs):
    out = tmp_path / "out"
    run(items, out, "gate.action=stop", "gate.max_mentions=0.5")
    settings = tomllib.loads((out / "settings.toml").read_text())
    assert settings["gate"] == {"action": "stop", "max_mentions": 0.5}
    assert after("--config", next(said for said in verbs.asked if said[0] == "train")) == [str(out / "settings.toml")]
    run(items, out, "gate.action=warn", "loop.rounds=2")
    assert tomllib.loads((out / "settings.toml").read_text())["gate"] == {"action": "warn"}


def test_a_verb_that_the_gate_stopped_ends_the_loop_with_the_gate_s_exit_code(tmp_path):
    with Children(tmp_path / "logs") as children, pytest.raises(GateStopped) as stopped:
        children._ended("train", EXIT_GATE)
    assert stopped.value.exit_code == EXIT_GATE == 6


def test_other_items_and_another_model_s_rounds_are_told_apart(items, tmp_path):
    run(items, tmp_path / "out")
    other = written(tmp_path / "other.jsonl", [{"problem": "1?", "solution": "It is 1.", "answer": "1"}])
    with pytest.raises(DailError, match="were begun otherwise: expert solutions"):
        run(other, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["worker.student_adapter=x"], "gives the roles their adapters itself"),
        (["worker.privileged_adapter=x"], "gives the roles their adapters itself"),
        (["loop.items_per_round=6"], "there are 5 expert solutions"),
        (["loop.rounds=2", "loop.reference=live", "worker.strategy=draft_verify"], "no engine reads with an adapter"),
        (["loop.rounds=0"], "loop.rounds"),
        (["train.tune=full"], "makes no adapter for the next round"),
        (["train.references=privileged=1,wrong_hint=-0.1"], "references names wrong_hint, .* they will have negative"),
        (
            ["train.references=hint=1,answer_only=-0.1", 'synthesis.contexts=["answer_only"]'],
            "references names hint, .* will have answer_only, negative",
        ),
        (["synthesis.enough=first_correct", "loop.keep=random"], "set loop.keep=first_correct"),
        (["loop.mean_decay=1"], "loop.mean_decay"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(items, tmp_path, verbs, settings, why):
    with pytest.raises(DailError, match=why):
        run(items, tmp_path / "out", *settings)
    assert not verbs.asked and not (tmp_path / "out").exists()


def test_correct_traces_of_proofs_alone_are_refused_at_once(tmp_path, verbs):
    proofs = written(tmp_path / "proofs.jsonl", [{"problem": "Show that 1 = 1.", "solution": "By reflexivity."}])
    with pytest.raises(DailError, match="none of the 1 expert solutions has an answer"):
        run(proofs, tmp_path / "out", "loop.keep=first_correct")
    assert not verbs.asked


def test_a_folder_of_something_else_is_left_alone(items, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(DailError, match="holds something that is not of this verb"):
        run(items, tmp_path / "mine")
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_damaged_record_is_named(items, tmp_path):
    out = tmp_path / "out"
    run(items, out)
    (out / "round-0001" / "round.json").write_text("{")
    with pytest.raises(DailError, match=r"round\.json cannot be read"):
        run(items, out)
    for damage in ("{", "[]", "3", "null", ""):
        (out / "loop.json").write_text(damage)
        with pytest.raises(DailError, match=r"loop\.json is damaged"):
            run(items, out)
