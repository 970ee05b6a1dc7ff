"""What a run minimises, per trace token: a built-in objective's name, or a function of the user's own.

    dail train … --set objective=my_objective.py:forward_kl     FILE.py:NAME, MODULE:NAME, or an entry point's NAME

    # my_objective.py
    def forward_kl(student_CV, privileged_CV, negative_CV, trace_C, gamma):
        log_q_CV = privileged_CV.log_softmax(-1)
        return (log_q_CV.exp() * (log_q_CV - student_CV.log_softmax(-1))).sum(-1)

An installed package declares one in its pyproject.toml:

    [project.entry-points."dail.objectives"]
    forward_kl = "my_package.losses:forward_kl"

It is tried out on made-up logits before anything is loaded, and pinned by the digest of its source when a run begins
(`dail.synth.core.extensions`): under a changed source the run does not go on. `gap` and `floor` are figures of the
built-in ones only, since nobody knows the least that another can be.

Axes: C trace tokens of one chunk, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, get_args

from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import FAULTS, Extension

if TYPE_CHECKING:
    from torch import Tensor  # settings name objectives, and are read without torch

BuiltinObjective = Literal["contrastive", "privileged_kl", "negative_kl", "nll"]
OBJECTIVES = Extension("objective", "dail.objectives", get_args(BuiltinObjective))
_C, _V = 3, 7  # of the logits it is tried out on
_WANTED = (
    "an objective takes (student_CV, privileged_CV, negative_CV, trace_C, gamma) and gives a loss for each row [C]"
)


class Objective(Protocol):
    """The loss of each token of a chunk [C], which `reduction` adds up.

    A token's loss depends on its own row alone, as chunks are cut by `token_chunk`, which memory decides. It comes from
    operations of torch, so that autograd finds its gradient by the student's logits; the references carry none.
    """

    def __call__(
        self,
        student_CV: Tensor,
        privileged_CV: Tensor,
        negative_CV: Tensor,
        trace_C: Tensor,
        gamma: float,
        /,
    ) -> Tensor:
        """
        Args:
            student_CV: logits, at least float32, of the model with the adapter, shown the problem.
            privileged_CV: of the same without it, shown the expert solution as well.
            negative_CV: likewise, shown the waypoints.
            trace_C: ids of the tokens that the trace has at these positions.
            gamma: the setting.

        Returns:
            [C], floating point, lower is better; figures call its unit nats, as the built-in ones have it.
        """
        ...


def is_own(objective: str) -> bool:
    """Whether it is the user's, and not built in."""
    return objective not in OBJECTIVES.builtin


def checked(objective: str) -> str:
    """The reference, pinned, of an objective that works.

    Raises:
        UsageError: there is none, its source changed since it was pinned, or what it gives is no loss.
    """
    pinned = OBJECTIVES.pin(objective)
    if is_own(pinned):
        _try_out(pinned, OBJECTIVES.load(pinned))
    return pinned


def _try_out(name: str, objective: Objective) -> None:
    import torch

    draw = torch.Generator().manual_seed(0)
    student_CV, privileged_CV, negative_CV = torch.randn(3, _C, _V, generator=draw)
    student_CV.requires_grad_()
    trace_C = torch.arange(_C)

    def of(rows: slice) -> Tensor:
        try:
            loss_C = objective(student_CV[rows], privileged_CV[rows], negative_CV[rows], trace_C[rows], 0.1)
        except FAULTS as error:
            raise _refusal(name, f"it raises {type(error).__name__}: {error}") from error
        wanted = trace_C[rows].shape
        if not isinstance(loss_C, torch.Tensor) or loss_C.shape != wanted or not loss_C.is_floating_point():
            raise _refusal(name, f"it gives {_described(loss_C)}; wanted floating-point numbers [{len(trace_C[rows])}]")
        return loss_C

    loss_C, alone_C = of(slice(None)), torch.cat([of(slice(row, row + 1)) for row in range(_C)])
    gradient = torch.autograd.grad(loss_C.sum(), student_CV, allow_unused=True) if loss_C.requires_grad else (None,)
    if gradient == (None,):
        raise _refusal(name, "its loss has no gradient to the student's logits; wanted one, by operations of torch")
    if not torch.allclose(loss_C, alone_C, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise _refusal(
            name,
            f"it gives {loss_C.tolist()} for all tokens at once and {alone_C.tolist()} for one at a time; wanted the "
            "same, since how many come at once depends on token_chunk",
        )


def _described(value: object) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"


def _refusal(name: str, what: str) -> UsageError:
    return UsageError(f"objective {name}, tried out on logits [{_C}, {_V}]: {what}; {_WANTED}")
