"""How far the trainer's logits are from the rollout's, by the type that either computes in, and with planted faults.

    OMP_NUM_THREADS=1 python -m tests.bench.consistency [--model FOLDER] [--items 24]

Draws traces with a real engine, once in each type, then computes their log-probabilities again with the trainer's
model, as it is and with a fault: what `dail train` compares with `dail.train.consistency.TOLERANCE`. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from dail.synth import Synthesis, synthesise
from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.schema.models import identify
from dail.train.config import TrainConfig
from dail.train.consistency import check_rollout
from dail.train.data import load_examples
from dail.train.model import Roles, load_roles, read_limits
from dail.train.packing import choose_packing
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TYPES = ("float32", "bfloat16")


def as_it_is(roles: Roles) -> None:
    pass


def wrong_weight(roles: Roles) -> None:
    weight = next(w for name, w in roles.peft.named_parameters() if "1.mlp.up_proj" in name and "lora" not in name)
    weight.data.normal_(0, float(weight.std()))


def fifth_larger(roles: Roles) -> None:
    next(w for name, w in roles.peft.named_parameters() if "1.mlp.up_proj" in name and "lora" not in name).data.mul_(
        1.2
    )


def wrong_rope(roles: Roles) -> None:
    """As if the base were about 12,000 where the engine had 10,000."""
    rotary = roles.peft.get_base_model().get_decoder().rotary_emb
    rotary.inv_freq = rotary.inv_freq.pow(1.02)


FAULTS: tuple[Callable[[Roles], None], ...] = (as_it_is, wrong_weight, fifth_larger, wrong_rope)


def errors(manifest: Path, model: Path, dtype: str, fault: Callable[[Roles], None]) -> dict[str, float]:
    config = TrainConfig.model_validate({"dtype": dtype, "rollout_tolerance": 1e9})
    data = load_examples(manifest, identify(model), read_limits(model))
    roles = choose_packing(load_roles(model, config, DEVICE), data.examples[:3])
    fault(roles)
    return {one.role: one.error for one in check_rollout(roles, data, manifest, config)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--items", type=int, default=24)
    options = parser.parse_args()
    with open(EXPERT_SOLUTIONS, encoding="utf-8") as file:
        items = [json.loads(line) for line in islice(file, options.items)]
    with tempfile.TemporaryDirectory() as scratch:
        for engine in TYPES:
            drawn: Any = SynthConfig(engine=EngineConfig(model=options.model, dtype=engine, kv_cache_gib=1))
            result = synthesise(items, Path(scratch) / engine, drawn, Synthesis(max_tokens=256))
            for trainer in TYPES:
                for fault in FAULTS:
                    found = errors(result.manifest, options.model, trainer, fault)
                    print(
                        json.dumps({"engine": engine, "trainer": trainer, "fault": fault.__name__, **found}), flush=True
                    )


if __name__ == "__main__":
    main()
