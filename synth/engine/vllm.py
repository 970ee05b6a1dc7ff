"""The engine on vLLM, in process. The only file that imports vllm.

Nothing in vllm is patched. A batch-level logits processor hands the logits to a `BatchSampler`, which samples the
tokens of sequences that have a `Draw` and forces them; a worker extension hands out what was recorded. Both of vLLM's
model runners are served, whose logits processors have nothing in common but the logits.

    from pathlib import Path
    from dail.synth.config import EngineConfig
    from dail.synth.engine.base import SequenceKey, TokenSequence
    from dail.synth.engine.start import start_engine
    engine = start_engine(EngineConfig(model=Path("deploy/demo/model"), dtype="float32"))
    engine.add(TokenSequence(SequenceKey("one"), [1, 2, 3], 16, 0.6, 0, frozenset()))
    while not (ended := engine.step()):
        pass
    print(ended[0].reason, ended[0].tokens.ids)
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Read by vllm and OpenMP when they are imported; the last two concern the CPU build alone.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine steps in this process
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its warnings are about its own defaults
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output belongs to `--json`
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # other programs compute on the same cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning on shared cores makes a step 30 times slower

import torch
import vllm
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor import LogitsProcessor as FirstRunnerProcessor

from dail.synth.config import EngineConfig
from dail.synth.core.errors import EngineDead, UsageError
from dail.synth.engine.base import SCORE_TOP, FinishReason, Limits, Sampled, Score, SequenceKey, TokenSequence
from dail.synth.engine.ledger import Ledger, Taken
from dail.synth.engine.sampling import BatchSampler, Slot, engine_stop_ids
from dail.synth.engine.versions import Choices, check_vllm

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondRunnerProcessor
except ImportError:  # vLLM has no second model runner with such an interface

    class SecondRunnerProcessor:  # type: ignore[no-redef]
        pass


_SEQUENCE = "dail_sequence"  # in SamplingParams.extra_args: one that has a `Draw`, without its prompt
_PROMPT = "dail_prompt"  # in them: the length of that prompt
_CPU_KV_CACHE_GIB = 1.0  # where nobody says it: vLLM would take nearly all of the machine's memory


class VllmEngine:
    """vLLM behind the Engine protocol. Takes about 20 s to start, mostly imports and warm-up.

    Args:
        max_rank: largest rank of the PEFT adapters that rows may name; none: no adapters.
        mixes_adapters: whether rows with an adapter and rows without may run at one time. On a CPU each row then costs
            what one with an adapter costs, several times as much.
        vllm_args: arguments of vLLM's own, which win over ours; for tests and benches.

    Raises:
        UsageError: dail was not made for this vLLM, or vLLM refused the model folder or the settings.
    """

    def __init__(
        self, config: EngineConfig, max_rank: int | None = None, mixes_adapters: bool = False, **vllm_args: Any
    ) -> None:
        check_vllm(vllm.__version__)
        # on the CPU, compiling the sampler takes longer than it ever saves
        torch._dynamo.config.disable = current_platform.is_cpu()
        try:
            self._engine = LLMEngine.from_engine_args(_engine_args(config, max_rank, vllm_args))
        except (ValueError, OSError, RuntimeError) as error:
            raise UsageError(f"vLLM cannot start on {config.model}: {error}") from error
        dtype = str(self._engine.model_config.dtype).removeprefix("torch.")
        self.name = f"vllm {vllm.__version__} {dtype}"
        cache, scheduler = self._engine.vllm_config.cache_config, self._engine.vllm_config.scheduler_config
        block = int(cache.block_size)
        self.limits = Limits(
            model_tokens=int(self._engine.model_config.max_model_len),
            rows=int(scheduler.max_num_seqs),
            step_tokens=int(scheduler.max_num_batched_tokens),
            kv_tokens=(int(cache.num_gpu_blocks or 0) - 1) * block,  # vLLM keeps one block to itself
            kv_block=block,
            caches_prompts=bool(cache.enable_prefix_caching),
        )
        self._adapters: dict[str, LoRARequest] = {}
        is_cpu_lora = max_rank is not None and current_platform.is_cpu()
        self._no_adapter = _zero_adapter(config.model) if is_cpu_lora and mixes_adapters else None
        self._keeps_apart = is_cpu_lora and not mixes_adapters
        self._inside: dict[str, TokenSequence] = {}  # by vLLM's request id
        self._ledger = Ledger(self._take)
        self.num_read_again = 0

    def add(self, sequence: TokenSequence) -> None:
        self._ledger.add(sequence)
        self._add(sequence)

    def abort(self, keys: Sequence[SequenceKey]) -> None:
        self._ledger.drop(keys)
        request_ids = [_request_id(key) for key in keys]
        self._engine.abort_request(request_ids)
        for request_id in request_ids:
            self._inside.pop(request_id, None)

    def step(self) -> list[Sampled]:
        if not self._engine.has_unfinished_requests():
            return []
        try:
            outputs = self._engine.step()
        except Exception as error:  # whatever a step raises, the engine's state can no longer be trusted
            raise EngineDead(f"vLLM's step failed: {type(error).__name__}: {error}") from error
        for output in outputs:
            if not output.finished:  # of those that are followed alone
                self._ledger.follow(self._inside[output.request_id].key, output.outputs[0].token_ids)
        return self._end([output for output in outputs if output.finished])

    def written(self) -> list[Sampled]:
        return self._ledger.written()

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _take(self, ended: list[SequenceKey], running: list[SequenceKey] | None) -> Taken:
        return self._engine.collective_rpc("take_sampled", args=(ended, running))[0]

    def _add(self, sequence: TokenSequence, skip_cache: bool = False) -> None:
        self._inside[_request_id(sequence.key)] = sequence
        if self._keeps_apart:
            assert len({bool(one.adapter) for one in self._inside.values()}) == 1, (
                "vLLM on a CPU gives sequences without adapter that of their neighbours; start with mixes_adapters"
            )
        adapter = self._adapter(sequence.adapter) if sequence.adapter else self._no_adapter
        prompt = {"prompt_token_ids": list(sequence.prompt_ids)}
        sampling = _sampling(sequence, skip_cache)
        self._engine.add_request(_request_id(sequence.key), prompt, sampling, lora_request=adapter)

    def _end(self, outputs: list[Any]) -> list[Sampled]:
        ended, scores = [], {}
        for output in outputs:
            sequence, completion = self._inside.pop(output.request_id), output.outputs[0]
            if sequence.score_from is not None:
                found = self._scores(sequence, output)
                if found is None:
                    continue
                scores[sequence.key] = found
            reason: FinishReason = "stop" if completion.finish_reason == "stop" else "length"
            ended.append((sequence, list(completion.token_ids), reason))
        return [replace(one, scores=scores.get(one.key)) for one in self._ledger.end(ended)]

    def _scores(self, sequence: TokenSequence, output: Any) -> list[Score] | None:
        """None if the prompt must be read again, which it then is.

        A token's score comes from the position before it, which is not computed where it lies in the cache: vLLM's
        first runner then returns what the memory held, its second one nothing.
        """
        assert sequence.score_from, "a prompt's first token has no score"
        scores = _scores(output.prompt_logprobs, len(sequence.prompt_ids) - sequence.score_from)
        if scores is None or (output.num_cached_tokens or 0) >= sequence.score_from:
            self.num_read_again += 1
            self._add(sequence, skip_cache=True)
            return None
        return scores

    def _adapter(self, folder: str) -> LoRARequest:
        if folder not in self._adapters:
            number = len(self._adapters) + 1 + _NO_ADAPTER
            self._adapters[folder] = LoRARequest(f"adapter-{number}", number, folder)
        return self._adapters[folder]


def chosen(config: EngineConfig, max_rank: int | None = None) -> Choices:
    """What vLLM decides for an engine of this config on this device, asked of vLLM itself. Loads no weights.

    Attention is that of the model's ordinary layers; those with a window, or with sinks, may have another.

    Raises:
        UsageError: dail was not made for this vLLM, or vLLM refused the model folder or the settings.
    """
    # not at the top: where these stand has changed between versions, and no engine needs them
    from vllm.config import set_current_vllm_config
    from vllm.v1.attention.selector import get_attn_backend

    check_vllm(vllm.__version__)
    try:
        settled = _engine_args(config, max_rank, {}).create_engine_config()
        model = settled.model_config
        with set_current_vllm_config(settled):
            attention = get_attn_backend(
                model.get_head_size(), model.dtype, settled.cache_config.cache_dtype, use_mla=model.use_mla
            )
    except (ValueError, OSError, RuntimeError) as error:
        raise UsageError(f"vLLM cannot start on {config.model}: {error}") from error
    return Choices(
        runner="second" if settled.use_v2_model_runner else "first",
        attention=attention.get_name(),
        dtype=str(model.dtype).removeprefix("torch."),
        graphs=settled.compilation_config.cudagraph_mode.name,
        schedules_ahead=bool(settled.scheduler_config.async_scheduling),
    )


def _request_id(key: SequenceKey) -> str:
    return "/".join(map(str, key))


_NO_ADAPTER = 1  # vLLM's number of the adapter that changes nothing


def _zero_adapter(model: Path) -> LoRARequest:
    """An adapter that changes nothing, for rows without one.

    vLLM's CPU kernels (0.32) read "no adapter" as slot -1, the last one: such a row would get its neighbour's adapter.
    One layer's matrices are enough, since vLLM takes what an adapter leaves out as zero.
    """
    folder = Path(tempfile.mkdtemp(prefix="dail-no-adapter-"))
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            name = next((key for key in list(weights.keys()) if key.endswith("_proj.weight")), None)
            if name is None:
                continue
            rows, columns = weights.get_slice(name).get_shape()
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        zeros = {f"{layer}.lora_A.weight": torch.zeros(8, columns), f"{layer}.lora_B.weight": torch.zeros(rows, 8)}
        save_file(zeros, folder / "adapter_model.safetensors")
        target = name.removesuffix(".weight").rpartition(".")[2]
        settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": [target], "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        return LoRARequest("no-adapter", _NO_ADAPTER, str(folder))
    raise UsageError(f"{model} has no linear layer whose name ends in _proj; adapters cannot be used with it on a CPU")


def _engine_args(config: EngineConfig, max_rank: int | None, vllm_args: dict[str, Any]) -> EngineArgs:
    ours: dict[str, Any] = {
        "model": str(config.model),
        "dtype": config.dtype,
        "max_model_len": config.model_tokens,
        "max_num_seqs": config.rows,
        "max_num_batched_tokens": config.step_tokens,
        "tensor_parallel_size": config.tensor_parallel,
        "distributed_executor_backend": "uni" if config.tensor_parallel == 1 else "mp",
        "enforce_eager": current_platform.is_cpu(),
        "enable_prefix_caching": True,
        # Scheduling ahead was tried on a CPU, whose platform turns it off (tests/scheduled_ahead.py, `make soak`).
        # Traces and records are the same, since a position counts tokens that are still on the device, with two limits.
        # `take_sampled` reads the newest step too, so whenever a sequence ends the host would wait for the step in
        # flight: it would take an event a step, and reading only what has happened. And a pair that is thrown back
        # (which admission prevents) is stepped once more before that is seen: its records then lack a token, and the
        # ledger refuses them. What it brings is measured by the plans of tests/gpu.
        "async_scheduling": False,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "logits_processors": [Drawing],
        "worker_extension_cls": "dail.synth.engine.vllm.DrawingWorker",
        "seed": 0,
    }
    if hasattr(EngineArgs, "enable_batch_sharded_sampling"):
        ours["enable_batch_sharded_sampling"] = False  # a rank would draw for a part of the rows, and pairs would part
    if max_rank is not None:
        ours |= {"enable_lora": True, "max_lora_rank": _lora_rank(max_rank), "max_loras": 2}
    kv_cache_gib = config.kv_cache_gib or (_CPU_KV_CACHE_GIB if current_platform.is_cpu() else None)
    if kv_cache_gib is not None:
        ours["kv_cache_memory_bytes"] = int(kv_cache_gib * 2**30)
    if config.memory_share is not None:
        ours["gpu_memory_utilization"] = config.memory_share
    return EngineArgs(**ours | vllm_args)


def _lora_rank(rank: int) -> int:
    """The smallest rank vLLM has buffers for."""
    return next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank)


def _sampling(sequence: TokenSequence, skip_cache: bool) -> SamplingParams:
    common: dict[str, Any] = {
        "max_tokens": sequence.max_tokens,
        "stop_token_ids": sorted(engine_stop_ids(sequence)),
        "ignore_eos": True,  # these say all of what ends a sequence
        "detokenize": False,
        "output_kind": RequestOutputKind.DELTA if sequence.is_followed else RequestOutputKind.FINAL_ONLY,
    }
    if sequence.draw:  # the processor samples; greedy then takes the token that it forced
        known = {_SEQUENCE: replace(sequence, prompt_ids=()), _PROMPT: len(sequence.prompt_ids)}
        return SamplingParams(temperature=0.0, extra_args=known, **common)
    if sequence.score_from is not None:
        common |= {"prompt_logprobs": SCORE_TOP, "flat_logprobs": True, "skip_reading_prefix_cache": skip_cache}
    return SamplingParams(
        temperature=sequence.temperature,
        top_p=sequence.top_p,
        top_k=sequence.top_k,
        presence_penalty=sequence.presence_penalty,
        seed=sequence.seed if sequence.temperature else None,
        **common,
    )


def _scores(flat: Any, number: int) -> list[Score] | None:
    """Of the prompt's last tokens, so many; none if vLLM gives fewer.

    Counted from the end: the first runner has a place for every token of the prompt, the second one leaves out those
    that lay in the cache. The first place is the prompt's first token's, and empty, in both. Of each other place vLLM's
    own token comes first, then the likeliest; its rank counts the tokens that are at least as likely.
    """
    if flat is None or len(flat.start_indices) <= number:
        return None
    scores = []
    for first, end in zip(flat.start_indices[-number:], flat.end_indices[-number:], strict=True):
        top = tuple(flat.logprobs[first + 1 : end]), tuple(flat.token_ids[first + 1 : end])
        scores.append(Score(flat.logprobs[first], flat.ranks[first], *top))
    return scores


class Drawing(FirstRunnerProcessor, SecondRunnerProcessor):
    """Hands the batch's logits to our sampler, which forces the tokens of sequences that have a `Draw` (paper §2.1).

    The first model runner keeps a batch and tells what changed in it (`update_state`); the second one numbers its
    requests (`add_request`) and says at each step which of them stand in which row.
    """

    def __init__(self, vllm_config: Any, device_or_states: Any, is_pin_memory: bool = False) -> None:
        is_first = isinstance(device_or_states, torch.device)
        self.sampler = BatchSampler(device_or_states if is_first else device_or_states.device)
        # The second runner's: how many tokens of each request must be computed before one is drawn. After a preemption
        # they are the prompt and all that was written.
        self._whole: Any = None if is_first else device_or_states.prefill_len
        self._slots: dict[int, Slot] = {}  # by row of the batch; of the second runner, by number of the request
        self._prompts: dict[int, int] = {}  # the second runner's: length of each request's prompt
        self._batch: list[int] | None = None  # the second runner's: the requests that the sampler knows, in order
        self._stale = True

    def is_argmax_invariant(self) -> bool:
        return False

    def apply(self, logits: Tensor, context: Any = None) -> Tensor:
        if context is not None:
            self._place(context)
        elif self._stale:
            self.sampler.index(self._slots)
            self._stale = False
        return self.sampler.apply(logits)

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for at in batch_update.removed:
            self._slots.pop(at, None)
        for at, params, _prompt, output_ids in batch_update.added:
            self._slots.pop(at, None)
            if _SEQUENCE in (params.extra_args or {}):
                self._slots[at] = Slot(params.extra_args[_SEQUENCE], output_ids)
        for source, target, direction in batch_update.moved:
            moved, replaced = self._slots.pop(source, None), self._slots.pop(target, None)
            if moved is not None:
                self._slots[target] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self._slots[source] = replaced
        self._stale = True

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        known = sampling_params.extra_args or {}
        self._slots.pop(req_idx, None)
        if _SEQUENCE in known:
            self._slots[req_idx], self._prompts[req_idx] = Slot(known[_SEQUENCE], _Written()), known[_PROMPT]
        self._batch = None
        return _SEQUENCE in known

    def _place(self, context: Any) -> None:
        """Tells the sampler what is in which row. A sequence whose prompt is not whole yet samples nothing."""
        lengths = zip(context.idx_mapping_np.tolist(), context.seq_lens_upper_bound_np.tolist(), strict=True)
        batch = []
        for request, length in lengths:
            is_drawn = request in self._slots and length >= self._whole.np[request]
            if is_drawn:
                written = length - self._prompts[request]
                self._slots[request].output_ids.number = written  # type: ignore[attr-defined]
            batch.append(request if is_drawn else -1)
        if batch != self._batch:
            self._batch = batch
            self.sampler.index({at: self._slots[request] for at, request in enumerate(batch) if request >= 0})


class _Written(Sequence[int]):
    """Stands for a row's tokens where only their number is known."""

    def __init__(self) -> None:
        self.number = 0

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, at: Any) -> Any:
        raise IndexError("only the number of these tokens is known")


class DrawingWorker:
    """Mixed into vLLM's worker class, so that `collective_rpc` reaches the processor wherever the worker lives."""

    model_runner: Any

    def take_sampled(self, ended: list[SequenceKey], running: list[SequenceKey] | None) -> Taken:
        runner = self.model_runner
        of_first = getattr(getattr(runner, "input_batch", None), "logitsprocs", None)
        processors = of_first.all if of_first is not None else runner.sampler.logits_processors
        for processor in processors:
            if isinstance(processor, Drawing):
                return processor.sampler.take(ended, running)
        raise AssertionError("the engine was started without Drawing")
