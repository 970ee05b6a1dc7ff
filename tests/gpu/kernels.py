"""What only a GPU runs in the trainer and the sampler: right, and how fast. One JSON line each; none stops the others.

    python -m tests.gpu.kernels            7B shapes by default; small ones run on a CPU, without what needs a GPU

Errors are relative, against float64 of the same inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dail.synth.engine.base import Draw, SequenceKey, TokenSequence
from dail.synth.engine.sampling import BatchSampler, Slot
from dail.synth.schema.synthesis import Acceptance
from dail.train import attention as packed
from dail.train.comparison import Comparison
from dail.train.config import TrainConfig
from dail.train.data import Example
from dail.train.divergences import dot
from dail.train.loss import (
    Head,
    _normalise,
    divergence_loss,
    floors,
    folded_kl_loss,
    project,
    reference_of,
)
from dail.train.model import check_roles, load_roles
from dail.train.packing import choose_packing
from tests.bench.loss import errors
from tests.bench.shapes import write_config
from tests.bench.train import make_weights

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IS_GPU = DEVICE.type == "cuda"
DTYPE = torch.bfloat16 if IS_GPU else torch.float32
STEPS = 32  # of the engine, after which all that was written is read


def put(**figures: Any) -> None:
    print(json.dumps(figures, ensure_ascii=False), flush=True)


def wait() -> None:
    if IS_GPU:
        torch.cuda.synchronize()


def ms(run: Callable[[], Any], repeats: int = 5) -> float:
    run()
    times = []
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        run()
        wait()
        times.append(1e3 * (time.perf_counter() - started))
    return round(statistics.median(times), 3)


def error(got: Tensor, wanted: Tensor) -> float:
    return float(f"{float((got.double() - wanted.double()).norm() / wanted.double().norm()):.2e}")


def head_of(options: argparse.Namespace) -> Tensor:
    return (torch.randn(options.vocabulary, options.width, device=DEVICE) / options.width**0.5).to(DTYPE)


def projection(options: argparse.Namespace) -> None:
    """`project`: bfloat16 in, float32 out, in one product."""
    hidden, head = torch.randn(512, options.width, device=DEVICE).to(DTYPE), head_of(options)
    some = slice(None, None, max(1, options.vocabulary // 500))
    wanted = hidden.double() @ head[some].double().t()
    got, plain = project(hidden, head), hidden @ head.t()
    took = ms(lambda: project(hidden, head))
    put(
        check="projection",
        error=error(got[:, some], wanted),
        of_bfloat16_out=error(plain[:, some], wanted),
        dtype=str(got.dtype),
        ms=took,
        tflops=round(2e-9 * 512 * options.width * options.vocabulary / took, 1),
        plain_ms=ms(lambda: hidden @ head.t()),
    )


def attention(options: argparse.Namespace) -> None:
    """The one call for sequences of all lengths, with fewer heads of keys, forward and backward."""
    lengths, heads, groups, size = [700, 1300, 17], 28, 4, 128
    total, grouped = sum(lengths), heads // groups
    ends = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).to(torch.int32)
    states = [
        torch.randn(1, number, total, size, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        for number in (heads, groups, groups)
    ]
    slope = torch.randn(1, total, heads, size, device=DEVICE, dtype=torch.bfloat16)

    def literal(*states: Tensor) -> Tensor:
        each = [
            scaled_dot_product_attention(
                q, k.repeat_interleave(grouped, 1), v.repeat_interleave(grouped, 1), is_causal=True
            )
            for q, k, v in zip(*(one.float().split(lengths, 2) for one in states), strict=True)
        ]
        return torch.cat(each, 2).transpose(1, 2)

    def in_one_call(*states: Tensor) -> Tensor:
        return packed._in_one_call(*states, max(lengths), ends, None)

    def one_by_one(*states: Tensor) -> Tensor:
        return packed.packed_attention(torch.nn.Identity(), *states, None, pack_lengths=lengths)[0]

    def once(way: Callable[..., Tensor]) -> list[Tensor]:
        got = way(*states)
        return [got.detach(), *torch.autograd.grad(got, states, slope.to(got.dtype))]

    wanted = once(literal)
    for way in (in_one_call, one_by_one):
        try:
            found = map(error, once(way), wanted)
            each = dict(zip(("out", "q", "k", "v"), found, strict=True))
            put(check="attention", way=way.__name__, errors=each, ms=ms(lambda way=way: once(way)))
        except Exception as problem:
            put(check="attention", way=way.__name__, failed=f"{type(problem).__name__}: {problem}"[:300])


def packing(options: argparse.Namespace) -> None:
    """Whether the trainer joins sequences here, or pads them, and why."""
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder), "qwen2.5-7b", num_hidden_layers=2, vocab_size=1024)
        make_weights(Path(folder), DTYPE)
        config = TrainConfig.model_validate({"dtype": str(DTYPE).removeprefix("torch.")})
        roles = load_roles(Path(folder), config, DEVICE)
    examples = [Example(f"u{n}", tuple(range(40 + n)), (1,), (1,), tuple(range(300 - 90 * n))) for n in range(3)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        check_roles(roles, examples[0])
        roles = choose_packing(roles, examples)
    put(check="packing", packs=roles.packs, said=said.getvalue()[-300:])


def reductions(options: argparse.Namespace) -> None:
    """Row sums of products over the vocabulary, which the loss takes as batched products of a row and a column."""
    for rows in (32, 256, 512):
        a, b = (torch.randn(rows, options.vocabulary, device=DEVICE) for _ in range(2))
        wanted = torch.linalg.vecdot(a.double(), b.double())
        ways = {
            "ours (bmm)": lambda a=a, b=b: dot(a, b),
            "vecdot": lambda a=a, b=b: torch.linalg.vecdot(a, b),
            "sum of products": lambda a=a, b=b: (a * b).sum(-1),
        }
        put(check="reductions", rows=rows, **{name: [ms(way), error(way(), wanted)] for name, way in ways.items()})
    logits = -torch.rand(512, options.vocabulary, device=DEVICE) * 20
    ours, whole = ms(lambda: _normalise(logits.clone())), ms(lambda: logits.clone().softmax(-1))
    put(check="normalise", rows=512, ms=ours, whole_softmax_ms=whole)


def chunks(options: argparse.Namespace) -> None:
    """The folded loss at several chunks: which is the fastest, and with which memory."""
    head = head_of(options)
    student, *others = [(3 * torch.randn(options.tokens, options.width, device=DEVICE)).to(DTYPE) for _ in range(3)]
    hidden = dict(zip(("privileged", "negative"), others, strict=True))
    known = {name: reference_of(one, head, 512) for name, one in hidden.items()}
    contrastive = Comparison({"privileged": 1.0, "negative": -0.1})
    floor = floors(known, head, contrastive, 512)
    for chunk in (256, 512, 1024, 2048, options.tokens):
        leaf = student.detach().requires_grad_()

        def once(leaf: Tensor = leaf, chunk: int = chunk) -> None:
            loss, _ = folded_kl_loss(leaf, known, head, contrastive, chunk, floor)
            torch.autograd.grad(loss.sum(), leaf)

        before = 0
        if IS_GPU:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        took = ms(once, 3)
        peak = (torch.cuda.max_memory_allocated() - before) >> 20 if IS_GPU else None
        tflops = round(6e-9 * options.tokens * options.width * options.vocabulary / took, 1)
        put(check="chunks", tokens=options.tokens, chunk=chunk, ms=took, extra_mib=peak, tflops=tflops)
    took = ms(lambda: divergence_loss(student.detach().requires_grad_(), hidden, Head(head), contrastive, 512), 3)
    put(check="chunks", way="three rows of logits a token", chunk=512, ms=took)


def gradients(options: argparse.Namespace) -> None:
    put(check="gradient error by mean KL, bfloat16", **errors(min(options.width, 896)))


def slots_of(kind: str, number: int) -> Iterator[Slot]:
    """A full batch of pairs, or of sequences that the privileged student samples alone."""
    rule = Acceptance("absolute", 0.8, 0, False)
    for at in range(number):
        role: Any = "student" if kind == "pairs" and at % 2 else "privileged"
        key = SequenceKey(f"u{at // 2}" if kind == "pairs" else f"u{at}", 0, role)
        draw = Draw(role, rule, is_paired=kind == "pairs")
        yield Slot(TokenSequence(key, (), 99, 0.6, at, frozenset({1}), draw=draw), [5] * 10)


def sampler(options: argparse.Namespace) -> None:
    """A step of the sampler where the batch changed and where it did not, and the reading of what it wrote, with the
    host's share of a step."""
    for kind in ("pairs", "alone"):
        slots = dict(enumerate(slots_of(kind, options.rows)))
        ours, logits = BatchSampler(DEVICE), 3 * torch.randn(options.rows, options.vocabulary, device=DEVICE)
        launches = []

        def same(
            ours: BatchSampler = ours, slots: Any = slots, logits: Tensor = logits, launches: Any = launches
        ) -> None:
            started = time.perf_counter()
            ours.apply(logits.clone())
            launches.append(1e3 * (time.perf_counter() - started))
            for slot in slots.values():
                slot.output_ids.append(5)

        def changed(ours: BatchSampler = ours, slots: Any = slots, same: Callable[[], None] = same) -> None:
            ours.index(slots)
            same()

        took, copy = {"changed": ms(changed, 10), "same": ms(same, 10)}, ms(logits.clone)
        running = [slot.sequence.key for slot in slots.values() if slot.sequence.key.part == "privileged"]
        ours.take([], running)
        for _ in itertools.repeat(None, STEPS):
            same()
        wait()
        started = time.perf_counter()
        ours.take([], running)
        put(
            check="sampler",
            kind=kind,
            rows=options.rows,
            changed_batch_ms=round(took["changed"] - copy, 3),
            same_batch_ms=round(took["same"] - copy, 3),
            host_ms_of_it=round(min(launches), 3),
            reading_ms_a_step=round(1e3 * (time.perf_counter() - started) / STEPS, 3),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=6144)
    parser.add_argument("--width", type=int, default=3584)
    parser.add_argument("--vocabulary", type=int, default=152064)
    parser.add_argument("--rows", type=int, default=512)
    options = parser.parse_args()
    checks = [projection, packing, reductions, chunks, gradients, sampler]
    for check in [*checks, attention] if IS_GPU else checks:
        try:
            check(options)
        except Exception as problem:  # the others may work
            at = traceback.format_exc(limit=-3)[-900:]
            put(check=check.__name__, failed=f"{type(problem).__name__}: {problem}"[:600], at=at)
        if IS_GPU:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
