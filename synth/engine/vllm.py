"""The engine on vLLM, in process. The only file that imports vllm.

Nothing in vLLM is patched. A batch-level logits processor hands the logits to `Draws`, which draws the tokens of pairs
and of rows drawn alone and forces them; a worker extension hands out what was recorded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

# Read by vllm and OpenMP when they are imported; the last three concern the CPU build alone.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine steps in this process
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its warnings are about its own defaults
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output belongs to `--json`
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # other programs compute on the same cores
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning on shared cores makes a step 30 times slower

import torch
import vllm
from torch import Tensor
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from synth.config import EngineConfig
from synth.engine.base import Finished, Limits, Records, Row
from synth.engine.draws import Draws, Slot, pause_id
from synth.schema.base import EngineDead, UsageError

_ROW = "dail_row"  # key of a drawn row in SamplingParams.extra_args


class VllmEngine:
    """vLLM behind the Engine protocol. Takes about 20 s to start, mostly imports and warm-up.

    Args:
        adapter_rank: largest rank of the PEFT adapters that rows may name; none: no adapters.

    Raises:
        UsageError: vLLM refused the model folder or the settings.
    """

    def __init__(self, config: EngineConfig, adapter_rank: int | None = None) -> None:
        # on the CPU, compiling the sampler takes longer than it ever saves
        torch._dynamo.config.disable = current_platform.is_cpu()
        try:
            self._engine = LLMEngine.from_engine_args(_engine_args(config, adapter_rank))
        except (ValueError, OSError, RuntimeError) as error:
            raise UsageError(f"vLLM cannot start on {config.model}: {error}") from error
        self.name = f"vllm {vllm.__version__}"
        cache, scheduler = self._engine.vllm_config.cache_config, self._engine.vllm_config.scheduler_config
        block = int(cache.block_size)
        self.limits = Limits(
            model_tokens=int(self._engine.model_config.max_model_len),
            rows=int(scheduler.max_num_seqs),
            step_tokens=int(scheduler.max_num_batched_tokens),
            kv_tokens=(int(cache.num_gpu_blocks or 0) - 1) * block,  # vLLM keeps one block to itself
            kv_block=block,
        )
        self._adapters: dict[str, LoRARequest] = {}
        self._adapter_of: dict[str, str | None] = {}  # of the rows that run

    def add(self, row: Row) -> None:
        if current_platform.is_cpu() and any(other != row.adapter for other in self._adapter_of.values()):
            raise UsageError(
                "rows with and without adapter cannot share vLLM's CPU engine: it gives the adapter to both; "
                "decode one kind after the other, or use a GPU"
            )
        self._adapter_of[row.row_id] = row.adapter
        adapter = self._adapter(row.adapter) if row.adapter else None
        prompt = {"prompt_token_ids": list(row.prompt_ids)}
        self._engine.add_request(row.row_id, prompt, _sampling(row), lora_request=adapter)

    def abort(self, row_ids: Sequence[str]) -> None:
        self._engine.abort_request(list(row_ids))
        for row_id in row_ids:
            self._adapter_of.pop(row_id, None)

    def step(self) -> list[Finished]:
        try:
            outputs = self._engine.step()
        except Exception as error:  # whatever a step raises, the engine's state can no longer be trusted
            raise EngineDead(f"vLLM's step failed: {type(error).__name__}: {error}") from error
        finished = [_finished(output) for output in outputs if output.finished]
        for row in finished:
            del self._adapter_of[row.row_id]
        return finished

    def records(self) -> Records:
        return self._engine.collective_rpc("take_records")[0]

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _adapter(self, folder: str) -> LoRARequest:
        if folder not in self._adapters:
            self._adapters[folder] = LoRARequest(f"adapter-{len(self._adapters)}", len(self._adapters) + 1, folder)
        return self._adapters[folder]


def _engine_args(config: EngineConfig, adapter_rank: int | None) -> EngineArgs:
    adapters = {} if adapter_rank is None else {"enable_lora": True, "max_lora_rank": _lora_rank(adapter_rank)}
    kv_cache = {} if config.kv_cache_gib is None else {"kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30)}
    return EngineArgs(
        model=str(config.model),
        dtype=config.dtype,
        max_model_len=config.model_tokens,
        max_num_seqs=config.rows,
        max_num_batched_tokens=config.step_tokens,
        tensor_parallel_size=config.tensor_parallel,
        distributed_executor_backend="uni" if config.tensor_parallel == 1 else "mp",
        enforce_eager=current_platform.is_cpu(),
        enable_prefix_caching=True,
        async_scheduling=False,  # a pair's next token needs its last one
        disable_log_stats=True,
        use_tqdm_on_load=False,
        logits_processors=[Drawing],
        worker_extension_cls="synth.engine.vllm.DrawingWorker",
        seed=0,
        **adapters,
        **kv_cache,
    )


def _lora_rank(rank: int) -> int:
    """The smallest rank vLLM has buffers for."""
    return next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank)


def _sampling(row: Row) -> SamplingParams:
    common: dict[str, Any] = {
        "max_tokens": row.max_tokens,
        "stop_token_ids": sorted(row.stop_ids),
        "ignore_eos": True,  # stop_ids says all of what ends a row
        "detokenize": False,
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    if row.pair or row.alone:  # Draws draws; greedy then takes the token it forced
        common["stop_token_ids"] = sorted(row.stop_ids | ({pause_id(row)} if row.alone else set()))
        return SamplingParams(temperature=0.0, extra_args={_ROW: replace(row, prompt_ids=())}, **common)
    logprobs = 0 if row.with_logprobs else None
    return SamplingParams(temperature=row.temperature, seed=row.seed, logprobs=logprobs, **common)


def _finished(output: Any) -> Finished:
    completion = output.outputs[0]
    token_ids = list(completion.token_ids)
    logprobs = None
    if completion.logprobs is not None:
        logprobs = [chosen[token].logprob for token, chosen in zip(token_ids, completion.logprobs, strict=True)]
    return Finished(output.request_id, token_ids, "stop" if completion.finish_reason == "stop" else "length", logprobs)


class Drawing(LogitsProcessor):
    """Hands the batch's logits to `Draws`, which forces the tokens of pairs and of rows drawn alone (paper §2.1)."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.draws = Draws(device)
        self._slots: dict[int, Slot] = {}
        self._stale = True

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for at in batch_update.removed:
            self._slots.pop(at, None)
        for at, params, _prompt, output_ids in batch_update.added:
            self._slots.pop(at, None)
            if _ROW in (params.extra_args or {}):
                self._slots[at] = Slot(params.extra_args[_ROW], output_ids)
        for source, target, direction in batch_update.moved:
            moved, replaced = self._slots.pop(source, None), self._slots.pop(target, None)
            if moved is not None:
                self._slots[target] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self._slots[source] = replaced
        self._stale = True

    def apply(self, logits: Tensor) -> Tensor:
        if self._stale:
            self.draws.index(self._slots)
            self._stale = False
        return self.draws.apply(logits)


class DrawingWorker:
    """Mixed into vLLM's worker class, so that `collective_rpc` reaches the processor wherever the worker lives."""

    model_runner: Any

    def take_records(self) -> Records:
        for processor in self.model_runner.input_batch.logitsprocs.all:
            if isinstance(processor, Drawing):
                return processor.draws.take()
        raise AssertionError("the engine was started without Drawing")
