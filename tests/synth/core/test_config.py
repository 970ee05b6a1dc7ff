"""Absolute paths, pointers, and the one spelling that is hashed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from dail.synth.core.config import AbsolutePath, Config, canonical, fingerprint
from dail.synth.core.errors import pointer


class Inner(Config):
    size: int = Field(1, ge=1)
    path: AbsolutePath | None = None


def test_a_path_is_absolute_as_soon_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    found = [Inner.model_validate({"path": path}).path for path in ("a/b", "../c", "~/d", "/e", None)]
    assert found == [tmp_path / "a" / "b", tmp_path.parent / "c", Path("/home/somebody/d"), Path("/e"), None]


def test_a_path_of_nobody_is_refused():
    with pytest.raises(ValueError, match="write the whole path"):
        Inner.model_validate({"path": "~no-such-user/a"})


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
