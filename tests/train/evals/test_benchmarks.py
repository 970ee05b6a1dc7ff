"""Benchmarks by name, on made files of the shapes they are published in; names for files; multiple choice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dail.synth.core.errors import InputError, UsageError
from dail.synth.data.reader import Reading
from dail.train.evals.benchmarks import BENCHMARKS, HELP, benchmark_named
from dail.train.evals.problems import NamedSource, ReadProblems, named_sources, read_problems
from tests.conftest import Told


def verl(number: int, answer: Any, **extra: Any) -> dict[str, Any]:
    return {
        "data_source": "aime", "prompt": [{"role": "user", "content": f"What is {number}?"}], "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(answer)}, "extra_info": {"index": number, **extra},
    }  # fmt: skip


def gpqa(number: int) -> dict[str, Any]:
    wrong = {f"Incorrect Answer {n}": f"w{n}" for n in (1, 2, 3)}
    return {"Record ID": f"rec{number}", "Question": f"Q{number}?", "Correct Answer": "right", **wrong,
            "Explanation": "e", "Subdomain": "Optics", "High-level domain": "Physics", "Canary": "x"}  # fmt: skip


def imo(number: int, answer: str = "$2^{10}$") -> dict[str, Any]:
    return {"Problem ID": f"imo-bench-algebra-{number:03}", "Problem": f"Find {number}.", "Short Answer": answer,
            "Category": "Algebra", "Subcategory": "Operation", "Source": "IMO 2021"}  # fmt: skip


SHAPES: dict[str, tuple[str, Any]] = {  # a benchmark and a row of its nth problem, in each shape it is published in
    "aime-2024 as the authors'": ("aime-2024", lambda n: verl(n, n)),
    "aime-2025 as the authors'": ("aime-2025", lambda n: verl(n, f"{n:03}")),
    "aime-2024 with urls": (
        "aime-2024",
        lambda n: {"id": 60 + n, "problem": f"P{n}", "solution": "s", "answer": f"{n:03}", "url": "u", "year": "2024"},
    ),
    "aime-2024 with boxes": (
        "aime-2024", lambda n: {"id": n, "problem": f"P{n}", "solution": rf"\boxed{{{n}}}", "url": "u"},
    ),
    "aime-2024 with titles": (
        "aime-2024", lambda n: {"ID": f"2024-I-{n}", "Problem": f"P{n}", "Solution": "s", "Answer": n},
    ),
    "aime-2025 of matharena": (
        "aime-2025", lambda n: {"problem_idx": n, "problem": f"P{n}", "answer": n, "problem_type": ["Algebra"]},
    ),
    "aime-2025 alone": ("aime-2025", lambda n: {"problem": f"P{n}", "answer": str(n), "id": str(n)}),
    "beyond-aime as the authors'": ("beyond-aime", lambda n: verl(n, -(10**12) * n)),
    "beyond-aime": ("beyond-aime", lambda n: {"problem": f"P{n}", "answer": 10**9 * n}),
    "imo-answerbench-1": ("imo-answerbench-1", imo),
    "imo-answerbench-2 with levels": ("imo-answerbench-2", lambda n: {**imo(n), "Level": "IMO-Hard"}),
    "gpqa-diamond": ("gpqa-diamond", gpqa),
}  # fmt: skip
FILES = {"imo-answerbench-1": "answerbench", "imo-answerbench-2": "answerbench_v2", "aime-2025": "aime25"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(*benchmarks: str, problems: tuple[str, ...] = (), **reading: Any) -> ReadProblems:
    return read_problems(named_sources(problems, benchmarks), Reading(**reading))


def is_flat(shape: str) -> bool:
    """Whether a table of CSV can hold its rows."""
    return not any(isinstance(value, list | dict) for value in SHAPES[shape][1](1).values())


@pytest.mark.parametrize(
    ("shape", "suffix"),
    [
        (shape, suffix)
        for shape in SHAPES
        for suffix in (".jsonl", ".parquet", ".csv")
        if suffix != ".csv" or is_flat(shape)
    ],
)
def test_a_benchmark_is_read_in_each_shape_with_its_number_its_group_and_its_digest(
    tmp_path: Path, shape: str, suffix: str, told: Told
) -> None:
    name, row = SHAPES[shape]
    benchmark = BENCHMARKS[name]
    rows = [row(number) for number in range(1, benchmark.num_problems + 1)]
    path = write(tmp_path / f"{FILES.get(name, name)}{suffix}", rows)
    found = read(f"{name}={path}")
    assert len(found.items) == benchmark.num_problems
    assert {problem.group for problem in found.items} == {benchmark.group}
    assert all(problem.id.startswith(f"{name}:") for problem in found.items)
    (source,) = found.sources
    assert (source.benchmark, source.num_published, source.notes) == (name, benchmark.num_problems, ())
    assert source.sha256 and len(source.sha256) == 64 and source.terms == benchmark.terms
    said = told()
    assert "note:" not in said and f"terms of {name}: {benchmark.terms}" in said


def test_the_two_editions_of_aime_are_one_group_and_their_problems_keep_their_names(tmp_path: Path) -> None:
    first = write(tmp_path / "aime24.jsonl", [verl(n, n) for n in range(30)])
    second = write(tmp_path / "aime25.jsonl", [{**verl(n, n), "prompt": [{"role": "user", "content": f"And {n}?"}]}
                                               for n in range(30)])  # fmt: skip
    both = read(f"aime-2024={first}", f"aime-2025={second}")
    alone = read(f"aime-2025={second}")
    assert len(both.items) == 60 and {problem.group for problem in both.items} == {"aime"}
    assert [one.id for one in both.items[30:]] == [one.id for one in alone.items]


@pytest.mark.parametrize(
    ("name", "answer", "why"),
    [
        ("aime-2024", 1000, "it is '1000'; an answer of aime-2024 is an integer from 0 to 999"),
        ("aime-2024", -1, "an integer from 0 to 999"),
        ("aime-2024", "1/2", "an integer from 0 to 999"),
        ("aime-2024", "about 7", "an integer from 0 to 999"),
        ("aime-2024", r"\frac{1}{2}", "an integer from 0 to 999"),
        ("beyond-aime", "7.5", "it is '7.5'; an answer of beyond-aime is an integer"),
        ("gpqa-diamond", "right", "it is 'right'; an answer of gpqa-diamond is a letter from A to J"),
    ],
)
def test_an_answer_of_another_shape_is_refused_with_its_row(tmp_path: Path, name: str, answer: Any, why: str) -> None:
    rows = [{"problem": "1?", "answer": "B" if name == "gpqa-diamond" else 1}, {"problem": "2?", "answer": answer}]
    path = write(tmp_path / f"{FILES.get(name, name)}.jsonl", rows)
    with pytest.raises(InputError) as refused:
        read(f"{name}={path}")
    assert why in str(refused.value) and str(refused.value).endswith(f"{path} line 2")
    left = read(f"{name}={path}", skip_invalid=True, invalid_to=tmp_path / "invalid.jsonl")
    assert [one.answer for one in left.items] == [str(rows[0]["answer"])]


@pytest.mark.parametrize("answer", ["007", "7.0", "$7$", r"\boxed{7}", r"7^\circ", 7.0, "999", "0"])
def test_an_integer_may_be_written_as_keys_write_it(tmp_path: Path, answer: Any) -> None:
    path = write(tmp_path / "aime24.jsonl", [{"problem": "1?", "answer": answer}])
    assert len(read(f"aime-2024={path}").items) == 1


def test_another_number_of_problems_is_said_and_kept_and_not_refused(tmp_path: Path, told: Told) -> None:
    path = write(tmp_path / "aime24.jsonl", [verl(n, n) for n in range(29)])
    (source,) = read(f"aime-2024={path}").sources
    assert source.notes == ("aime-2024 has 30 problems, and 29 are taken",)
    assert f"note: {path}: aime-2024 has 30 problems, and 29 are taken" in told()


def test_a_benchmark_in_several_files_is_counted_as_one(tmp_path: Path) -> None:
    rows = [{"problem": f"P{n}", "answer": n} for n in range(100)]
    write(tmp_path / "beyond" / "a.jsonl", rows[:60])
    write(tmp_path / "beyond" / "b.jsonl", rows[60:])
    found = read(f"beyond-aime={tmp_path / 'beyond'}")
    assert [one.notes for one in found.sources] == [(), ()]
    assert [found.items[place].id for place in (0, 99)] == ["beyond-aime:1", "beyond-aime:100"]


@pytest.mark.parametrize(
    ("name", "file", "note"),
    [
        ("imo-answerbench-2", "answerbench.csv", "called as imo-answerbench-1 is, and was given as imo-answerbench-2"),
        ("imo-answerbench-1", "answerbench_v2.csv", "called as imo-answerbench-2 is"),
        ("imo-answerbench-1", "AnswerBench-V2.csv", "called as imo-answerbench-2 is"),
        ("imo-answerbench-2", "imo.csv", "that it is imo-answerbench-2 and not imo-answerbench-1 is taken as said"),
        ("imo-answerbench-1", "bench/data.csv", "is taken as said"),
        ("imo-answerbench-1", "imo_answer/train.csv", "is taken as said"),
        ("imo-answerbench-1", "answerbench/data.csv", None),
        ("imo-answerbench-2", "answerbench/data.csv", "called as imo-answerbench-1 is"),
        ("aime-2024", "aime_2024/train-00000-of-00001.csv", None),
        ("imo-answerbench-1", "answerbench_v1.csv", None),
        ("imo-answerbench-2", "imo_answer_v2.csv", None),
        ("imo-answerbench-2", "answerbench/answerbench_v2.csv", None),
        ("aime-2024", "aime_2025.csv", "called as aime-2025 is, and was given as aime-2024"),
        ("aime-2025", "aime25_test.csv", None),
    ],
)
def test_an_edition_that_its_file_contradicts_is_noticed(
    tmp_path: Path, name: str, file: str, note: str | None
) -> None:
    rows = [imo(n, str(n)) for n in range(BENCHMARKS[name].num_problems)]
    (source,) = read(f"{name}={write(tmp_path / file, rows)}").sources
    assert (note is None and not source.notes) or (note is not None and note in source.notes[0])


def test_one_file_given_as_both_editions_is_refused_and_a_copy_of_it_is_noticed(tmp_path: Path) -> None:
    rows = [imo(n) for n in range(400)]
    first = write(tmp_path / "answerbench.csv", rows)
    with pytest.raises(UsageError, match="is given as the benchmark imo-answerbench-1 and as the benchmark imo-"):
        read(f"imo-answerbench-1={first}", f"imo-answerbench-2={first}")
    second = write(tmp_path / "answerbench_v2.csv", list(reversed(rows)))
    found = read(f"imo-answerbench-1={first}", f"imo-answerbench-2={second}")
    assert found.sources[1].notes == (f"its problems are those of {first}",)
    assert len(found.items) == 800


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("aime-24", "aime-2024 was probably meant"),
        ("gpqa", "gpqa-diamond was probably meant"),
        ("beyondaime", "beyond-aime was probably meant"),
        ("imo-answerbench", "imo-answerbench-1 or imo-answerbench-2 was probably meant"),
        ("hle", "there are aime-2024, aime-2025, beyond-aime"),
        ("", "there are aime-2024"),
        ("gpqa-diamond=", "no file stands behind the equals sign; to bring gpqa-diamond along"),
        ("imo-answerbench-2", "it is in no set of the hub that we know; to bring .* `curl -LO https://.*_v2.csv`"),
    ],
)
def test_a_benchmark_that_there_is_not_is_told_with_the_nearest(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        benchmark_named(text)
    assert benchmark_named("AIME_2024=a=b.jsonl")[1] == "a=b.jsonl"
    assert all(name in HELP for name in BENCHMARKS)


def test_without_a_network_the_error_says_what_to_download_and_how_to_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra dail[data] is not installed")

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "get_dataset_config_names", offline)
    with pytest.raises(UsageError) as refused:
        read("gpqa-diamond")
    assert "hf:Idavidrein/gpqa:gpqa_diamond/train cannot be loaded: Couldn't reach the hub" in str(refused.value)
    assert "`hf download Idavidrein/gpqa gpqa_diamond.csv" in str(refused.value)
    assert str(refused.value).endswith("then here --benchmark gpqa-diamond=gpqa/gpqa_diamond.csv")


def test_the_choices_follow_the_seed_and_the_seed_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "gpqa_diamond.csv", [gpqa(n) for n in range(198)])
    asked = {}
    for seed in (0, 1):
        found = read(f"gpqa-diamond={path}", choices_seed=seed)
        asked[seed] = [one.problem for one in found.items]
        assert all(f"({one.answer}) right" in one.problem for one in found.items)
        assert {one.answer for one in found.items} == set("ABCD")
        assert f"seed {seed};" in found.account.sources[0].notes[0]
        assert found.items[0].choices == tuple(found.items[0].metadata["choices"]) and len(found.items[0].choices) == 4
    assert asked[0] != asked[1]


def test_a_name_groups_all_problems_of_a_file_whatever_their_metadata_say(tmp_path: Path, told: Told) -> None:
    own = {"problem": "1?", "answer": 1, "metadata": {"group": "own", "year": 1}}
    path = write(tmp_path / "a.jsonl", [own, {"problem": "2?", "answer": 2}])
    named = read(problems=(f"hard ones={path}",))
    assert [one.metadata for one in named.items] == [{"group": "hard ones", "year": 1}, {"group": "hard ones"}]
    assert f"{path}: 1 of them have another metadata.group, and are reported as hard ones" in told()
    assert [one.group for one in read(problems=(str(path),)).items] == ["own", None]
    assert named.sources[0].group == "hard ones" and named.sources[0].benchmark is None


def test_a_folder_a_pattern_and_two_files_have_their_groups(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / "easy" / f"{number}.jsonl", [{"problem": f"{number}?", "answer": number}])
    write(tmp_path / "hard.jsonl", [{"problem": "3?", "answer": 3}])
    found = read(problems=(f"easy={tmp_path}/easy", f"hard={tmp_path}/h*.jsonl"))
    assert [one.group for one in found.items] == ["easy", "easy", "hard"]
    assert [one.num_problems for one in found.sources] == [1, 1, 1]


def test_an_equals_sign_in_a_path_makes_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tau=0.8" / "a.jsonl", [{"problem": "1?", "answer": 1}])
    write(tmp_path / "tau=1.jsonl", [{"problem": "1?", "answer": 1}])
    assert named_sources(["tau=1.jsonl", "./x=y", "hf:o/n@a=b", "g=hf:o/n"]) == [
        NamedSource("tau=1.jsonl"), NamedSource("./x=y"), NamedSource("hf:o/n@a=b"), NamedSource("hf:o/n", "g"),
    ]  # fmt: skip
    assert named_sources([str(tmp_path / "tau=0.8" / "a.jsonl"), "tau=1*.jsonl"]) == [
        NamedSource(str(tmp_path / "tau=0.8" / "a.jsonl")), NamedSource("tau=1*.jsonl"),
    ]  # fmt: skip
    write(tmp_path / "1.jsonl", [{"problem": "1?", "answer": 1}])
    with pytest.raises(UsageError, match=r"there are tau=1.jsonl and 1.jsonl; write ./tau=1.jsonl for the first"):
        named_sources(["tau=1.jsonl"])


@pytest.mark.parametrize(
    ("problems", "why"),
    [
        (["=a.jsonl"], "'nothing' cannot be a group's name"),
        (["all problems=a.jsonl"], "'all problems' cannot be a group's name"),
        (["a="], "no file stands behind the equals sign"),
        ([], "no problems are named; give --problems FILE, or --benchmark with aime-2024"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(problems: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        named_sources(problems)


def test_one_file_under_two_names_is_refused_also_by_another_path(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"problem": "1?", "answer": 1}])
    again = f"{tmp_path}/../{tmp_path.name}/a.jsonl"
    with pytest.raises(UsageError, match="is given as the group x and as the group y; give it once"):
        read(problems=(f"x={path}", f"y={again}"))
    assert len(read(problems=(f"x={path}", f"x={again}")).items) == 1
