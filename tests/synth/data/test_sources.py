"""What stands on a command line: several files, folders, patterns, and sets of the hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.data.hub import HubName
from dail.synth.data.reader import load_items, read_solutions
from dail.synth.data.sources import read_tables
from tests.conftest import Told


def write(path: Path, *problems: str, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"problem": text, "solution": "s", **more}) + "\n" for text in problems))
    return path


def problems(*source: Any) -> list[str]:
    return [str(item.problem) for item in load_items(list(source))]


def test_several_files_are_read_in_their_order_and_each_once(tmp_path: Path):
    one, two = write(tmp_path / "b.jsonl", "1"), write(tmp_path / "a.jsonl", "2")
    assert problems(one, two, str(one), tmp_path / "." / "b.jsonl") == ["1", "2"]


def test_a_folder_is_its_files_by_name_at_any_depth_but_for_hidden_ones_and_descriptions(tmp_path: Path):
    write(tmp_path / "set" / "data" / "2.jsonl", "2")
    write(tmp_path / "set" / "data" / "1.jsonl", "1")
    write(tmp_path / "set" / ".cache" / "3.jsonl", "3")
    (tmp_path / "set" / "README.md").write_text("a card")
    (tmp_path / "set" / "dataset_infos.json").write_text("{}")
    assert problems(tmp_path / "set") == ["1", "2"]


def test_files_with_the_same_columns_are_told_in_one_line(tmp_path: Path, told: Told):
    for n in range(12):
        write(tmp_path / "set" / f"{n:02}.jsonl", str(n), "more")
    assert len(problems(tmp_path / "set")) == 13
    first, second = told().splitlines()
    files = f"12 files, {tmp_path}/set/00.jsonl to {tmp_path}/set/11.jsonl"
    assert first == f"own columns: 13 items from {files}: columns as they are"
    assert second.startswith("equal items are drawn once, 11 left out: ") and second.endswith(" and 8 more")


def test_a_pattern_that_no_shell_took_apart_is_taken_apart(tmp_path: Path):
    write(tmp_path / "a" / "2.jsonl", "2")
    write(tmp_path / "a" / "1.jsonl", "1")
    assert problems(tmp_path / "a" / "*.jsonl") == problems(tmp_path / "**" / "*.jsonl") == ["1", "2"]
    bracket = write(tmp_path / "a" / "[x].jsonl", "3")
    assert problems(bracket) == ["3"]
    with pytest.raises(UsageError, match=r"no\*\.jsonl matches no file"):
        problems(tmp_path / "no*.jsonl")


FOLDERS = {
    "nothing in it": ([], "0 other files in it; wanted files"),
    "a card alone": (["README.md"], "1 other file in it"),
    "arrow": (["data-00000-of-00001.arrow", "state.json"], "save_to_disk of .*; write it with to_parquet"),
    "two splits": (["train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"], r"several splits \(test: .*train: "),
    "two splits, one without a name": (["a.jsonl", "data/validation.jsonl"], r"several splits \(neither: "),
    "two splits as folders": (["dev/a.jsonl", "train/a.jsonl"], r"several splits \(train: .*validation: "),
    "two kinds": (["a.jsonl", "a.csv"], r"several kinds \(\.csv: .*\.jsonl: "),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_in_which_it_is_not_clear_what_is_meant_is_refused(tmp_path: Path, name: str):
    files, why = FOLDERS[name]
    for file in files:
        write(tmp_path / "set" / file, "1")
    (tmp_path / "set").mkdir(exist_ok=True)
    with pytest.raises(UsageError, match=why):
        problems(tmp_path / "set")


def test_words_inside_other_words_are_no_splits(tmp_path: Path):
    write(tmp_path / "set" / "contest.jsonl", "1")
    write(tmp_path / "set" / "trains.jsonl", "2")
    assert problems(tmp_path / "set") == ["1", "2"]


def test_ids_that_two_files_have_get_the_files_names(tmp_path: Path):
    one, two = write(tmp_path / "aime24.jsonl", "1", id=0), write(tmp_path / "aime25.jsonl", "2", id=0)
    third = write(tmp_path / "other.jsonl", "3", id=7)
    read = read_solutions([one, two, third])
    assert [item.id for item in read.items] == ["aime24:0", "aime25:0", "7"]
    assert "id: aime25: put before, as another source has the same ids" in " ".join(read.account.sources[1].notes)


def test_an_address_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match="is an address; download the file, or name a set of the hub as hf:OWNER/NAME"):
        problems("https://huggingface.co/datasets/o/n")


def test_names_may_come_from_a_generator(tmp_path: Path):
    files = [write(tmp_path / f"{n}.jsonl", str(n)) for n in range(3)]
    assert [item.problem for item in load_items(path for path in files)] == ["0", "1", "2"]


def test_what_is_no_name_of_a_set_is_refused():
    assert HubName.parse("hf:o/n.1@v1.0:main/train[:5%]") == ("o/n.1", "v1.0", "main/train[:5%]")
    assert HubName.parse("hf:gsm8k") == ("gsm8k", None, None)
    for text in ("hf:", "hf:a b", "hf:a/b/c", "hf:a/b@", "hf:a/b:"):
        with pytest.raises(UsageError, match="names no data set of the hub; wanted hf:OWNER/NAME"):
            HubName.parse(text)


def test_without_the_library_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"hf:o/n needs the package datasets; run: pip install 'dail\[data\]'"):
        list(read_tables(["hf:o/n"]))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set with two configurations, one of which has two splits, as a folder that the library takes for its name."""
    datasets = pytest.importorskip("datasets", reason="the extra dail[data] is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "o" / "n" / "train.jsonl", "1", "2", problem_id=4)
    write(tmp_path / "o" / "n" / "test.jsonl", "3", problem_id=4)
    write(tmp_path / "o" / "one" / "data.jsonl", "4")
    (tmp_path / "o" / "n" / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n    path: train.jsonl\n"
        "  - split: test\n    path: test.jsonl\n- config_name: few\n  data_files: test.jsonl\n---\n"
    )
    return tmp_path


@pytest.mark.usefixtures("hub")
def test_a_set_is_read_by_name_configuration_and_split_and_through_presets():
    read = read_solutions("hf:o/n:all/test")
    assert [(item.problem, item.id) for item in read.items] == [("3", "4")]
    assert (read.account.sources[0].preset, read.account.sources[0].file) == ("e1", "hf:o/n:all/test")
    assert problems("hf:o/n:few") == ["3"] and problems("hf:o/one") == ["4"]
    assert problems("hf:o/n:all/train[:1]") == ["1"]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hf:o/n", r"2 configurations \(all, few\); name one: hf:o/n:CONFIG/SPLIT"),
        ("hf:o/n:all", r"2 splits \(train, test\); name one: hf:o/n:all/SPLIT"),
        ("hf:o/n:none/train", "no configuration 'none'; it has all, few"),
        ("hf:o/n:all/dev", "no split 'dev' in all; it has train, test"),
        ("hf:o/nowhere", "hf:o/nowhere cannot be loaded: .*HF_HUB_OFFLINE"),
    ],
)
def test_no_part_of_a_set_is_guessed(name: str, why: str):
    with pytest.raises(UsageError, match=why):
        problems(name)


@pytest.mark.usefixtures("hub")
def test_a_revision_reaches_the_library(monkeypatch: pytest.MonkeyPatch):
    import datasets

    asked: list[Any] = []
    real = datasets.load_dataset

    def load(name: str, config: str, **more: Any) -> Any:
        asked.append(more.pop("revision"))
        return real(name, config, **more)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert problems("hf:o/one@v1.0") == ["4"] and asked == ["v1.0"]
