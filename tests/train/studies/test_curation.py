"""A pool through all steps: what is left, what is written, what a rerun draws, and what is refused before an engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dail.synth import EngineConfig
from dail.synth.core.errors import DailError, InputError, IntegrityError, UsageError
from dail.synth.core.settings import read
from dail.synth.data.reader import load_items
from dail.train.evals import EvalConfig, EvalProblem, evaluate
from dail.train.studies import CurateConfig, Curated, curate
from tests.conftest import DEMO_MODEL, ROOT
from tests.train.studies.conftest import Scripted, lines, say, write

DAIL = Path(sys.executable).parent / "dail"
EVALUATION = EvalConfig(engine=EngineConfig(model=DEMO_MODEL))
HARD = {0: 0, 1: 4, 2: 1, 3: 0, 4: 2, 5: 3}  # of 4 attempts


def config(**fields: Any) -> CurateConfig:
    return CurateConfig(**{"attempts": 4, "validation": 2, **fields})


def run(pool: Any, out: Path, settings: CurateConfig | None = None, **more: Any) -> Curated:
    return curate(pool, out, settings or config(), evaluation=EVALUATION, **more)


def copied_model(folder: Path) -> Path:
    """The demo's with another chat template, so that it is another model."""
    folder.mkdir()
    for file in DEMO_MODEL.iterdir():
        (folder / file.name).symlink_to(file)
    template = folder / "chat_template.jinja"
    template.unlink()
    template.write_text((DEMO_MODEL / "chat_template.jinja").read_text() + " ")
    return folder


def ids(path: Path) -> list[str]:
    return [row["id"] for row in lines(path)]


def counts(curated: Curated) -> dict[str, tuple[int, int]]:
    return {step.step: (step.num_in, step.num_out) for step in curated.steps}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write(tmp_path / "pool.jsonl", [say(number) for number in HARD])


def test_what_the_model_never_solves_is_for_training_and_the_next_hardest_for_validation(
    pool: Path, tmp_path: Path, scripted: Scripted
):
    asked = scripted(HARD)
    curated = run(pool, tmp_path / "out")
    assert ids(tmp_path / "out" / "train.jsonl") == ["p0", "p3"]
    assert ids(tmp_path / "out" / "validation.jsonl") == ["p2", "p4"]
    assert len(asked) == 24 and {row.temperature for row in asked} == {0.6}
    assert counts(curated) == {
        "read": (6, 6), "joined": (6, 6), "answers": (6, 6), "repeats": (6, 6), "attempts": (6, 2), "validation": (4, 2)
    }  # fmt: skip
    assert curated.attempts and curated.attempts.num_correct == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1}
    dropped = [(row["id"], row["step"], row["why"]) for row in lines(tmp_path / "out" / "dropped.jsonl")]
    assert dropped == [(name, "attempts", "solved in more than 0 of 4 attempts") for name in ("p1", "p2", "p4", "p5")]


def test_items_are_read_by_synth_and_say_where_they_came_from(tmp_path: Path, scripted: Scripted):
    scripted({})
    first = write(tmp_path / "a.jsonl", [say(1, license="MIT", metadata={"year": 1990, "level": 5})])
    other = write(
        tmp_path / "b.jsonl", [say(1, id=None, solution="Otherwise. \\boxed{1}", license="MIT", source="wiki")]
    )
    run([first, other], tmp_path / "out", config(years="1985-2023"))
    (item,) = load_items(tmp_path / "out" / "train.jsonl")
    assert item.solution == ("It is \\boxed{1}.", "Otherwise. \\boxed{1}")
    assert (item.answer, item.kind, item.license, item.source) == ("1", "verifiable", "MIT", "a.jsonl; wiki")
    told: Any = item.metadata.pop("curation")
    assert item.metadata == {"year": 1990, "level": 5}
    assert (told["year"], told["num_correct"], told["num_attempts"]) == (1990, 0, 4)
    rows = [(row["file"], row["row"], row["license"], row["solutions"]) for row in told["rows"]]
    assert rows == [("a.jsonl", "line 1", "MIT", [0]), ("b.jsonl", "line 1", "MIT", [1])]
    assert all(row["digest"].startswith("sha256:") for row in told["rows"])
    assert str(tmp_path) not in (tmp_path / "out" / "train.jsonl").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "curated.json").read_text()


def test_a_licence_that_one_row_does_not_say_is_not_said_of_the_problem(tmp_path: Path, scripted: Scripted):
    scripted({})
    rows = [say(1, license="MIT"), say(1, solution="Otherwise. \\boxed{1}"), say(2, license="MIT", id="p2")]
    run(rows, tmp_path / "out")
    assert [item.license for item in load_items(tmp_path / "out" / "train.jsonl")] == [None, "MIT"]
    assert "find it before you share" in (tmp_path / "out" / "README.md").read_text()


def test_the_folder_is_a_data_set_with_both_splits(pool: Path, tmp_path: Path, scripted: Scripted, monkeypatch: Any):
    from datasets import load_dataset

    scripted(HARD)
    rows = [*lines(pool), say(0, id=None, solution=["Otherwise.", "Or so."])]
    run(rows, tmp_path / "out")
    data = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: part["id"] for split, part in data.items()} == {"train": ["p0", "p3"], "validation": ["p2", "p4"]}
    assert data["train"]["solution"][1] == ["It is \\boxed{3}."]


def test_a_rerun_draws_nothing_and_writes_the_same(pool: Path, tmp_path: Path, scripted: Scripted):
    asked = scripted(HARD)
    run(pool, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}
    asked.clear()
    run(pool, tmp_path / "out")
    assert asked == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")} == before


def test_other_settings_reuse_the_attempts_that_there_are(pool: Path, tmp_path: Path, scripted: Scripted):
    asked, out = scripted(HARD), tmp_path / "out"
    run(pool, out)
    asked.clear()
    run(lines(pool)[:2], out)  # whose attempts are a part of those
    curated = run(pool, out, config(keep_solved_at_most=1, validation=1))
    assert asked == []
    assert (ids(out / "train.jsonl"), ids(out / "validation.jsonl")) == (["p0", "p2", "p3"], ["p4"])
    assert set(curated.files) == {"train.jsonl", "validation.jsonl", "flagged.jsonl", "dropped.jsonl"}
    run(pool, out, config(attempts=5))
    assert len(asked) == 6


def test_a_validation_split_that_is_no_longer_wanted_is_gone(pool: Path, tmp_path: Path, scripted: Scripted):
    scripted(HARD)
    run(pool, tmp_path / "out")
    run(pool, tmp_path / "out", config(validation=0))
    assert not (tmp_path / "out" / "validation.jsonl").exists()


def test_a_smaller_validation_split_than_wanted_is_told(
    pool: Path, tmp_path: Path, scripted: Scripted, caplog: pytest.LogCaptureFixture
):
    scripted(HARD)
    curated = run(pool, tmp_path / "out", config(validation=100))
    assert counts(curated)["validation"] == (4, 4)
    assert "the validation split has 4 problems, wanted 100" in caplog.text


def test_ties_are_decided_by_the_seed_and_not_by_the_order(tmp_path: Path, scripted: Scripted):
    def chosen(seed: int, rows: list[dict[str, Any]]) -> set[str]:
        scripted(dict.fromkeys(range(1, 12), 2))
        run(rows, tmp_path / f"out-{seed}-{rows[0]['id']}", config(split_seed=seed, validation=4))
        return set(ids(tmp_path / f"out-{seed}-{rows[0]['id']}" / "validation.jsonl"))

    rows = [say(number) for number in range(12)]
    assert chosen(0, rows) == chosen(0, rows[::-1]) != chosen(1, rows)


def test_years_choose_and_rows_without_one_are_dropped_kept_or_refused(tmp_path: Path, scripted: Scripted):
    scripted({})
    rows = [say(1, id="1984-1"), say(2, id="1985-1"), say(3, metadata={"year": 2023}), say(4, id="2024-1"), say(5)]
    found = {}
    for without in ("drop", "keep"):
        run(rows, tmp_path / without, config(years="1985-2023", without_year=without))
        found[without] = ids(tmp_path / without / "train.jsonl")
    assert found == {"drop": ["1985-1", "p3"], "keep": ["1985-1", "p3", "p5"]}
    with pytest.raises(InputError, match=r"1 of 5 problems have no year.*\(p5\).*--map metadata\.year=COLUMN"):
        run(rows, tmp_path / "refuse", config(years="1985-2023"))


NO_ENGINE: list[tuple[str, list[dict[str, Any]], dict[str, Any], str]] = [
    ("no answers", [{"problem": "Say 1.", "solution": "One."}], {}, r"behind the step answers, of 1 \(neither"),
    ("no solutions", [{"problem": "Say 1.", "answer": 1}], {}, r"no solution: 1\)"),
    ("proofs alone", [say(1, kind="proof")], {}, "said to be a proof: 1"),
    ("no years", [say(1)], {"years": "1985-2023", "without_year": "keep"}, "1 of 1 problems have no year"),
    ("other years", [say(1, id="2024-1")], {"years": "1985-2023"}, r"not of 1985-2023: 1\).*set other curate\.years"),
    ("bad years", [say(1)], {"years": "85-23"}, "such as 1985-2023"),
    ("conflict", [say(1), say(1, answer="2")], {}, "rows whose answers are not the same: p1: '1' and '2'"),
    ("boxes", [say(1, answer=None), say(1, answer=None, solution="\\boxed{3}")], {}, "p1: '1' and '3'"),
    ("proof attempts", [say(1)], {"item_kind": "proof"}, "attempts at proofs have no answer"),
    ("validation", [say(1)], {"attempts": 0}, "set validation=0, or attempts above 0"),
    ("all kept", [say(1)], {"keep_solved_at_most": 4}, "keeps every problem, as there are 4 attempts"),
    ("published", [say(1)], {"published": {"tried": 1}}, "names tried; the steps are read, joined"),
    ("embedder", [say(1)], {"embedder": "no-such-model"}, "no folder and no installed package"),
    ("against", [say(1)], {"against": ("no-such-file.jsonl",)}, r"no-such-file\.jsonl does not exist"),
    ("conversation", [say(1, problem=[{"role": "system", "content": "S"}, {"role": "user", "content": "U"}])], {},
     "1 problems cannot be asked of the model: p1: it is a list of 2 messages"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "fields", "message"), [case[1:] for case in NO_ENGINE], ids=[case[0] for case in NO_ENGINE]
)
def test_it_is_refused_before_an_engine_starts(
    rows: list[dict[str, Any]], fields: dict[str, Any], message: str, tmp_path: Path, scripted: Scripted
):
    asked = scripted({})
    with pytest.raises(DailError, match=message):
        run(rows, tmp_path / "out", config(**fields))
    assert asked == [] and not (tmp_path / "out" / "train.jsonl").exists()


def test_a_pool_that_is_among_the_benchmarks_is_refused(pool: Path, tmp_path: Path, scripted: Scripted):
    asked = scripted({})
    with pytest.raises(InputError, match=r"near to a problem of pool\.jsonl: 6.*is the pool itself among curate"):
        run(pool, tmp_path / "out", config(against=(str(pool),)))
    assert asked == []


def test_a_pool_that_is_solved_altogether_is_refused_and_its_attempts_are_kept(
    pool: Path, tmp_path: Path, scripted: Scripted
):
    asked = scripted(dict.fromkeys(HARD, 1))
    with pytest.raises(InputError, match=r"solved in more than 0 of 4 attempts: 6\); take harder problems"):
        run(pool, tmp_path / "out")
    asked.clear()
    run(pool, tmp_path / "out", config(keep_solved_at_most=1))
    assert asked == [] and len(ids(tmp_path / "out" / "train.jsonl")) == 6


def test_conflicts_are_dropped_or_the_first_answer_is_kept(tmp_path: Path, scripted: Scripted):
    scripted({})
    rows = [say(1), say(1, answer="2"), say(3), say(4, answer="4.0"), say(4, answer="\\frac{8}{2}")]
    run(rows, tmp_path / "drop", config(conflicts="drop"))
    assert ids(tmp_path / "drop" / "train.jsonl") == ["p3", "p4"]
    run(rows, tmp_path / "keep", config(conflicts="keep"))
    assert [(row["id"], row["answer"]) for row in lines(tmp_path / "keep" / "train.jsonl")] == [
        ("p1", "1"), ("p3", "3"), ("p4", "4.0")
    ]  # fmt: skip


def test_a_solution_whose_box_contradicts_the_answer_is_named_and_the_answer_stands(tmp_path: Path, scripted: Scripted):
    scripted({})
    curated = run([say(1, solution="\\boxed{7}"), say(2)], tmp_path / "out")
    (step,) = (step for step in curated.steps if step.step == "answers")
    assert step.told == ("problems with a solution whose box contradicts the answer, which stands: 1 (p1)",)
    assert lines(tmp_path / "out" / "train.jsonl")[0]["answer"] == "1"


def test_problems_of_a_benchmark_are_listed_and_left_out_or_kept(tmp_path: Path, scripted: Scripted):
    scripted({})
    bench = write(tmp_path / "bench.jsonl", [{"id": "b7", "problem": "say $2$", "answer": 2}])
    rows = [say(number) for number in range(4)]
    curated = run(rows, tmp_path / "drop", config(against=(str(bench),)))
    run(rows, tmp_path / "keep", config(against=(str(bench),), similar="keep"))
    assert ids(tmp_path / "drop" / "train.jsonl") == ["p0", "p1", "p3"]
    assert ids(tmp_path / "keep" / "train.jsonl") == ["p0", "p1", "p2", "p3"]
    for name in ("drop", "keep"):
        (flagged,) = lines(tmp_path / name / "flagged.jsonl")
        assert (flagged["id"], flagged["of"], flagged["other"], flagged["score"]) == ("p2", "bench.jsonl", "b7", 1.0)
        assert (flagged["problem"], flagged["other_problem"]) == ("Say 2.", "say $2$")
    assert "a fallback, as no embedder is named" in curated.similarity
    assert "a fallback, as no embedder is named" in (tmp_path / "drop" / "README.md").read_text()
    assert [(one.name, one.rows) for one in curated.against] == [("bench.jsonl", 1)]


def test_near_problems_of_the_pool_are_listed_and_dropped_if_settings_say_so(tmp_path: Path, scripted: Scripted):
    long = "Find the number of positive integers less than one thousand whose digits sum to a prime number. "
    endings = {"a": "", "b": "So.", "c": "So, do."}
    rows = [{"id": name, "problem": long + end, "solution": "\\boxed{1}"} for name, end in endings.items()]
    settings = {"attempts": 0, "validation": 0}
    run(rows, tmp_path / "keep", config(**settings))
    run(rows, tmp_path / "drop", config(**settings, repeats="drop"))
    assert ids(tmp_path / "keep" / "train.jsonl") == ["a", "b", "c"]
    assert ids(tmp_path / "drop" / "train.jsonl") == ["a"]
    assert [row["id"] for row in lines(tmp_path / "keep" / "flagged.jsonl")] == ["b", "c"]


def test_proofs_are_all_kept_without_attempts_and_marked_as_proofs(tmp_path: Path):
    rows = [{"problem_id": 1, "problem": "Prove it.", "solution": "So it is \\boxed{1}."}]
    curated = curate(rows, tmp_path / "out", config(item_kind="proof", attempts=0, validation=0))
    (item,) = load_items(tmp_path / "out" / "train.jsonl")
    assert (item.kind, item.id, item.answer) == ("proof", "1", None) and curated.attempts is None


def test_attempts_that_were_made_before_are_found_by_the_text(pool: Path, tmp_path: Path, scripted: Scripted):
    asked = scripted(HARD)
    problems = [
        EvalProblem(id=f"other-{n}", problem=f"Say {n}.", answer=str(n), metadata={"group": "g"}) for n in range(9)
    ]
    evaluate(problems, tmp_path / "eval", config=EVALUATION.model_copy(update={"samples": 6}))
    asked.clear()
    curated = curate(pool, tmp_path / "out", config(), attempts=tmp_path / "eval", model=DEMO_MODEL)
    assert asked == [] and curated.attempts and curated.attempts.made_before
    assert (ids(tmp_path / "out" / "train.jsonl"), ids(tmp_path / "out" / "validation.jsonl")) == (
        ["p0", "p3"],
        ["p2", "p4"],
    )


def test_attempts_that_do_not_fit_are_refused(pool: Path, tmp_path: Path, scripted: Scripted):
    scripted(HARD)
    problems = [EvalProblem(id=f"p{n}", problem=f"Say {n}.", answer=str(n)) for n in range(5)]
    evaluate(problems, tmp_path / "eval", config=EVALUATION.model_copy(update={"samples": 4}))

    def refused(rows: Any, message: str, kind: type[DailError] = UsageError, **more: Any) -> None:
        settings = more.pop("settings", config())
        with pytest.raises(kind, match=message):
            curate(rows, tmp_path / "out", settings, **{"attempts": tmp_path / "eval" / "eval.json", **more})

    rows = lines(pool)
    refused(rows, r"has no attempts at 1 of 6 problems \(p5\)")
    refused(rows[:5], "has 4 attempts of base at p0, and curate.attempts=8", settings=config(attempts=8))
    refused([say(1, answer="one")], "has judged by another answer: p1")
    refused(rows[:5], "curate.attempts=0 takes none", settings=config(attempts=0, validation=0))
    refused(rows[:5], "--model is .*, another one", model=copied_model(tmp_path / "model"))
    refused(rows[:5], "cannot be read", attempts=tmp_path / "none.json")
    refused(rows[:5], "is no evaluation that this version reads", IntegrityError, attempts=pool)


def test_attempts_are_of_one_temperature_and_budget(pool: Path, tmp_path: Path, scripted: Scripted):
    scripted(HARD)
    several = EVALUATION.model_copy(update={"temperatures": (0.6, 1.0), "samples": 4})
    with pytest.raises(UsageError, match=r"eval\.temperatures or eval\.budgets name several"):
        curate(pool, tmp_path / "out", config(), evaluation=several)
    evaluate([EvalProblem(id="p", problem="Say 1.", answer="1")], tmp_path / "eval", config=several)
    with pytest.raises(UsageError, match=r"several temperatures or budgets \(base, temperature 0\.6, base, temp"):
        curate([say(1)], tmp_path / "out", config(), attempts=tmp_path / "eval")


def test_attempts_of_the_base_are_taken_whatever_else_was_judged(tmp_path: Path, scripted: Scripted):
    scripted({1: 8})
    other = copied_model(tmp_path / "other")
    problems = [EvalProblem(id=f"p{n}", problem=f"Say {n}.", answer=str(n)) for n in range(3)]
    settings = EVALUATION.model_copy(update={"samples": 4})
    evaluate(problems, tmp_path / "eval", config=settings, models={"mine": DEMO_MODEL, "other": other})
    curate([say(n) for n in range(3)], tmp_path / "out", config(), attempts=tmp_path / "eval")
    assert ids(tmp_path / "out" / "train.jsonl") == ["p0", "p2"]


def test_a_folder_that_is_not_ours_is_refused(pool: Path, tmp_path: Path, scripted: Scripted):
    asked = scripted(HARD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="holds something that is no curation"):
        run(pool, tmp_path / "out")
    assert asked == [] and (tmp_path / "out" / "README.md").read_text() == "mine"


def test_no_model_is_an_error_before_anything_is_read(tmp_path: Path):
    with pytest.raises(UsageError, match="no model is named, of which the attempts are"):
        curate(tmp_path / "none.jsonl", tmp_path / "out", config())


def test_the_settings_in_the_folder_are_a_config_file(pool: Path, tmp_path: Path, scripted: Scripted):
    scripted(HARD)
    settings = config(published={"attempts": 417}, against=(), years=None)
    run(pool, tmp_path / "out", settings)
    assert read("curate", tmp_path / "out" / "settings.toml").load(CurateConfig, "curate") == settings


def test_a_killed_run_loses_the_completions_in_flight_alone(pool: Path, tmp_path: Path, scripted: Scripted):
    out, samples = tmp_path / "out", tmp_path / "out" / "attempts" / "samples.jsonl"
    arguments = ["--set", "engine.kind=fake", "--set", "attempts=60", "--set", "eval.max_tokens=64"]
    command = [DAIL, "curate", pool, "--out", out, "--model", DEMO_MODEL, *arguments, "--set", "validation=0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (samples.is_file() and samples.read_bytes().count(b"\n") >= 10):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    kept = samples.read_bytes().count(b"\n")
    assert 10 <= kept < 360 and not (out / "curated.json").exists()
    asked = scripted({})
    engine = EngineConfig(model=DEMO_MODEL, kind="fake")
    settings = CurateConfig(attempts=60, validation=0)
    curate(pool, out, settings, evaluation=EvalConfig(engine=engine, max_tokens=64))
    assert len(asked) == 360 - kept and len(ids(out / "train.jsonl")) == 6


def test_curated_json_is_there_only_if_all_else_is_its_own(
    pool: Path, tmp_path: Path, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
):
    from dail.train.studies import curated as files

    scripted(HARD)
    run(pool, tmp_path / "out")

    def crash(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("dail.train.studies.curation_card.card", crash)
    with pytest.raises(KeyboardInterrupt):
        run(pool, tmp_path / "out", config(keep_solved_at_most=1))
    assert not (tmp_path / "out" / files.CURATED).exists()
    monkeypatch.undo()
    run(pool, tmp_path / "out", config(keep_solved_at_most=1))
    told = json.loads((tmp_path / "out" / files.CURATED).read_text())
    assert told["files"]["train.jsonl"]["rows"] == 3
