"""Settings from TOML and the command line, pointers, and the one spelling that is hashed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from dail.synth.core.config import Config, canonical, fingerprint
from dail.synth.core.errors import UsageError, pointer


class Inner(Config):
    size: int = Field(1, ge=1)
    path: Path | None = None


class Settings(Config):
    rate: float = 0.5
    name: str = "n"
    on: bool = False
    tags: tuple[str, ...] = ()
    inner: Inner = Inner()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text('[synth]\nrate = 0.25\nname = "é"\n[synth.inner]\nsize = 4\n[train]\nlr = 1\n', "utf-8")
    return path


def test_a_file_holds_a_table_for_each_verb(file: Path):
    assert Settings.load(file, "synth") == Settings(rate=0.25, name="é", inner=Inner(size=4))


def test_an_absent_table_means_the_defaults(file: Path):
    assert Settings.load(file, "eval") == Settings() == Settings.load(None, "eval")


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("rate=1e-4", {"rate": 1e-4}),
        ("rate=2", {"rate": 2.0}),
        ("name=plain/word-1.5", {"name": "plain/word-1.5"}),
        ("name='quoted = text'", {"name": "quoted = text"}),
        ("name=", {"name": ""}),
        ("name=a=b", {"name": "a=b"}),
        ("on=true", {"on": True}),
        ('tags=["a", "b"]', {"tags": ("a", "b")}),
        ("inner.size=7", {"inner": Inner(size=7)}),
        ("inner.path=/a b/c", {"inner": Inner(size=4, path=Path("/a b/c"))}),
    ],
)
def test_overrides_are_toml_values_or_bare_words_and_win(file: Path, override: str, wanted: dict[str, Any]):
    start = Settings(rate=0.25, name="é", inner=Inner(size=4))
    assert Settings.load(file, "synth", [override]) == start.model_copy(update=wanted)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("rate", "override 'rate' has no '='; write key=value"),
        ("rate=fast", "/rate: Input should be a valid number"),
        ("rate=nan", "/rate: Input should be a finite number"),
        ("name=1", "/name: Input should be a valid string"),
        ("on=maybe", "/on: "),
        ("inner.size=0", "/inner/size: Input should be greater than or equal to 1"),
        ("ratte=1", "/ratte: there is no such name; check its spelling or remove it; the settings are rate, "),
        ("inner.sice=1", "/inner/sice: there is no such name.*; the settings are size, path$"),
        ("=1", "there is no such name"),
        ("inner=3", "/inner: "),
        ("rate.x=1", "rate is a single value and has no 'x' in it"),
    ],
)
def test_an_override_that_cannot_be_used_is_refused_with_its_key(file: Path, override: str, why: str):
    with pytest.raises(UsageError, match=why):
        Settings.load(file, "synth", [override])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[synth]\nrate = fast\n", "is not TOML: "),
        (b"[synth]\nrate = 1\nrate = 2\n", "is not TOML: "),
        (b"\xff", "is not TOML: "),
        (b"synth = 3\n", r"synth is a int; wanted a table, \[synth\]"),
        (b"[snyth]\nrate = 1\n", "there is no table 'snyth'; the tables are synth, synthesis, train, eval"),
        (b"rate = 1\n[synth]\n", "there is no table 'rate'"),
        (b"[synth]\nratte = 1\n", r"\[synth\]: /ratte: there is no such name"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: bytes, why: str):
    path = tmp_path / "run.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=rf"run\.toml.*{why}"):
        Settings.load(path, "synth")


def test_a_file_that_is_not_there_or_a_folder_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UsageError, match="does not exist; deploy/configs/ holds examples"):
        Settings.load(tmp_path / "no.toml", "synth")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        Settings.load(tmp_path, "synth")


def test_a_refused_value_is_not_repeated():
    with pytest.raises(UsageError) as caught:
        Settings.load(None, "synth", ["rate=secret", "on=secret"])
    assert "secret" not in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_pointer_can_be_taken_apart_again(path: list[str]):
    parts = pointer(path).split("/")[1:]
    assert [part.replace("~1", "/").replace("~0", "~") for part in parts] == path


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(JSON)
def test_the_canonical_spelling_says_all_and_knows_no_order(value: Any):
    assert json.loads(canonical(value)) == value
    if isinstance(value, dict):
        assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)


def test_the_fingerprint_of_a_known_value_does_not_move():
    assert canonical({"b": [1.5, None], "a": "é"}) == '{"a":"é","b":[1.5,null]}'.encode()
    assert fingerprint({}) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert fingerprint(Inner()) == fingerprint({"size": 1, "path": None})


def test_what_json_cannot_spell_has_no_fingerprint():
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint(float("nan"))
