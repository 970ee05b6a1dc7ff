"""The loss kernels beside the literal formula and beside two calls of what TRL and Liger offer. Prints one JSON line.

    OMP_NUM_THREADS=1 python -m tests.bench.loss [--tokens 512] [--width 896] [--vocabulary 32000] [--dtype float32]
    python -m tests.bench.loss --tokens 6144 --width 3584 --vocabulary 152064 --dtype bfloat16     (a GPU, 7B shapes)

Time of loss and gradient by the student's hidden states, each way in turn; peak extra memory for `--memory-tokens`,
each way in a process of its own; and the error of the gradient against float64 on the same bfloat16 inputs, for
references at four distances. TRL and Liger are measured where they can be imported (`pip install --no-deps trl
liger-kernel`), and left out with a reason where not.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from dail.train.comparison import Comparison
from dail.train.loss import Head, divergence_loss, floors, folded_kl_loss, reference_of
from tests.bench.shapes import machine

GAMMA, CHUNK = 0.1, 256
CONTRASTIVE = Comparison({"privileged": 1.0, "negative": -GAMMA})
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Way = Callable[[Tensor], Tensor]  # student's hidden states → summed loss


def inputs(tokens: int, width: int, vocabulary: int, gap: float = 1.0) -> tuple[Tensor, ...]:
    """Student, privileged student, negative reference and head, in float32: hidden states like a language model's, with
    a favoured token each, a few outlier dimensions that carry little, and references `gap` typical steps away."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    def chance() -> Tensor:
        return torch.rand(tokens, 1, generator=draw)

    head = normal(vocabulary, width) / width**0.5
    head[:, :8] *= 0.05
    right, other = (torch.randint(vocabulary, (tokens,), generator=draw) for _ in range(2))
    student = 2.5 * normal(tokens, width) + 25 * chance() * head[right]
    student[:, :8] += 60 * normal(1, 8).sign()
    step = 0.6 * normal(tokens, width) + 3 * chance() * head[right] + 4 * chance() * head[other]
    away = 0.8 * normal(tokens, width) + 4 * chance() * head[other]
    return student, student + gap * step, student + gap * away, head


def literal(student: Tensor, privileged: Tensor, negative: Tensor, head: Tensor) -> Tensor:
    """Three whole logits and autograd, float32 or wider from the logits on, as one would write it."""
    wide = torch.promote_types(student.dtype, torch.float32)
    log_p = log_softmax((student @ head.t()).to(wide), -1)
    with torch.no_grad():
        log_q, log_n = (log_softmax((hidden @ head.t()).to(wide), -1) for hidden in (privileged, negative))
    kl = [kl_div(log_r, log_p, reduction="none", log_target=True).sum(-1) for log_r in (log_q, log_n)]
    return (kl[0] - GAMMA * kl[1]).sum()


def ways(privileged: Tensor, negative: Tensor, head: Tensor) -> tuple[dict[str, Way], dict[str, str]]:
    """By name, and why others are missing."""
    hidden = {"privileged": privileged, "negative": negative}
    known = {name: reference_of(one, head, CHUNK) for name, one in hidden.items()}
    floor = floors(known, head, CONTRASTIVE, CHUNK)
    found: dict[str, Way] = {
        "naive": lambda student: literal(student, privileged, negative, head),
        "folded": lambda student: folded_kl_loss(student, known, head, CONTRASTIVE, CHUNK, floor, False)[0].sum(),
        "folded with both KLs": lambda student: folded_kl_loss(student, known, head, CONTRASTIVE, CHUNK, floor)[
            0
        ].sum(),
        "whole logits": lambda student: divergence_loss(student, hidden, Head(head), CONTRASTIVE, CHUNK)[0].sum(),
    }
    missing: dict[str, str] = {}
    try:
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        def trl(student: Tensor) -> Tensor:
            each = [
                ChunkedDivergenceFunction.apply(student, head, None, hidden, head, None, 1.0)[0].sum()
                for hidden in (privileged, negative)
            ]
            return each[0] - GAMMA * each[1]

        found["TRL twice"] = trl
    except Exception as error:
        missing["TRL twice"] = f"{type(error).__name__}: {error}"
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        jsd = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=1.0, compiled=False)
        labels = torch.zeros(len(privileged), dtype=torch.long, device=privileged.device)

        def liger(student: Tensor) -> Tensor:
            each = [jsd(student, head, hidden, head, labels) for hidden in (privileged, negative)]
            return len(labels) * (each[0] - GAMMA * each[1])

        found["Liger twice"] = liger
    except Exception as error:
        missing["Liger twice"] = f"{type(error).__name__}: {error}"
    return found, missing


def gradient(way: Way, student: Tensor) -> Tensor:
    leaf = student.detach().requires_grad_()
    return torch.autograd.grad(way(leaf), leaf)[0]


def seconds(way: Way, student: Tensor) -> float:
    started = time.perf_counter()
    gradient(way, student)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def given(options: argparse.Namespace, tokens: int) -> list[Tensor]:
    dtype = getattr(torch, options.dtype)
    return [tensor.to(DEVICE, dtype) for tensor in inputs(tokens, options.width, options.vocabulary)]


def extra_mib(name: str, options: argparse.Namespace) -> int:
    student, *others = given(options, options.memory_tokens)
    return extra_of(ways(*others)[0][name], student)


def extra_of(way: Way, student: Tensor) -> int:
    """What a way needs at the most beyond what was there before it, MiB. To be called in a process of its own, since a
    C library keeps what was freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is no room for what comes
    before = _mark()
    gradient(way, student)
    return round((_peak() - before) / 2**20)


def in_a_process_each(
    names: Iterable[str], options: argparse.Namespace, measure: Callable[[str, argparse.Namespace], int] = extra_mib
) -> dict[str, int]:
    found = {}
    for name in names:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found[name] = pool.submit(measure, name, options).result()
    return found


def _mark() -> int:
    """Forgets the peak so far; bytes held now."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, f"Linux says no {name}"
    return int(found.group(1)) * 1024


def errors(width: int) -> dict[str, dict[str, str]]:
    """By mean KL to the privileged student, the gradient's relative error of each way on bfloat16 inputs."""
    table: dict[str, dict[str, str]] = {}
    for gap in (1.0, 0.3, 0.1, 0.03):
        half = [tensor.bfloat16().to(DEVICE) for tensor in inputs(128, width, 32000, gap)]
        exact = [tensor.double() for tensor in half]
        wanted = gradient(lambda student, exact=exact: literal(student, *exact[1:]), exact[0])
        log_p, log_q = (log_softmax(hidden @ exact[3].t(), -1) for hidden in exact[:2])
        kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        found, _ = ways(*half[1:])
        table[f"{kl:.2g}"] = {
            name: f"{float((gradient(way, half[0]).double() - wanted).norm() / wanted.norm()):.1e}"
            for name, way in found.items()
        }
    return table


def options_of(about: str | None) -> argparse.Namespace:
    """Of a bench of losses on made-up hidden states."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--memory-tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    options = options_of(__doc__)
    student, *others = given(options, options.tokens)
    found, missing = ways(*others)
    extra = in_a_process_each(found, options)
    runs = [{name: seconds(way, student) for name, way in found.items()} for _ in range(options.repeats + 1)]
    figures: dict[str, dict[str, Any]] = {}
    for name in found:
        kept = runs[1:]  # the first warms up
        ratios = sorted(run[name] / run["folded"] for run in kept)
        figures[name] = {
            "seconds": round(statistics.median(run[name] for run in kept), 3),
            "extra MiB": extra[name],
            "time ÷ folded": [round(ratio, 2) for ratio in (statistics.median(ratios), ratios[0], ratios[-1])],
        }
    known = {name: value for name, value in vars(options).items() if name != "repeats"}
    result = {
        "bench": "loss",
        **known,
        "chunk": CHUNK,
        **figures,
        "missing": missing,
        "gradient error by mean KL, bfloat16": errors(options.width),
        "machine": machine(),
    }
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
