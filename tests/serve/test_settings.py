from __future__ import annotations

from pathlib import Path

import pytest

from dail.serve.settings import load_settings
from dail.synth.core.errors import UsageError
from dail.synth.core.http import is_loopback

TOKEN = "a-token-of-16-or-more"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("HOST", "PORT", "DATA_DIR", "MODELS", "STUDENTS", "LEASE_S", "TOKEN", "WORKER_TOKEN"):
        monkeypatch.delenv(f"DAIL_{name}", raising=False)


def test_settings_come_from_the_environment_and_flags_win(monkeypatch):
    monkeypatch.setenv("DAIL_PORT", "9000")
    monkeypatch.setenv("DAIL_MODELS", '{"a": "/models/a"}')
    settings = load_settings(port=9001, host=None)
    assert (settings.port, settings.host, settings.models) == (9001, "127.0.0.1", {"a": Path("/models/a")})


def test_paths_are_relative_to_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAIL_STUDENTS", '{"a": "s"}')
    settings = load_settings(models={"a": Path("m")})
    assert (settings.models, settings.students) == ({"a": tmp_path / "m"}, {"a": tmp_path / "s"})
    assert settings.data_dir == tmp_path / "runs" / "api"  # the default too
    assert load_settings(models={"a": Path("m")}, data_dir="elsewhere").data_dir == tmp_path / "elsewhere"


def test_a_student_of_no_registered_model_is_refused():
    with pytest.raises(UsageError, match="student 'b' belongs to no model; the models are a"):
        load_settings(models={"a": Path("/models/a")}, students={"b": Path("/adapters/b")})


def test_an_empty_token_is_no_token(monkeypatch):
    monkeypatch.setenv("DAIL_TOKEN", "")
    assert load_settings().token is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODELS", "{no json"),
        ("PORT", "many"),
        ("TOKEN", "short"),
        ("TOKEN", "sixteen-and-more\n"),
        ("WORKER_TOKEN", "sixteen and more"),
        ("TOKEN", "sechzehn-und-m\u00e4hr"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_without_its_value(monkeypatch, name, value):
    monkeypatch.setenv(f"DAIL_{name}", value)
    with pytest.raises(UsageError, match=f"(?i){name}") as caught:
        load_settings()
    assert value not in str(caught.value)


def test_a_token_is_never_printed(monkeypatch):
    monkeypatch.setenv("DAIL_TOKEN", TOKEN)
    assert TOKEN not in repr(load_settings())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
    ],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected
