"""One frozen copy of the weights in three roles (paper §2.2): adapter on is the student, adapter off the references.

Axes: B rows of sequences, T tokens of the longest, R trace tokens joined, D hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from dail.synth.core.errors import UsageError
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, Sequences, pad
from dail.train.distributed import Ranks
from dail.train.loading import load_base, read_config
from dail.train.lora import make_lean
from dail.train.loss import Head
from dail.train.quantising import loading_in_4_bits, settle
from dail.train.rope import LongRope, take_over
from dail.train.sharding import shard, shard_trained
from dail.train.targets import Targets, describe, find_targets
from dail.train.whole import Whole

_log = logging.getLogger(__name__)

_ALONE = Ranks()
# Names under which configurations have the longest sequence; a model with none of them reads sequences of any length.
_CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length", "max_sequence_length")
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
STUDENT, REFERENCE = "default", "reference"  # PEFT's names of the adapter that is trained, and of the references'
_LOUD = 8.0  # hidden states are made larger while the head is checked, or a cap would hardly show


@dataclass(frozen=True)
class Roles:
    """`head` turns hidden states into logits, for all three roles unless the student's has an adapter (`adapted_head`).

    `packs`: sequences may be joined. `alone`: they may not even lie beside each other, and go through one by one.
    `given`: PEFT's name of each adapter that the run was given, by its digest; one named `REFERENCE` is on whenever a
    reference is computed, which is the bare model otherwise.
    """

    peft: Any
    head: Head
    device: torch.device
    packs: bool = False
    adapted_head: nn.Module | None = None
    alone: bool = False
    rope: LongRope | None = None
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def folds(self) -> bool:
        """Whether the three roles can be folded before the head."""
        return self.head.is_plain and self.adapted_head is None

    @property
    def decoder(self) -> Any:
        """What turns ids into hidden states. For some, transformers gives the head, or a model with a head."""
        base = self.peft.get_base_model()
        decoder = base.get_decoder()
        if not isinstance(decoder, PreTrainedModel):
            return base.base_model
        return decoder.model if decoder.get_output_embeddings() is not None else decoder

    def student(self, batch: Sequences) -> Tensor:
        """Hidden states at the trace positions [R, D], with gradient to the adapter."""
        return self._hidden(batch)

    def reference(self, batch: Sequences) -> Tensor:
        """The same by the references' weights, without gradient; the contexts in `batch` make it one or several."""
        return self._read(batch, REFERENCE if REFERENCE in self.given.values() else None)

    def given_or_bare(self, batch: Sequences, digest: str | None) -> Tensor:
        """The same by the model with an adapter that the run was given, as it was given, or by the bare model.

        Before the first step alone: from then on the adapter that training starts from is another one.
        """
        return self._read(batch, None if digest is None else self.given[digest])

    def _read(self, batch: Sequences, name: str | None) -> Tensor:
        with torch.no_grad(), self.peft.disable_adapter() if name is None else _active(self.peft, name):
            return self._hidden(batch)

    def _hidden(self, batch: Sequences) -> Tensor:
        if self.alone and len(batch.spans) > 1:
            return torch.cat([self._hidden(one) for one in batch.each()])
        if self.rope:
            self.rope.read(batch)
        # No attention mask: sequences are causal, and a mask would cost the fast kernel. No cache: it would be filled
        # for nothing.
        pack: dict[str, Any] = {}
        if batch.is_packed:
            pack = {"pack_lengths": batch.lengths, "pack_ends": batch.ends, "position_ids": batch.positions_BT}
        return batch.trace_positions(self.decoder(input_ids=batch.ids_BT, use_cache=False, **pack).last_hidden_state)

    def adapter(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: weight for name, weight in self.peft.named_parameters() if weight.requires_grad}


@contextmanager
def _active(peft: Any, name: str) -> Iterator[None]:
    """Another adapter is on meanwhile, and nothing is dropped. PEFT's own switch would also let it be trained."""
    layers = [layer for layer in peft.modules() if isinstance(layer, BaseTunerLayer)]
    dropping = [module for module in peft.modules() if module.training]
    before = [layer._active_adapter for layer in layers]
    try:
        for layer in layers:
            layer._active_adapter = name
        for module in dropping:
            module.training = False
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active
        for module in dropping:
            module.training = True


def read_limits(folder: Path) -> ModelLimits:
    """From the folder's config.json alone, so that bad data is refused before any weights are read."""
    config = read_config(folder).get_text_config()
    vocabulary = getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise UsageError(f"{folder}/config.json is of no model that can be trained here: it has no vocab_size")
    limits = (getattr(config, name, None) for name in _CONTEXT_NAMES)
    return ModelLimits(next((limit for limit in limits if isinstance(limit, int)), sys.maxsize), vocabulary)


def device_and_dtype(config: TrainConfig) -> tuple[torch.device, TrainConfig]:
    """The GPU if there is one, and the settings with `auto` replaced by what it means there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.dtype != "auto":
        return device, config
    is_frozen = config.tune == "lora"  # what is trained itself needs more than bfloat16's 8 bits
    return device, config.model_copy(update={"dtype": "bfloat16" if device.type == "cuda" and is_frozen else "float32"})


def load_roles(folder: Path, config: TrainConfig, device: torch.device, ranks: Ranks = _ALONE) -> Roles:
    """The frozen weights with a fresh adapter, which changes nothing yet.

    Args:
        ranks: among which `shard_weights` divides them.

    Raises:
        UsageError: the weights cannot be read or the architecture does not fit.
    """
    if config.tune == "full":
        whole = Whole(load_base(folder, config.dtype)).eval()
        if config.shard_weights:
            shard_trained(Roles(whole, _head(whole), device).decoder, device, ranks)
        return Roles(whole.to(device), _head(whole), device, rope=take_over(whole))
    if config.quantise == "nf4":
        settle(base := load_base(folder, config.dtype, loading_in_4_bits(config.dtype, device)))
    else:
        base = load_base(folder, config.dtype)
    # Made before the move, so that every device starts from the same adapter; in eval mode, so that a model with
    # dropout of its own has none.
    torch.manual_seed(config.seed)
    targets = find_targets(base, config.lora_targets)
    try:
        peft = get_peft_model(base, _lora(config, targets)).eval()
    except ValueError as error:
        raise UsageError(f"the adapter does not fit {folder}: {error}; set other lora_targets") from None
    for line in describe(peft.get_base_model(), targets):
        _log.info(line)
    if config.shard_weights:
        shard(peft, device, ranks)
    for name, module in peft.named_modules():
        module.training = "lora_dropout" in name
    return Roles(peft.to(device), _head(peft), device, adapted_head=_adapted_head(peft), rope=take_over(peft))


def _lora(config: TrainConfig, targets: Targets) -> LoraConfig:
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(targets.names),
    )
    if config.lora == "lean":
        make_lean(lora)
    return lora


def _head(peft: Any) -> Head:
    """The head with what its architecture does to its logits, as far as configurations name it."""
    head, config = peft.get_base_model().get_output_embeddings(), peft.config.get_text_config()
    head = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = next(filter(None, (getattr(config, name, None) for name in _CAPS)), None)
    return Head(head.weight, getattr(head, "bias", None), scale, float(cap) if cap else None)


def _adapted_head(peft: Any) -> nn.Module | None:
    """The head, if the adapter reaches it."""
    head = peft.get_base_model().get_output_embeddings()
    return head if isinstance(head, BaseTunerLayer) else None


def check_roles(roles: Roles, example: Example) -> None:
    """Checks what the loss rests on, with a fresh adapter and the beginning of one example.

    Raises:
        UsageError: logits are not what the head is known to make of hidden states.
    """
    batch = pad([example.student_prompt_ids[:16]], [example.trace_ids[:16]], roles.device)
    with torch.no_grad():
        student_RD = roles.student(batch)
        head = roles.peft.get_base_model().get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, given: (given[0] * _LOUD, *given[1:]))
        logits_RV = batch.trace_positions(roles.peft(input_ids=batch.ids_BT, use_cache=False).logits)
        hook.remove()
        ours_RV = roles.head.logits(student_RD * _LOUD)
        reference_RD = roles.reference(batch)
    if not roles.student(batch).requires_grad:
        raise UsageError(
            f"{roles.peft.config.model_type} models hide gradients from autograd, so none would reach an adapter; "
            "train another model"
        )
    if not torch.isfinite(student_RD).all():
        raise UsageError(
            f"the model gives hidden states that are not finite on the first {len(student_RD)} tokens of trace "
            f"{example.unit_id}; wanted finite numbers; set dtype=float32 if it was made for more range"
        )
    if not torch.allclose(student_RD, reference_RD, rtol=1e-3, atol=1e-3 * float(reference_RD.abs().max())):
        raise UsageError(
            f"an adapter that changes nothing yet changes the hidden states of {roles.peft.config.model_type} models; "
            "wanted the same with it and without; set other lora_targets"
        )
    if not torch.allclose(ours_RV.float(), logits_RV.float(), rtol=0.02, atol=0.02 * float(logits_RV.abs().max())):
        raise UsageError(
            f"{roles.peft.config.model_type} models do something to their logits that is not known here; wanted a "
            "matrix on the hidden state, with or without a bias, a scale or a cap; train another model"
        )
    if roles.folds:
        return
    why = f"{roles.peft.config.model_type} models put a bias, a scale or a cap on their logits"
    _log.info(
        f"{'the adapter reaches the head' if roles.adapted_head else why}, so the three roles cannot be folded before "
        "the head: references are computed in every step, with three rows of logits a token"
    )
