"""Every divergence beside the reverse KL, and JSD beside TRL's and Liger's. Prints one JSON line.

    OMP_NUM_THREADS=1 python -m tests.bench.divergences [--tokens 512] [--width 896] [--vocabulary 32000]
    python -m tests.bench.divergences --tokens 6144 --width 3584 --vocabulary 152064 --dtype bfloat16      (a GPU)

Time of loss and gradient by the student's hidden states under a plain head, each way in turn; peak extra memory for
`--memory-tokens`, each way in a process of its own; and the gradient's error against float64 on the same inputs. With
one reference and with two, whose hidden states are known, as they are to a run with a cache. TRL's kernel and Liger's
take one reference; Liger's takes the head's gradient too, which a frozen head does not need, and is tried as it comes,
compiled, and not compiled. They are measured where they can be imported (`pip install --no-deps trl liger-kernel`).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from dail.train.comparison import Comparison
from dail.train.loss import Head, divergence_loss, floors, folded_kl_loss, reference_of
from tests.bench.loss import (
    CHUNK,
    DEVICE,
    Way,
    extra_of,
    given,
    gradient,
    in_a_process_each,
    inputs,
    options_of,
    seconds,
)
from tests.bench.shapes import machine

BETA, SECOND = 0.5, 0.3  # the second reference's weight
ONE, TWO = {"privileged": 1.0}, {"privileged": 1.0, "negative": SECOND}
BASELINE = "reverse KL, folded, 1 reference"


def literal(student: Tensor, references: Mapping[str, Tensor], head: Tensor, by: Comparison) -> Tensor:
    """Whole logits and autograd, as one would write it."""
    wide = torch.promote_types(student.dtype, torch.float32)
    log_p = log_softmax((student @ head.t()).to(wide), -1)
    total = torch.zeros((), dtype=wide, device=student.device)
    for name, weight in by.weights.items():
        log_q = log_softmax((references[name] @ head.t()).to(wide), -1)

        def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
            return kl_div(log_b, log_a, reduction="sum", log_target=True)

        if by.divergence == "jsd":
            log_m = (by.beta * log_q.exp() + (1 - by.beta) * log_p.exp()).clamp(min=1e-37).log()
            total = total + weight * (by.beta * kl(log_q, log_m) + (1 - by.beta) * kl(log_p, log_m))
        else:
            total = total + weight * (kl(log_p, log_q) if by.divergence == "reverse" else kl(log_q, log_p))
    return total


def folded(hidden: Mapping[str, Tensor], head: Tensor, by: Comparison) -> Way:
    known = {name: reference_of(hidden[name], head, CHUNK) for name in by.weights}
    floor = floors(known, head, by, CHUNK)
    return lambda student: folded_kl_loss(student, known, head, by, CHUNK, floor, False)[0].sum()


def rows(hidden: Mapping[str, Tensor], head: Tensor, by: Comparison) -> Way:
    those = {name: hidden[name] for name in by.weights}
    return lambda student: divergence_loss(student, those, Head(head), by, CHUNK)[0].sum()


def naive(hidden: Mapping[str, Tensor], head: Tensor, by: Comparison) -> Way:
    return lambda student: literal(student, hidden, head, by)


def trl(hidden: Mapping[str, Tensor], head: Tensor, by: Comparison) -> Way:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    teacher = hidden["privileged"]
    return lambda student: ChunkedDivergenceFunction.apply(student, head, None, teacher, head, None, by.beta)[0].sum()


def liger(hidden: Mapping[str, Tensor], head: Tensor, by: Comparison, compiled: bool = False) -> Way:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    jsd = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=by.beta, compiled=compiled)
    teacher = hidden["privileged"]
    none = torch.zeros(len(teacher), dtype=torch.long, device=teacher.device)
    return lambda student: len(teacher) * jsd(student, head, teacher, head, none)


Maker = Callable[[Mapping[str, Tensor], Tensor, Comparison], Way]
WAYS: dict[str, tuple[Maker, Comparison]] = {
    BASELINE: (folded, Comparison(ONE)),
    "reverse KL, folded, 2 references": (folded, Comparison(TWO)),
    "reverse KL, rows of logits, 1 reference": (rows, Comparison(ONE)),
    "reverse KL, rows of logits, 2 references": (rows, Comparison(TWO)),
    "forward KL, 1 reference": (rows, Comparison(ONE, "forward")),
    "forward KL, 2 references": (rows, Comparison(TWO, "forward")),
    "JSD, 1 reference": (rows, Comparison(ONE, "jsd", BETA)),
    "JSD, 2 references": (rows, Comparison(TWO, "jsd", BETA)),
    "JSD, 1 reference, whole logits and autograd": (naive, Comparison(ONE, "jsd", BETA)),
    "JSD, 1 reference, TRL": (trl, Comparison(ONE, "jsd", BETA)),
    "JSD, 1 reference, Liger": (liger, Comparison(ONE, "jsd", BETA)),
    "JSD, 1 reference, Liger compiled": (partial(liger, compiled=True), Comparison(ONE, "jsd", BETA)),
}


def made(name: str, privileged: Tensor, negative: Tensor, head: Tensor) -> Way:
    make, by = WAYS[name]
    return make({"privileged": privileged, "negative": negative}, head, by)


def errors(names: Iterable[str], width: int, dtype: torch.dtype) -> dict[str, dict[str, str]]:
    """By how far the references are, the gradient's relative error of each way."""
    table: dict[str, dict[str, str]] = {}
    for gap in (1.0, 0.1):
        half = [tensor.to(DEVICE, dtype) for tensor in inputs(128, width, 32000, gap)]
        student, *others, head = (tensor.double() for tensor in half)
        hidden = dict(zip(("privileged", "negative"), others, strict=True))
        table[f"{gap}"] = {}
        for name in names:
            wanted = gradient(naive(hidden, head, WAYS[name][1]), student)
            error = (gradient(made(name, *half[1:]), half[0]).double() - wanted).norm() / wanted.norm()
            table[f"{gap}"][name] = f"{float(error):.1e}"
    return table


def extra_mib(name: str, options: argparse.Namespace) -> int:
    student, *others = given(options, options.memory_tokens)
    return extra_of(made(name, *others), student)


def main() -> None:
    options = options_of(__doc__)
    student, *others = given(options, options.tokens)
    found: dict[str, Way] = {}
    missing: dict[str, str] = {}
    for name in WAYS:
        try:
            gradient(made(name, *others), student)
            found[name] = made(name, *others)
        except Exception as error:  # of what is not installed, or cannot be compiled here
            missing[name] = f"{type(error).__name__}: {str(error)[:200]}"
    memory = in_a_process_each(found, options, extra_mib)
    runs = [{name: seconds(way, student) for name, way in found.items()} for _ in range(options.repeats + 1)][1:]
    figures: dict[str, Any] = {}
    for name in found:
        ratios = sorted(run[name] / run[BASELINE] for run in runs)
        figures[name] = {
            "seconds": round(statistics.median(run[name] for run in runs), 3),
            "extra MiB": memory[name],
            f"time ÷ {BASELINE}": [round(ratio, 2) for ratio in (statistics.median(ratios), ratios[0], ratios[-1])],
        }
    result = {
        "bench": "divergences",
        **vars(options),
        "chunk": CHUNK,
        **figures,
        "missing": missing,
        f"gradient error by distance of the references, {options.dtype}": errors(
            found, options.width, getattr(torch, options.dtype)
        ),
        "machine": machine(),
    }
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
