"""The engine on vLLM, in process. The only file that imports vllm.

Nothing in vLLM is patched. A batch-level logits processor sees both rows of a pair, draws one token by the rule and
forces it on both; a worker extension hands out what was recorded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

# Read by vllm and OpenMP when they are imported; the last three concern the CPU build alone.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine steps in this process
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its warnings are about its own defaults
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output belongs to `--json`
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # other programs compute on the same cores
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning on shared cores makes a step 30 times slower

import numpy as np
import torch
import vllm
from torch import Tensor
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from synth.config import EngineConfig
from synth.engine.base import Finished, Limits, PairRecord, PairRow, Row
from synth.rollout import Mixed, Rule, mix, uniforms
from synth.schema.base import EngineDead, UsageError

_PAIR = "dail_pair"  # key of a row's PairRow, temperature and seed in SamplingParams.extra_args


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

    def records(self) -> dict[str, PairRecord]:
        return self._engine.collective_rpc("take_pair_records")[0]

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
        logits_processors=[PairedMix],
        worker_extension_cls="synth.engine.vllm.PairWorker",
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
    if row.pair:  # the processor draws; greedy then takes the token it forced
        return SamplingParams(temperature=0.0, extra_args={_PAIR: (row.pair, row.temperature, row.seed)}, **common)
    logprobs = 0 if row.with_logprobs else None
    return SamplingParams(temperature=row.temperature, seed=row.seed, logprobs=logprobs, **common)


def _finished(output: Any) -> Finished:
    completion = output.outputs[0]
    token_ids = list(completion.token_ids)
    logprobs = None
    if completion.logprobs is not None:
        logprobs = [chosen[token].logprob for token, chosen in zip(token_ids, completion.logprobs, strict=True)]
    return Finished(output.request_id, token_ids, "stop" if completion.finish_reason == "stop" else "length", logprobs)


class PairedMix(LogitsProcessor):
    """Draws one token per pair by the mixed-policy rule and forces it on both rows of the pair (paper §2.1)."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._rows: dict[int, tuple[PairRow, float, int, list[int]]] = {}  # batch row → pair, temperature, seed, output
        self._stale = True
        self._taken: list[tuple[list[str], Mixed]] = []

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, _prompt, output_ids in batch_update.added:
            self._rows.pop(row, None)
            if _PAIR in (params.extra_args or {}):
                self._rows[row] = (*params.extra_args[_PAIR], output_ids)
        for source, target, direction in batch_update.moved:
            moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self._rows[source] = replaced
        self._stale = True

    def apply(self, logits: Tensor) -> Tensor:
        if self._stale:
            self._index_pairs()
        if not self._pairs:
            return logits
        mixed = mix(logits[self._student_P], logits[self._privileged_P], self._rule, self._uniforms())
        self._taken.append((self._pairs, mixed))
        for rows_P in (self._student_P, self._privileged_P):
            logits[rows_P] = float("-inf")
            logits[rows_P, mixed.token_P] = 0.0
        return logits

    def _index_pairs(self) -> None:
        student = {pair.pair: row for row, (pair, *_) in self._rows.items() if pair.role == "student"}
        privileged = {pair.pair: row for row, (pair, *_) in self._rows.items() if pair.role == "privileged"}
        assert student.keys() == privileged.keys(), f"rows without their partner: {student.keys() ^ privileged.keys()}"
        self._pairs = list(student)
        first = [self._rows[row] for row in student.values()]
        self._outputs = [output_ids for *_, output_ids in first]
        self._seed_P = np.array([seed for _, _, seed, _ in first], dtype=np.uint64)
        self._student_P = torch.tensor([student[name] for name in self._pairs], device=self._device, dtype=torch.long)
        self._privileged_P = torch.tensor([privileged[name] for name in self._pairs], device=self._device).long()
        self._rule = Rule(
            torch.tensor([pair.tau for pair, *_ in first], device=self._device),
            torch.tensor([temperature for _, temperature, *_ in first], device=self._device, dtype=torch.float32),
            torch.tensor([pair.tempered for pair, *_ in first], device=self._device, dtype=torch.bool),
        )
        self._stale = False

    def _uniforms(self) -> Tensor:
        position_P = np.array([len(output_ids) for output_ids in self._outputs], dtype=np.uint64)
        return torch.from_numpy(uniforms(self._seed_P, position_P)).to(self._device)

    def take_records(self) -> dict[str, PairRecord]:
        """What was drawn since the last call. Copies off the device here and not in every step."""
        taken, self._taken = self._taken, []
        records: dict[str, PairRecord] = {}
        for pairs, mixed in taken:
            columns = (mixed.token_P, mixed.accepted_P, mixed.student_logprob_P, mixed.privileged_logprob_P)
            for name, token, accepted, student, privileged in zip(pairs, *(c.tolist() for c in columns), strict=True):
                record = records.setdefault(name, PairRecord())
                record.token_ids.append(token)
                record.accepted.append(accepted)
                record.student_logprob.append(student)
                record.privileged_logprob.append(privileged)
        return records


class PairWorker:
    """Mixed into vLLM's worker class, so that `collective_rpc` reaches the processor wherever the worker lives."""

    model_runner: Any

    def take_pair_records(self) -> dict[str, PairRecord]:
        for processor in self.model_runner.input_batch.logitsprocs.all:
            if isinstance(processor, PairedMix):
                return processor.take_records()
        raise AssertionError("the engine was started without PairedMix")
