"""Forecasts for the paper's two models on some cards: memory by the program's own functions, hours by arithmetic.

    OMP_NUM_THREADS=2 python -m tests.bench.real_models [--model qwen3-8b]

Memory of an engine is what `dail.synth.engine.sizing.fit` gives; that of training what `dail.train.memory.count`
counts on one and on two layers of the true size, carried on to all of them. Hours are no measurement: a decoding step
reads all weights and the KV cache of its rows at half of the card's bandwidth, and takes 20 ms at the least; a training
step reaches 40 % of its bfloat16 arithmetic; both as vendors give them. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.engine.sizing import GIB, Device, Shape, Sizes, fit, shape_of
from dail.train.config import TrainConfig
from dail.train.data import Example
from dail.train.memory import _FOLDED_BUFFERS, Needs, count
from dail.train.model import load_roles
from dail.train.packing import choose_packing
from dail.train.step import GradientStep
from tests.bench.shapes import SHAPES, num_weights, write_config
from tests.bench.train import make_weights

_BANDWIDTH, _ARITHMETIC, _LEAST_STEP_S = 0.5, 0.4, 0.02
_TOKENS, _SMALL_VOCABULARY = 256, 1024
_PROMPT = 300  # tokens of a problem and what is around it


@dataclass(frozen=True)
class Card:
    name: str
    gib: float
    bytes_per_s: float
    flops: float  # bfloat16, dense

    @property
    def device(self) -> Device:
        return Device("cuda", self.name, int(self.gib * GIB), int(self.gib * GIB))


@dataclass(frozen=True)
class Run:
    """The paper's. `rows`: that a trace takes of the engine. Lengths are assumed: the paper gives their ratio alone."""

    model: str
    what: str
    traces: int
    mean_tokens: int
    longest: int
    rows: int
    epochs: int


CARDS = (
    Card("RTX 4090, 24 GB", 23.5, 1.01e12, 165e12),
    Card("L40S, 48 GB", 44.5, 0.864e12, 362e12),
    Card("A100, 80 GB", 79.1, 2.04e12, 312e12),
    Card("H100 SXM, 80 GB", 79.1, 3.35e12, 989e12),
    Card("H200, 141 GB", 139.8, 4.8e12, 989e12),
)
RUNS = (
    Run("qwen2.5-7b", "Qwen2.5-7B-Instruct on e1-verifiable, direct", 417, 2000, 8192, 1, 5),
    Run("qwen3-8b", "Qwen3-8B on e1-proof, mixed rollouts of 256 tokens", 669, 256, 256, 2, 5),
)


def shape_in(folder: Path, model: str) -> Shape:
    write_config(folder, model)
    return replace(shape_of(folder), weights_bytes=2 * num_weights(folder))


def training_needs(model: str, again: bool) -> Needs:
    """Beyond weights: of one and of two layers as the program counts them, and from these of all."""
    few, more = (_needs_of(model, layers, again) for layers in (1, 2))
    layers, vocabulary = SHAPES[model]["num_hidden_layers"], SHAPES[model]["vocab_size"]
    config = TrainConfig()
    loss = 4 * _FOLDED_BUFFERS * config.token_chunk * (vocabulary - _SMALL_VOCABULARY)
    return Needs(
        few.fixed + (layers - 1) * (more.fixed - few.fixed) + loss,
        few.per_token + (layers - 1) * (more.per_token - few.per_token),
    )


def _needs_of(model: str, layers: int, again: bool) -> Needs:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_config(folder, model, num_hidden_layers=layers, vocab_size=_SMALL_VOCABULARY)
        make_weights(folder, torch.bfloat16)
        config = TrainConfig.model_validate({"dtype": "bfloat16", "lora_rank": 32})
        example = Example("u", (1, 2), (1,), (1,), tuple(n % 1000 for n in range(_TOKENS)))
        roles = choose_packing(load_roles(folder, config, torch.device("cpu")), [example])
        return count(GradientStep(roles, config, 1.0), [example], again)


def synthesis_row(card: Card, run: Run, shape: Shape, sizes: Sizes | str) -> list[str]:
    if isinstance(sizes, str):
        return [card.name, sizes, "", "", ""]
    at_once = max(1, min(sizes.rows // run.rows, run.traces))
    read = sizes.weights_bytes + at_once * run.rows * (_PROMPT + run.mean_tokens / 2) * shape.kv_token_bytes
    step_s = max(_LEAST_STEP_S, read / (_BANDWIDTH * card.bytes_per_s))
    steps = max(run.traces * run.mean_tokens / at_once, run.longest)
    return [
        card.name,
        f"{sizes.kv_tokens:,}",
        f"{at_once}",
        f"{at_once / step_s:,.0f}",
        _time(steps * step_s),
    ]


def training_row(card: Card, run: Run, shape: Shape, needs: Sequence[Needs]) -> list[str]:
    tokens, longest = run.traces * (run.mean_tokens + _PROMPT), run.longest + _PROMPT
    weights = shape.weights_bytes / 2
    free = card.gib * GIB * 0.95 - shape.weights_bytes
    cells = [card.name]
    for again, need in zip((False, True), needs, strict=True):
        if need.tokens_within(free) >= longest:
            flops = (4 + 2 * again) * weights * tokens * run.epochs + 2 * 2 * weights * tokens
            total = (shape.weights_bytes + need.of(longest)) / GIB
            return [*cells, f"{total:.0f} GiB", "yes" if again else "no", _time(flops / (_ARITHMETIC * card.flops))]
    most = needs[1].tokens_within(free) - _PROMPT
    return [*cells, f"{(shape.weights_bytes + needs[1].of(longest)) / GIB:.0f} GiB",
            f"traces up to {most:,} tokens fit" if most > 0 else "does not fit", ""]  # fmt: skip


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[run.model for run in RUNS], help="this one alone")
    options = parser.parse_args()
    for run in (run for run in RUNS if options.model in (None, run.model)):
        with tempfile.TemporaryDirectory() as scratch:
            shape = shape_in(Path(scratch), run.model)
        config, drawn, trained = EngineConfig(model=Path("model"), model_tokens=run.longest + 4096), [], []
        needs = [training_needs(run.model, again) for again in (False, True)]
        for card in CARDS:
            sizes: Sizes | str
            try:
                sizes = fit(config, shape, card.device)
            except UsageError:
                sizes = "does not fit"
            drawn.append(synthesis_row(card, run, shape, sizes))
            trained.append(training_row(card, run, shape, needs))
        weights = f"{shape.weights_bytes / GIB:.1f} GiB of weights"
        print(f"\n{run.what}: {weights}, {run.traces} traces of {run.mean_tokens:,} tokens (longest {run.longest:,})\n")
        print(_table(["card", "tokens in the KV cache", "traces at once", "tokens/s", "all traces"], drawn))
        kept = ", ".join(f"{need.per_token / 2**20:.2f} MiB a token" for need in needs)
        print(
            f"\ntraining, {run.epochs} epochs; beyond weights {needs[0].fixed / GIB:.1f} GiB and {kept} (recomputed)\n"
        )
        print(_table(["card", "memory, longest trace", "recompute", "all epochs"], trained))


if __name__ == "__main__":
    main()
