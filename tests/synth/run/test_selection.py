"""`dail select`: a manifest of its own, the same again for the same rule, that everything downstream reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dail.serve.cli import dail
from dail.synth import Progress, read_traces, select
from dail.synth.core.errors import DailError, ExtensionError, IntegrityError, UsageError
from dail.synth.export.export import export, find_manifest
from dail.synth.run import judging, selection
from dail.synth.schema.card import write_card
from dail.synth.schema.manifest import read_manifest
from dail.synth.schema.selection import Counts, Keep
from tests.conftest import Told
from tests.synth.run.drawn import CUT, batch_of

RIGHT, WRONG = r"It is \boxed{7}.", r"It is \boxed{8}."
TEXTS = {
    "late": [WRONG, "no box", r"so \boxed{7.0}", RIGHT],
    "never": [WRONG, WRONG, RIGHT + CUT, WRONG],
    "once": [RIGHT, None, WRONG, WRONG],
}
OWN = """
def longest(trace):
    return len(trace.trace_ids)

def text(trace):
    return trace.trace_text

def broken(trace):
    raise KeyError("oh")

def leaves(trace):
    raise SystemExit(0)

def huge(trace):
    return 10**400

def short(trace):
    import numpy
    return numpy.float32(-len(trace.trace_ids))

def seven(completion, answer):
    return "7" in completion

NUMBER = 3
"""


def chosen(manifest: Path, keep: Keep, **rule: Any) -> list[tuple[str, int]]:
    return sorted((row.item_id, row.sample_index) for row in read_traces(select(manifest, keep, **rule).manifest))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return batch_of(tmp_path, TEXTS)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_the_first_correct_trace_of_each_item_is_kept_and_every_other_counted(manifest: Path, told: Told) -> None:
    result = select(manifest, "first_correct")
    assert chosen(manifest, "first_correct") == [("late", 2), ("once", 0)]
    assert result.selected == {
        "late": Counts(drawn=4, correct=2, cut=0, unknown=0, chosen=1, dropped=3),
        "never": Counts(drawn=4, correct=0, cut=1, unknown=0, chosen=0, dropped=4),
        "once": Counts(drawn=3, correct=1, cut=0, unknown=0, chosen=1, dropped=2),
    }
    made = result.selection
    assert made.counts == Counts(drawn=11, correct=3, cut=1, unknown=0, chosen=2, dropped=9)
    assert (made.items, made.items_kept, made.missing) == (3, 2, 1)
    assert made.told() == ("first_correct (grader math): 2 of 11 traces, 3 of them correct; of 2 of 3 items")
    assert "1 items with an answer have no correct trace; without any are never" in told()


def test_the_selection_is_a_manifest_that_names_its_parent(manifest: Path) -> None:
    parent, result = read_manifest(manifest), select(manifest, "all_correct")
    made = read_manifest(result.manifest)
    assert made.rows == 3 and made.tokens == sum(shard.tokens for shard in made.shards) == result.tokens
    assert (made.batch_id, made.config_fingerprint) == (parent.batch_id, parent.config_fingerprint)
    assert made.selection and made.selection.parent_digest == parent.digest != made.digest
    root = manifest.parents[2]
    assert read_manifest(root / made.selection.parent) == parent


def test_a_changed_count_is_noticed(manifest: Path) -> None:
    path = select(manifest, "first_correct").manifest
    path.write_text(path.read_text().replace('"drawn": 11', '"drawn": 12'))
    with pytest.raises(IntegrityError, match="was changed"):
        read_manifest(path)


def test_the_same_rule_finds_the_same_file_and_another_rule_another_one(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    first = select(manifest, "random_correct")
    before = first.manifest.read_bytes()
    monkeypatch.setattr(selection, "judged", None)  # nothing is judged again
    told()
    assert select(manifest, "random_correct", seed=0) == first
    assert first.manifest.read_bytes() == before and "chosen before" in told()
    monkeypatch.undo()
    rules: list[tuple[Keep, dict[str, Any]]] = [
        ("random_correct", {"seed": 1}), ("random_correct", {"grader": "official"}), ("first_correct", {}),
        ("random_correct", {"without_answer": "one"}), ("random", {}), ("all", {}),
    ]  # fmt: skip
    assert len({select(manifest, keep, **rule).manifest for keep, rule in rules} | {first.manifest}) == 7


def test_a_selection_is_nobodys_newest_manifest(manifest: Path, tmp_path: Path) -> None:
    path = select(manifest, "first_correct").manifest
    assert find_manifest(tmp_path) == manifest
    assert write_card(tmp_path) and path.name not in (tmp_path / "README.md").read_text()
    exported = export(path, "trl-sft", tmp_path / "sft")
    assert exported.rows == 2
    assert "| chosen by | first_correct (grader math): 2 of 11 traces" in (tmp_path / "sft/README.md").read_text()


def test_the_seed_of_the_lot_is_the_one_that_the_traces_were_drawn_with(tmp_path: Path) -> None:
    texts = {f"i{n}": [RIGHT] * 6 for n in range(8)}
    manifest = batch_of(tmp_path, texts, seed=5)
    assert chosen(manifest, "random") == chosen(manifest, "random", seed=5) != chosen(manifest, "random", seed=6)
    assert select(manifest, "random").selection.seed == 5
    assert {item for item, _ in chosen(manifest, "random")} == set(texts)


def test_no_shard_is_read_for_a_lot(manifest: Path, tmp_path: Path) -> None:
    for shard in (tmp_path / "shards").rglob("*.parquet"):
        shard.unlink()
    result = select(manifest, "random")
    assert result.selection.counts == Counts(drawn=11, chosen=3, dropped=8)
    with pytest.raises(IntegrityError, match="is missing"):
        select(manifest, "first_correct")


def test_a_thought_that_the_prompt_opened_and_that_never_ends_says_nothing(tmp_path: Path) -> None:
    manifest = batch_of(tmp_path, {"open": [RIGHT, f"hm</think> {RIGHT}"]}, begun="<think>\n")
    assert chosen(manifest, "first_correct") == [("open", 1)]


def test_items_without_an_answer_are_dropped_aloud_or_keep_one_trace(tmp_path: Path, told: Told) -> None:
    manifest = batch_of(tmp_path, {"proof": [RIGHT, WRONG], "sum": [WRONG, RIGHT]}, bare=["proof"])
    assert chosen(manifest, "first_correct") == [("sum", 1)]
    assert "1 of 2 items have no answer to be correct by, as proofs have none: they are dropped" in told()
    assert chosen(manifest, "first_correct", without_answer="one") == [("proof", 0), ("sum", 1)]
    assert "dropped" not in told()
    assert select(manifest, "first_correct").selection.items_without_answer == 1


def test_what_would_leave_nothing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    proofs = batch_of(tmp_path / "proofs", {"a": [RIGHT], "b": [RIGHT]}, bare=["a", "b"])
    with pytest.raises(UsageError, match=r"none of the 2 items has an answer .* keep all or random"):
        select(proofs, "random_correct")
    wrong = batch_of(tmp_path / "wrong", {"a": [WRONG], "b": [RIGHT + CUT]})
    with pytest.raises(UsageError, match=r"leaves nothing: of 2 traces of 2 items, 0 of them .* \(1 were cut"):
        select(wrong, "first_correct")
    assert [path.name for path in tmp_path.rglob("*.json")] == ["v1.json", "v1.json"]
    assert chosen(proofs, "random_correct", without_answer="one") == [("a", 0), ("b", 0)]


@pytest.mark.parametrize(
    ("keep", "rule", "why"),
    [
        ("first", {}, "there is no rule 'first'; wanted one of all, all_correct"),
        ("all", {"seed": 1}, "keep=all reads no seed"),
        ("random", {"grader": "math"}, "keep=random reads no grader"),
        ("random", {"without_answer": "one"}, "keep=random reads no without_answer"),
        ("first_correct", {"by": "shortest"}, "keep=first_correct reads no by"),
        ("best", {}, "keep=best needs a score"),
        ("best", {"by": "longest"}, "there is no score of traces 'longest'"),
        ("best", {"by": "OWN:nothing"}, "has nothing named nothing"),
        ("best", {"by": "OWN:NUMBER"}, "is a int; wanted a function of a trace"),
        ("best", {"by": "OWN:text"}, "returned 'It is .* wanted a number"),
        ("best", {"by": "OWN:broken"}, "failed with KeyError: 'oh'"),
        ("best", {"by": "OWN:leaves"}, "failed with SystemExit: 0"),
        ("best", {"by": "OWN:huge"}, "failed with OverflowError: int too large"),
        ("first_correct", {"grader": "maths"}, "there is no grader 'maths'"),
        ("first_correct", {"grader": "OWN:text"}, "cannot be called with a completion and an answer"),
    ],
)
def test_what_a_rule_cannot_use_is_refused_by_name(
    manifest: Path, own: Path, keep: Any, rule: dict[str, Any], why: str
) -> None:
    rule = {name: str(value).replace("OWN", str(own)) for name, value in rule.items()}
    with pytest.raises(UsageError, match=why):
        select(manifest, keep, **rule)
    assert list(manifest.parent.glob("select-*")) == []


def test_a_score_and_a_grader_of_ones_own_are_pinned_by_their_source(manifest: Path, own: Path) -> None:
    result = select(manifest, "best_correct", by=f"{own}:longest", grader=f"{own}:seven")
    assert chosen(manifest, "best_correct", by=f"{own}:longest", grader=f"{own}:seven") == [("late", 3), ("once", 0)]
    made = result.selection
    assert made.by and made.by.startswith("longest#") and str(own) not in result.manifest.read_text()
    assert made.grader and made.grader.startswith("seven#")
    own.write_text(OWN + "\n")
    again = select(manifest, "best_correct", by=f"{own}:longest", grader=f"{own}:seven")
    assert again.manifest != result.manifest
    with pytest.raises(ExtensionError, match="it changed since this began"):
        select(manifest, "best", by=f"{own}:longest#0000000000000000")


def test_the_scores_that_are_built_in(tmp_path: Path, own: Path) -> None:
    manifest = batch_of(tmp_path, {"a": [RIGHT + " Yes, so it is.", RIGHT, WRONG[:-1]]})
    assert chosen(manifest, "best", by="shortest") == chosen(manifest, "best", by=f"{own}:short") == [("a", 2)]
    assert chosen(manifest, "best_correct", by="shortest") == [("a", 1)]
    assert chosen(manifest, "best", by="student_share") == [("a", 0)]  # all are alike: the first


def test_a_selection_of_a_selection_follows_it(manifest: Path) -> None:
    first = select(manifest, "all_correct")
    second = select(first.manifest, "random", seed=3)
    made = read_manifest(second.manifest)
    assert made.selection and made.selection.parent.endswith(first.manifest.name)
    assert (made.rows, second.selection.counts.drawn, second.selection.missing) == (2, 3, 1)


def test_many_traces_are_judged_in_pieces_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path
) -> None:
    monkeypatch.setattr(judging, "_A_PIECE", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    texts = {f"i{n}": [WRONG] * (n % 4) + [r"\boxed{\frac{14}{2}}"] for n in range(12)}
    manifest, seen = batch_of(tmp_path, texts, samples_per_item=4), list[Progress]()
    result = select(manifest, "first_correct", on_progress=seen.append)
    assert sorted((row.item_id, row.sample_index) for row in read_traces(result.manifest)) == sorted(
        (f"i{n}", n % 4) for n in range(12)
    )
    assert (seen[-1].title, seen[-1].done, seen[-1].total, seen[-1].figures) == ("judging", 30, 30, {"correct": 12})
    with pytest.raises(UsageError, match="failed with KeyError"):
        select(manifest, "best", by=f"{own}:broken")


@pytest.mark.usefixtures("cluster")
def test_on_a_cluster_the_same_traces_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    manifest = batch_of(tmp_path, {f"i{n}": [WRONG, r"\boxed{\frac{14}{2}}"] for n in range(3)})
    here = select(manifest, "best_correct", by="shortest")
    here.manifest.unlink()
    monkeypatch.setattr(judging, "_A_PIECE", 2)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(judging, "_on_threads", None)
    there = select(manifest, "best_correct", by="shortest")
    assert (there.selection, there.selected) == (here.selection, here.selected)
    with pytest.raises(UsageError, match=r"item i., sample .: score .*broken failed with KeyError: 'oh'"):
        select(manifest, "best", by=f"{own}:broken")


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(dail, ["select", *map(str, arguments)], standalone_mode=False)


def test_the_verb_prints_the_manifest_or_everything_as_json(manifest: Path, tmp_path: Path) -> None:
    done = invoke(tmp_path, "--keep", "first_correct")
    assert done.return_value == 0 and read_manifest(Path(done.stdout.strip())).rows == 2
    assert "first_correct (grader math): 2 of 11 traces" in done.stderr
    facts = json.loads(invoke(manifest, "--keep", "random", "--seed", "9", "--json").stdout)
    assert facts["selection"]["seed"] == 9 and facts["selected"]["never"]["chosen"] == 1


@pytest.mark.parametrize("arguments", [["--keep", "all"], ["nowhere.json", "--keep", "all"]])
def test_the_verb_refuses_what_is_no_manifest(tmp_path: Path, arguments: list[str]) -> None:
    source = [str(tmp_path)] if arguments[0] == "--keep" else []
    done = invoke(*source, *arguments)
    assert isinstance(done.exception, DailError) and done.exception.exit_code == 2


def test_a_run_is_judged_from_all_over_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    manifest = batch_of(tmp_path, {f"i{n}": [r"\boxed{7}" if n % 2 else r"\boxed{8}"] for n in range(20)})
    found = judging.judged_run(manifest)
    assert (found.traces, found.counts["correct"], found.counts["wrong"]) == (20, 10, 10)
    monkeypatch.setattr(judging, "MOST", 4)
    found = judging.judged_run(manifest)
    assert len({one.item_id for one in found.verdicts}) == 4 and found.traces == 20
