"""Settings of the worker and of `dail synth`: which engine, how many, and how big."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from synth.schema.base import Config


class EngineConfig(Config):
    """One engine pair. Sizes left out are chosen by the engine."""

    model: Path = Field(description="folder with safetensors, tokenizer and chat template")
    kind: Literal["vllm", "fake"] = Field("vllm", description="the fake engine draws from known, made-up distributions")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="of the weights in the engine")
    model_tokens: int | None = Field(
        None, ge=16, description="longest prompt + trace; the model's own limit if left out"
    )
    rows: int = Field(256, ge=2, description="rows decoded in one step; a mixed rollout takes two")
    step_tokens: int = Field(8192, ge=64, description="tokens one step may process, prefill included")
    kv_cache_gib: float | None = Field(None, gt=0, description="KV cache; vLLM's share of the free memory if left out")
    tensor_parallel: int = Field(1, ge=1, description="GPUs one engine spans")


class SynthConfig(Config):
    """`[synth]` of a config file."""

    engine: EngineConfig
    actors: int | None = Field(None, ge=1, description="engine actors; one per GPU of the cluster (or 1) if left out")
    strategy: Literal["lockstep", "lazy"] = Field(
        "lockstep",
        description="how mixed rollouts are drawn; the traces are the same, lazy does not say who wrote what",
    )
    restarts: int = Field(3, ge=0, description="engine restarts within 10 minutes before an actor is given up")
