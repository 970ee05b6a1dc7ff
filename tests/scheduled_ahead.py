"""A pytest plugin: vLLM schedules a step while the one before is still computed, which our engine turns off, and vLLM
itself on a CPU. May follow `-p tests.second_runner`.

    python -m pytest -p tests.scheduled_ahead tests/synth/engine/test_vllm.py
"""

from __future__ import annotations

from typing import Any


def pytest_sessionstart() -> None:
    """Not sooner, since importing vLLM reads what tests/conftest.py sets in the environment."""
    from vllm.platforms.cpu import CpuPlatform

    from dail.synth.engine import vllm as engine

    settle, arguments = CpuPlatform.check_and_update_config.__func__, engine._engine_args

    def settle_ahead(cls: type, config: Any) -> None:
        settle(cls, config)
        config.scheduler_config.async_scheduling = True

    def ahead(config: Any, max_rank: int | None, vllm_args: dict[str, Any]) -> Any:
        return arguments(config, max_rank, {**vllm_args, "async_scheduling": True})

    CpuPlatform.check_and_update_config = classmethod(settle_ahead)  # type: ignore[method-assign]
    engine._engine_args = ahead
