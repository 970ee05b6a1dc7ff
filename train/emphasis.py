"""Token weights: what makes some tokens of a trace count more than others, 1 on the mean of every trace.

    entropy        H(q_t)                      of the first positive reference: where it leaves open how to go on
    disagreement   1/2 sum_v |q_tv - b_tv|     between it and the base model on the student's own prompt, which is what
                                               the context changes: total variation, at most 1 at any token
    position       2 (n - t) / (n + 1)         for t = 0 … n - 1 of n tokens: falls evenly to the trace's end, since the
                                               later a token, the farther its prefix is from what the references would
                                               have written (arXiv 2606.22600 measures how much less it teaches)

The first two are divided by their mean over the trace; where that is 0 every token counts 1. They are made of frozen
roles at `reference_temperature`, and of a whole trace: what lies beside it, ranks and resuming change nothing. They
cost a row of logits for each role named, once for each trace with cached references, else in every step.

Axes: R trace tokens, C those of one chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dail.train.comparison import Comparison
from dail.train.loss import Head


def measure(hidden: Sequence[Tensor], head: Head, comparison: Comparison, chunk: int) -> Tensor:
    """Of each token [R]: the entropy of one reference, or how far two are apart.

    Args:
        hidden: final hidden states [R, D] of one reference or of two.
    """
    parts = []
    with torch.no_grad():
        for rows in zip(*(one.split(chunk) for one in hidden), strict=True):
            probs = [(head.logits(row) / comparison.reference_temperature).softmax(-1) for row in rows]
            if len(probs) == 1:
                parts.append(torch.special.entr(probs[0]).sum(-1))
            else:
                parts.append((probs[0] - probs[1]).abs().sum(-1) / 2)
    return torch.cat(parts)


def normalised(measured_R: Tensor, lengths: Sequence[int]) -> Tensor:
    """Divided by the mean over each trace [R]."""
    parts = []
    for part in measured_R.split(list(lengths)):
        mean = part.mean()
        parts.append(torch.where(mean > 0, part / mean, torch.ones_like(part)))
    return torch.cat(parts)


def of_positions(lengths: Sequence[int]) -> Tensor:
    """[R], float64."""
    parts = [2 * (n - torch.arange(n, dtype=torch.float64)) / (n + 1) for n in lengths]
    return torch.cat(parts)
