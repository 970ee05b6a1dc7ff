"""A step lets the host wait for the GPU once, when it reads the figures: nothing else keeps the GPU from being fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dail.synth.core.running import Stop
from dail.synth.schema.models import identify
from dail.train import attention, loop
from dail.train.config import TrainConfig
from dail.train.data import ModelLimits, load_examples, on_device
from dail.train.model import Roles, load_roles
from dail.train.recompute import recompute
from dail.train.record import Given
from dail.train.step import GradientStep
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest
from tests.train.test_model import CPU

aten = torch.ops.aten
CARD = torch.device("meta")  # in place of a GPU: computes nothing, but knows which tensors lie on it
READ = "aten._to_copy.default"  # what `tolist` does


class Waits(TorchDispatchMode):
    """Lists the operations for which a host would wait, were the card a GPU. What is read from the card is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pinned: list[Tensor] = []  # kept, so that no other tensor gets their addresses
        self._built = Built(self.found)

    def __enter__(self) -> Waits:
        self._built.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._built.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._waits(func, args, kwargs):
            self.found.append(str(func))
        if func is aten._local_scalar_dense.default and args[0].device == CARD:
            return 1
        if func is aten._to_copy.default and args[0].device == CARD and kwargs.get("device", CARD) != CARD:
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return func(*args, **kwargs)

    def _waits(self, func: Any, args: Any, kwargs: Any) -> bool:
        if func is aten._to_copy.default:
            return self._copies(args[0], kwargs.get("device", args[0].device), kwargs.get("non_blocking", False))
        if func is aten.copy_.default:
            return self._copies(args[1], args[0].device, args[2] if len(args) > 2 else False)
        if all(tensor.device != CARD for tensor in args if isinstance(tensor, Tensor)):
            return False
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            return any(index.dtype == torch.bool or index.device != CARD for index in args[1] if index is not None)
        if func is aten.repeat_interleave.Tensor:
            return kwargs.get("output_size") is None
        return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))

    def _copies(self, source: Tensor, to: torch.device, is_async: bool) -> bool:
        """From the card one must wait to read; to it unless the memory cannot be swapped out meanwhile."""
        if (source.device == CARD) == (to == CARD):
            return False
        is_pinned = any(source.data_ptr() == one.data_ptr() for one in self.pinned)
        return source.device == CARD or not (is_async and is_pinned)


class Built(TorchFunctionMode):
    """Lists tensors that are built on the card from numbers of the host, which no operation shows. Not in a backward
    pass, but what is computed again there was seen before."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and made.device == CARD:
            self._found.append(func.__name__)
        return made


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    counting = Waits()

    def pin(tensor: Tensor) -> Tensor:
        counting.pinned.append(tensor.clone())
        return counting.pinned[-1]

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    return counting


WAITING: dict[str, Callable[[Tensor], object]] = {
    "a number": float,
    "a condition": lambda x: bool(x.sum() > 0),
    "a list": lambda x: x.tolist(),
    "a copy": lambda x: x.cpu(),
    "a copy into another": lambda x: torch.ones(1).copy_(x),
    "a tensor of Python's numbers": lambda _: torch.tensor([1, 2], device=CARD),
    "a tensor sent": lambda _: torch.ones(2).to(CARD),
    "one sent without waiting, but not pinned": lambda _: torch.ones(2).to(CARD, non_blocking=True),
    "one sent into another": lambda x: x.copy_(torch.ones(1)),
    "what a mask chooses": lambda x: x[x > 0],
    "what a mask sets": lambda x: x.index_put_((x > 0,), torch.ones((), device=CARD)),
    "places from the host": lambda x: x[torch.tensor([0])],
    "places found": lambda x: x.nonzero(),
    "repetitions": lambda x: x.repeat_interleave(x.long()),
    "a comparison": lambda x: torch.equal(x, x),
}
GOING_ON: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x * 2.0 + x).sum(),
    "a slice": lambda x: x[:1],
    "places on the card": lambda x: x[torch.zeros(1, dtype=torch.long, device=CARD)],
    "numbers counted up": lambda _: torch.arange(3, device=CARD),
    "a tensor sent by us": lambda _: on_device(torch.ones(2), CARD),
    "repetitions of known number": lambda x: x.repeat_interleave(x.long(), output_size=2),
    "what is read on the host": lambda _: float(torch.ones(1)),
}


@pytest.mark.parametrize("name", [*WAITING, *GOING_ON])
def test_the_count_sees_every_kind_of_wait_and_nothing_else(name: str, waits: Waits):
    x = torch.ones(1, device=CARD)
    with waits:
        try:
            (WAITING | GOING_ON)[name](x)
        except (NotImplementedError, RuntimeError):  # the card has no values on which a shape could depend
            assert name in WAITING
    assert len(waits.found) == (name in WAITING), waits.found


def on_card(folder: Path, config: TrainConfig, packs: bool) -> Roles:
    roles = load_roles(folder, config, CARD)
    attention.register()
    roles.peft.get_base_model().set_attn_implementation(attention.PACKED if packs else attention.PADDED)
    if config.recompute == "on":
        recompute(roles)
    return replace(roles, packs=packs)


@pytest.fixture
def waited_for(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """`waited_for(**settings)`: in six steps of a run on the card, with twenty microbatches."""
    manifest = make_manifest(10)
    data = load_examples(manifest, identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY))
    monkeypatch.setattr(loop.checkpoint, "save", lambda *_: None)
    monkeypatch.setattr(attention, "has_kernel", lambda states: states.dtype == torch.bfloat16)

    def run(packs: bool = True, **settings: object) -> list[str]:
        config = TrainConfig.model_validate({"epochs": 2, "dtype": "bfloat16", "microbatch_tokens": 1, **settings})
        record = loop._record(tiny_model, manifest, config, Given())
        on_host = GradientStep(load_roles(tiny_model, config, CPU), config, data.mean_trace_tokens)
        cache = loop.reference_cache(tmp_path / "references", on_host, data, record)
        scorer = replace(on_host, roles=on_card(tiny_model, config, packs), cache=cache)
        optimizer = AdamW(scorer.roles.adapter().values())
        with waits:
            assert loop.optimise(scorer, optimizer, data, tmp_path, record, 0, None, Stop()) == 6
        return waits.found

    return run


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reference_states": "live"},
        {"references": {"privileged": 1.0, "student": 0.5, "negative": -0.1}, "reference_temperature": 0.6},
        {"divergence": "jsd", "token_weights": "disagreement"},
        {"divergence": "forward", "gamma": 0.0, "token_weights": "entropy", "reference_states": "live"},
        {"token_weights": "position", "objective": "nll", "student_temperature": 0.6},
        {"objective": "nll"},
        {"lora_targets": ("q_proj", "lm_head")},
        {"reduction": "token_mean", "lora_dropout": 0.1, "lora": "peft"},
        {"recompute": "on"},
        {"dtype": "float32"},  # for which torch has no kernel: one sequence after the other
    ],
)
def test_the_host_waits_once_a_step_and_for_no_microbatch_or_layer(
    waited_for: Callable[..., list[str]], settings: dict[str, object]
):
    """In the first step once more, to see which layers a gradient reaches."""
    assert waited_for(**settings) == [READ] * 7


def test_padded_sequences_cost_another_wait_a_pass_in_which_transformers_looks_for_packs(
    waited_for: Callable[..., list[str]],
):
    found = waited_for(packs=False)
    assert found.count(READ) == 7 and found.count("aten._local_scalar_dense.default") == 20 == len(found) - 7
