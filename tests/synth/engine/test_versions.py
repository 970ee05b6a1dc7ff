"""Which vLLM an engine takes, and what is said of other packages. Versions are faked as installed ones are found: by
their metadata on the path."""

from __future__ import annotations

from pathlib import Path

import pytest

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.engine.versions import check_vllm, outside, versions_here, vllm_here

READ = "0.24.0 0.25.0 0.25.1 0.26.0 0.27.0 0.27.1 0.28.0 0.29.0 0.30.0 0.31.0 0.32.0 0.33.0"


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    """As if this version of the package were installed."""
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("version", [*READ.split(), "0.32.0+cpu", "0.33.1.dev4+g1a2b3c"])
def test_versions_that_were_read_are_taken(version: str) -> None:
    check_vllm(version)


@pytest.mark.parametrize("version", ["0.23.1", "0.24.0rc1", "0.34.0rc1", "0.34.0", "1.0", "dev"])
def test_another_vllm_is_refused_with_what_to_do(version: str) -> None:
    with pytest.raises(UsageError) as refusal:
        check_vllm(version)
    assert f"vLLM {version} is installed; wanted >=0.24,<0.34" in str(refusal.value)
    assert "pip install 'vllm>=0.24,<0.34'" in str(refusal.value)


@pytest.mark.parametrize("version", ["0.23.0", "0.34.0"])
def test_an_engine_refuses_another_vllm_before_anything_loads(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm = pytest.importorskip("vllm")
    from dail.synth.engine.vllm import VllmEngine

    monkeypatch.setattr(vllm, "__version__", version)
    with pytest.raises(UsageError, match=f"vLLM {version} is installed"):
        VllmEngine(EngineConfig(model=Path("/there/is/no/such/model")))


def test_vllm_is_known_by_either_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, "vllm", "0.31.5")
    assert vllm_here() == versions_here()["vllm"] == "0.31.5"


def test_what_is_installed_here_is_inside_every_range() -> None:
    assert outside() == []


def test_a_package_outside_its_range_is_named_once_with_the_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, "transformers", "4.57.1")  # two extras ask for it
    (line,) = outside()
    assert "transformers 4.57.1 is installed; wanted <6,>=5.5" in line


def test_tools_of_development_may_be_of_any_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, "ruff", "0.1.0")
    assert outside() == []
