"""One optimizer step of a training run (paper §2.2, App. B.3): a batch in, clipped gradients and figures out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from dail.train.comparison import NEGATIVE, PRIVILEGED, comparison_of, emphasis_names, reference_names
from dail.train.config import TrainConfig
from dail.train.data import (
    Example,
    joined_traces,
    microbatches,
    on_device,
    out_of_memory,
    reference_input,
    student_input,
    student_tokens,
)
from dail.train.distributed import Ranks
from dail.train.divergences import Figures
from dail.train.emphasis import measure, normalised, of_positions
from dail.train.loss import (
    adapted_divergence_loss,
    adapted_nll_loss,
    adapted_own_loss,
    divergence_loss,
    folded_kl_loss,
    nll_loss,
    own_loss,
)
from dail.train.model import Roles
from dail.train.objective import OBJECTIVES, is_own
from dail.train.optimizers import quiet
from dail.train.references import ReferenceCache
from dail.train.sharding import whole


@dataclass(frozen=True)
class GradientStep:
    """What every step needs and none changes. Without a cache the references are computed in each step."""

    roles: Roles
    config: TrainConfig
    mean_trace_tokens: float  # of the data set
    cache: ReferenceCache | None = None
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def caches(self) -> bool:
        """Whether there are references whose hidden states are kept: under a plain head, unless they shall be live."""
        has_some = bool(reference_names(self.config))
        return has_some and self.config.reference_states == "cached" and self.roles.folds

    def gradients(self, batch: Sequence[Example], step: int = 0, with_kls: bool = True) -> dict[str, float]:
        """Adds the batch's gradient to the adapter and clips it; the means of the figures over all its trace tokens.

        Args:
            with_kls: whether the figures must have the KLs to the references (`has_kls`).

        Raises:
            DailError: out of memory.
        """
        self._seed_dropout(step)
        sums: dict[str, Tensor] = {}
        counts = Counter[str]()
        parts = microbatches(self.ranks.share(batch), self.config.microbatch_tokens, student_tokens, self.roles.packs)
        for examples, is_ours in self.ranks.in_step(parts, [batch[0]]):
            figures = self.backward(examples, batch, is_ours, with_kls)
            if is_ours:
                sums |= {name: value.sum(dtype=torch.float64) + sums.get(name, 0) for name, value in figures.items()}
                counts.update({name: len(value) for name, value in figures.items()})
        weights = list(self.roles.adapter().values())
        self.ranks.add_gradients(weights)
        norm = whole(get_total_norm([weight.grad for weight in weights if weight.grad is not None]))
        clip_grads_with_norm_(weights, self.config.max_grad_norm, norm)
        # here alone the host waits for the GPU, once for all numbers
        *read, norm_read = torch.stack([*sums.values(), norm.double()]).tolist()
        totals, numbers = Counter[str](), Counter[str]()
        for some_sums, some_counts in self.ranks.gather((dict(zip(sums, read, strict=True)), counts)):
            totals.update(some_sums)
            numbers.update(some_counts)
        return {**{name: value / numbers[name] for name, value in totals.items()}, "grad_norm": norm_read}

    def backward(
        self, examples: Sequence[Example], batch: Sequence[Example], is_ours: bool = True, with_kls: bool = True
    ) -> Figures:
        """Adds the gradient of some of the batch's traces; nothing if they are not this rank's own."""
        try:
            loss_R, figures = self.score(examples, with_kls)
            weight_R = token_weights(examples, batch, self.config, self.mean_trace_tokens).to(loss_R.dtype)
            (loss_R * on_device(weight_R, loss_R.device) * is_ours).sum().backward()
        except torch.OutOfMemoryError:
            raise out_of_memory([example.student_tokens for example in examples], self.config) from None
        return figures

    def score(self, examples: Sequence[Example], with_kls: bool = True) -> tuple[Tensor, Figures]:
        """What counts of every trace token [R], and its figures; those are of the loss before any token weights."""
        student_RD = self.roles.student(student_input(examples, self.roles.device, self.roles.packs))
        hidden = {} if self.cache is not None else self._references(examples)
        if is_own(self.config.objective):
            loss_R, figures = self._own(examples, student_RD, hidden, with_kls)
        elif self.config.objective == "nll":
            loss_R, figures = self._nll(examples, student_RD)
        else:
            loss_R, figures = self._compared(examples, student_RD, hidden, with_kls)
        if self.config.token_weights == "none":
            return loss_R, figures
        loss_R = loss_R * self._emphasis(examples, hidden).to(loss_R.dtype)
        return loss_R, {**figures, "weighted_loss": loss_R.detach()}

    def _references(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Hidden states of all that are used, computed anew in one pass, by name."""
        names, roles = reference_names(self.config), self.roles
        if not names:
            return {}
        all_RD = roles.reference(reference_input(examples, names, roles.device, roles.packs))
        return dict(zip(names, all_RD.chunk(len(names)), strict=True))

    def _hidden(
        self, examples: Sequence[Example], names: Sequence[str], live: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Of these references, from the cache if there is one."""
        if self.cache is None:
            return {name: live[name] for name in names}
        return {name: self.cache.hidden(examples, name, self.roles.device) for name in names}

    def _compared(
        self, examples: Sequence[Example], student_RD: Tensor, live: Mapping[str, Tensor], with_kls: bool
    ) -> tuple[Tensor, Figures]:
        roles, chunk, comparison = self.roles, self.config.token_chunk, comparison_of(self.config)
        names = tuple(comparison.weights)
        if self.cache is not None and comparison.folds:
            references = self.cache.of(examples, names, roles, comparison.reference_temperature, chunk)
            floor_R = self.cache.floors(examples, roles, comparison, chunk)
            return folded_kl_loss(student_RD, references, roles.head.matrix_VD, comparison, chunk, floor_R, with_kls)
        hidden = self._hidden(examples, names, live)
        if roles.adapted_head:
            return adapted_divergence_loss(student_RD, hidden, roles.head, roles.adapted_head, comparison, chunk)
        return divergence_loss(student_RD, hidden, roles.head, comparison, chunk)

    def _nll(self, examples: Sequence[Example], student_RD: Tensor) -> tuple[Tensor, Figures]:
        roles, chunk, temperature = self.roles, self.config.token_chunk, self.config.student_temperature
        trace_R = joined_traces(examples, roles.device)
        if roles.adapted_head:
            return adapted_nll_loss(student_RD, trace_R, roles.head, roles.adapted_head, chunk, temperature)
        return nll_loss(student_RD, trace_R, roles.head, chunk, temperature)

    def _own(
        self, examples: Sequence[Example], student_RD: Tensor, live: Mapping[str, Tensor], with_kls: bool
    ) -> tuple[Tensor, Figures]:
        """By the user's objective. The cache's hidden states are what the references would give anew."""
        roles, config = self.roles, self.config
        objective = OBJECTIVES.load(config.objective)
        trace_R = joined_traces(examples, roles.device)
        hidden = self._hidden(examples, (PRIVILEGED, NEGATIVE), live)
        rows = student_RD, hidden[PRIVILEGED], hidden[NEGATIVE], trace_R, roles.head
        if roles.adapted_head:
            return adapted_own_loss(*rows, roles.adapted_head, objective, config.gamma, config.token_chunk, with_kls)
        return own_loss(*rows, objective, config.gamma, config.token_chunk, with_kls)

    def _emphasis(self, examples: Sequence[Example], live: Mapping[str, Tensor]) -> Tensor:
        """How much more or less than the others of its trace each token counts [R], 1 on the mean of a trace."""
        config, roles, names = self.config, self.roles, emphasis_names(self.config)
        lengths = [example.num_positions for example in examples]
        if config.token_weights == "position":
            return on_device(of_positions(lengths), roles.device)

        def compute(new: Sequence[Example]) -> Tensor:
            return measure(
                [*self._hidden(new, names, live).values()], roles.head, comparison_of(config), config.token_chunk
            )

        measured_R = compute(examples) if self.cache is None else self.cache.once("emphasis", examples, names, compute)
        return normalised(measured_R, lengths)

    def _seed_dropout(self, step: int) -> None:
        """So that a resumed run drops what an unbroken one would have dropped."""
        if self.config.lora_dropout:
            torch.manual_seed(hash((self.config.seed, step, self.ranks.rank)))


def token_weights(examples: Sequence[Example], batch: Sequence[Example], config: TrainConfig, mean: float) -> Tensor:
    """What the loss at each position counts [R], by `reduction`; positions are a trace's tokens unless settings differ.

    trace_sum is the paper's loss, a sum over a trace's tokens averaged over traces, divided by the mean trace length of
    the data set as well, a constant: batches keep their relative weight, the scale stays near nats per token, and
    clipping does not depend on how long traces are. A smaller last batch is divided by `batch_size` all the same.

    Args:
        batch: of all ranks, of which `examples` are some.
        mean: trace tokens of an example of the data set.
    """
    lengths = [example.num_positions for example in examples]
    if config.reduction == "token_mean":
        weights = [1 / sum(example.num_positions for example in batch)] * len(lengths)
    elif config.reduction == "trace_mean":
        weights = [1 / (config.batch_size * length) for length in lengths]
    else:
        weights = [1 / (config.batch_size * mean)] * len(lengths)
    return torch.tensor(weights, dtype=torch.float64).repeat_interleave(torch.tensor(lengths))


def has_kls(config: TrainConfig, step: int, total: int) -> bool:
    """Whether the figures of a step, counted from 0, must have the KLs. No state: a resumed run writes the same."""
    return step == 0 or (step + 1) % config.kl_every == 0 or step + 1 == total


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Linear up over the warm-up, then by `schedule`: down to 0, which the step after the last would have, or level."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    left = (total - step) / (total - config.warmup_steps)
    if config.schedule == "linear":
        return config.lr * left
    return config.lr * (0.5 - 0.5 * math.cos(math.pi * left) if config.schedule == "cosine" else 1.0)


def update(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    with quiet():
        optimizer.step()
    optimizer.zero_grad()
