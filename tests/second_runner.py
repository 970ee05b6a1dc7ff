"""A pytest plugin: vLLM's second model runner, for real, on a CPU, with Triton's interpreter in place of its compiler.

    TORCHDYNAMO_DISABLE=1 python -m pytest -p tests.second_runner tests/synth/engine/test_vllm.py

vLLM takes that runner by default on a GPU since 0.31 and never on a CPU. A step takes about a tenth of a second instead
of milliseconds. Importing this is what does it, so it must come before vLLM.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import types
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"


class _WithCpu(importlib.abc.MetaPathFinder):
    """vLLM's CPU build asks for a Triton with a backend named cpu; PyPI's has none."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "triton.backends":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec and spec.loader
        run = spec.loader.exec_module

        def load(module: Any) -> None:
            run(module)
            driver = types.SimpleNamespace(is_active=lambda: True)
            module.backends["cpu"] = types.SimpleNamespace(driver=driver, compiler=None)

        spec.loader.exec_module = load  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _WithCpu())
