"""Which problems were trained on: equal and near ones, by adapter, by group, and what cannot be looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.method.prompts import Prompts
from dail.synth.schema.manifest import read_item_problems, read_manifest
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.arms import Subject
from dail.train.evals.contamination import Contamination, find_contamination
from dail.train.evals.lineage import read_adapter
from dail.train.evals.problems import EvalProblem
from dail.train.record import Provenance
from tests.conftest import DEMO_MODEL
from tests.train.evals.conftest import trace_row, write_manifest

TRAIN = "A train leaves the station at noon and travels north at sixty miles an hour while another one goes south."
BOAT = (
    "A boat crosses the lake at dawn with nine passengers of whom each one carries as many apples as its age in years."
)


def problem(name: str, text: str, group: str | None = None, **more: Any) -> EvalProblem:
    metadata = {**({"group": group} if group else {}), **more.pop("metadata", {})}
    return EvalProblem(id=name, problem=text, answer=more.get("answer", "1"), metadata=metadata)


def written(path: Path, **problems: str) -> str:
    rows = [{"id": name, "problem": text, "solution": "s"} for name, text in problems.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def found(problems: list[EvalProblem], *trained_on: str) -> Contamination:
    contamination = find_contamination(problems, [], trained_on)
    assert contamination is not None
    return contamination


def test_equal_and_near_problems_are_told_apart_and_by_group(tmp_path: Path) -> None:
    problems = [
        problem("a", TRAIN, "east"), problem("b", BOAT, "east"), problem("c", "1 + 1?", "east"),
        problem("d", r"Find $\dfrac12$.", "west"), problem("e", TRAIN.upper(), "west"), problem("f", "2?"),
    ]  # fmt: skip
    source = written(tmp_path / "t.jsonl", t1=TRAIN, t2=f"Problem 7. {BOAT} Show why.", t3=r"find \frac12", t4="3?")
    one = found(problems, source)
    (looked,) = one.sets
    assert [(m.problem_id, m.item_id, m.kind) for m in looked.matches] == [
        ("a", "t1", "equal"), ("b", "t2", "near"), ("d", "t3", "equal"), ("e", "t1", "equal"),
    ]  # fmt: skip
    assert looked.num_items == 4 and looked.matches[1].share == 1.0
    assert [(g.group, g.num_problems, g.num_equal, g.num_near) for g in one.groups] == [
        ("east", 3, 1, 1), ("west", 2, 2, 0),
    ]  # fmt: skip
    assert one.line() == (
        "contamination: 4 of 6 problems are in 1 training set: 3 equal, 1 near (a as t1, b as t2, d as t3, and 1 more)"
    )


def test_what_is_in_two_sets_is_counted_once_and_equal_wins(tmp_path: Path) -> None:
    near = written(tmp_path / "near.jsonl", n=f"Again: {TRAIN}")
    equal = written(tmp_path / "equal.jsonl", e=TRAIN)
    one = found([problem("a", TRAIN)], near, equal)
    assert [m.kind for looked in one.sets for m in looked.matches] == ["near", "equal"]
    assert one.best["a"].item_id == "e" and one.problem_ids == {"a"}
    assert one.groups[0].num_equal == 1 and one.groups[0].num_near == 0


def test_a_question_is_found_without_the_choices_it_is_asked_with(tmp_path: Path) -> None:
    asked = problem("a", "Which gas?\n\n(A) red\n(B) blue", answer="B", metadata={"choices": ["red", "blue"]})
    assert found([asked], written(tmp_path / "t.jsonl", t="Which gas?")).best["a"].kind == "equal"
    assert not found([asked], written(tmp_path / "u.jsonl", t="Which gas?\n\n(A) green\n(B) blue")).best


def test_nothing_in_common_is_said_with_what_that_means(tmp_path: Path) -> None:
    one = found([problem("a", TRAIN)], written(tmp_path / "t.jsonl", t=BOAT))
    assert not one.groups and one.line() == (
        "contamination: none of the 1 problems is in 1 training set, as far as wording tells"
    )


def test_nothing_is_looked_for_without_adapters_and_files() -> None:
    assert find_contamination([problem("a", TRAIN)], []) is None


def test_a_file_that_cannot_be_read_is_an_error_of_the_user() -> None:
    with pytest.raises(UsageError, match=r"none\.jsonl does not exist"):
        found([problem("a", TRAIN)], "none.jsonl")


def subject(folder: Path, model: ModelIdentity, name: str = "adapter") -> Subject:
    return Subject(name, DEMO_MODEL, model, read_adapter(folder, DEMO_MODEL, model))


def lock(number: int) -> EvalProblem:
    return problem(f"p{number}", "A lock shows  417 <script>alert(1)</script>")


def test_an_adapters_manifest_is_found_by_itself_and_may_be_named(trained: Path, model: ModelIdentity) -> None:
    one = find_contamination([lock(0), problem("q", TRAIN)], [subject(trained, model)])
    assert one is not None
    (looked,) = one.sets
    assert looked.subjects == ("adapter",) and looked.num_items == 20
    assert [(m.problem_id, m.kind) for m in looked.matches] == [("p0", "equal")]
    named = found([lock(0)], looked.source)
    assert named.sets[0].subjects == () and named.problem_ids == {"p0"}


def test_two_adapters_of_one_manifest_are_one_set(trained: Path, model: ModelIdentity) -> None:
    one = find_contamination([lock(0)], [subject(trained, model, "first"), subject(trained, model, "second")])
    assert one is not None and [looked.subjects for looked in one.sets] == [("first", "second")]


@pytest.mark.parametrize("merged", [False, True])
def test_a_model_that_was_trained_whole_or_merged_has_its_manifest_too(
    trained: Path, model: ModelIdentity, merged: bool
) -> None:
    folder = trained.parent / "model"
    folder.mkdir()
    provenance = json.loads((trained / "dail.json").read_text())
    file, written = ("dail-merged.json", {"provenance": provenance}) if merged else ("dail.json", provenance)
    (folder / file).write_text(json.dumps(written))
    one = find_contamination([lock(0)], [Subject("base", DEMO_MODEL, model), Subject("tuned", folder, model)])
    assert one is not None and [looked.subjects for looked in one.sets] == [("tuned",)]
    assert one.problem_ids == {"p0"} and one.notes == ()


def test_a_manifest_that_is_gone_or_damaged_is_a_note(trained: Path, model: ModelIdentity) -> None:
    judged = subject(trained, model)
    assert judged.adapter is not None
    path = judged.adapter.manifest()
    assert path is not None
    shard = next(path.parent.parent.parent.rglob("*.parquet"))
    kept = shard.read_bytes()
    shard.write_bytes(kept[:-1])
    (note,) = _notes(judged)
    assert note.startswith("the training set of adapter cannot be read: shard ") and "is damaged" in note
    shard.write_bytes(kept)
    assert _notes(judged) == ()
    path.unlink()
    assert _notes(judged) == (
        "the manifest that adapter was trained on was not found; give it as --trained-on MANIFEST",
    )
    (trained / "dail.json").unlink()
    (note,) = _notes(subject(trained, model))
    assert note == "what adapter was trained on is not known, as it has no dail.json of this version"


def _notes(judged: Subject) -> tuple[str, ...]:
    one = find_contamination([lock(0)], [judged])
    assert one is not None
    return one.notes


def test_another_manifest_in_its_place_and_an_earlier_adapter_are_said(trained: Path, model: ModelIdentity) -> None:
    file = trained / "dail.json"
    provenance = json.loads(file.read_text())
    provenance["run"] |= {"manifest_digest": "sha256:0", "init_adapter": {"folder": "f", "digest": "d"}}
    record = Provenance.model_validate(provenance)
    file.write_text(json.dumps({**provenance, "fingerprint": record.run.fingerprint}))
    notes = _notes(subject(trained, model))
    assert "started from another adapter" in notes[0] and "is no longer the manifest" in notes[1]


def test_of_each_item_one_shard_is_read_so_that_many_traces_cost_little(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    row = trace_row(prompts, model, 0, (1.0,))
    rows = [
        row.model_copy(update={"unit_id": f"{n:032x}", "item_id": f"i{n // 16}", "problem": f"{BOAT} {n // 16}"})
        for n in range(64)
    ]
    manifest = write_manifest(tmp_path / "out", rows, model)
    for shard in read_manifest(manifest).shards:
        if int(shard.unit_id, 16) % 16:
            (tmp_path / "out" / shard.key).write_bytes(b"not read")
    assert read_item_problems(manifest) == {f"i{n}": f"{BOAT} {n}" for n in range(4)}
