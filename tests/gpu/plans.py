"""What is measured on a GPU, by worth: steps, and the plans that choose among them.

Every step is a program of its own. The times are guesses for an H200; an H100 needs a fifth more.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

FIRST, SECOND = "vllm-0.26.0", "vllm-0.32.0"  # archives, with the model runner that our engine gets in each
SMALL = "small"
ARCHIVES = (SMALL, FIRST, SECOND)


class Step(NamedTuple):
    """`needs`: the archive that must have arrived. `about` and `limit`: seconds. `command`: arguments of Python."""

    name: str
    needs: str
    about: int
    limit: int
    command: str

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.command)


EIGHT = "--shape qwen3-8b"
SEVEN = "--shape qwen2.5-7b"
LONG_TRACES = "--traces 417 --trace-tokens 1500 --microbatch-tokens 8192"  # of the paper
SHORT_TRACES = "--traces 669 --trace-tokens 256"
ROLLOUTS = "-m tests.bench.rollout --tokens 256"
EPOCH = "-m tests.gpu.epoch"
TRAIN = "-m tests.bench.train"
ON_VLLM = (
    "-m pytest tests/synth/engine/test_vllm.py tests/synth/engine/test_vllm_tight.py -p no:cacheprovider -o addopts="
    " --import-mode=importlib -q --timeout 120 -k 'not two_thousand'"
)

# does it work at all
probe = Step("probe", "", 15, 60, "-m tests.gpu.probe")
first_eager = Step("equality, first runner, eager", FIRST, 60, 180, "-m tests.gpu.equality --eager")
first_graphs = Step("equality, first runner, graphs", FIRST, 100, 240, "-m tests.gpu.equality")
first_ahead = Step("equality, first runner, ahead", FIRST, 60, 180, "-m tests.gpu.equality --eager --ahead")
second_eager = Step("equality, second runner, eager", SECOND, 60, 180, "-m tests.gpu.equality --eager")
second_graphs = Step("equality, second runner, graphs", SECOND, 100, 240, "-m tests.gpu.equality")
on_vllm = Step("the tests on vLLM", FIRST, 150, 300, ON_VLLM)
consistency = Step("trainer against rollout", FIRST, 90, 240, "-m tests.bench.consistency")
# the trainer
kernels = Step("trainer's kernels", SMALL, 60, 180, "-m tests.gpu.kernels")
epoch_96 = Step(
    "epoch, 7B, 96 traces", SMALL, 130, 300, f"{EPOCH} {SEVEN} --traces 96 --microbatch-tokens 8192 --profile"
)
epoch_417 = Step("epoch, 7B, 417 traces", SMALL, 260, 420, f"{EPOCH} {SEVEN} {LONG_TRACES}")
epoch_live = Step("epoch, 7B, 32 traces, live", SMALL, 60, 240, f"{EPOCH} {SEVEN} --traces 32 --references live")
epoch_8b = Step("epoch, 8B, 669 traces", SMALL, 130, 300, f"{EPOCH} {EIGHT} {SHORT_TRACES} --microbatch-tokens 8192")
loss = Step(
    "loss", SMALL, 170, 280,
    "-m tests.bench.loss --tokens 6144 --memory-tokens 6144 --width 3584 --vocabulary 152064 --dtype bfloat16",
)  # fmt: skip
divergences = Step(
    "divergences", SMALL, 120, 400,
    "-m tests.bench.divergences --tokens 6144 --memory-tokens 6144 --width 3584 --vocabulary 152064 --dtype bfloat16",
)  # fmt: skip
lora_7b = Step("LoRA, 7B", SMALL, 30, 90, f"-m tests.bench.lora {SEVEN} --tokens 4096")
lora_8b = Step("LoRA, 8B", SMALL, 30, 90, f"-m tests.bench.lora {EIGHT} --tokens 4096")
beside_trl = Step("beside TRL, 7B", SMALL, 200, 400, f"-m tests.bench.trainers {SEVEN} --traces 16 --trace-tokens 750")
beside_trl_long = Step(
    "beside TRL, 7B, 64 traces", SMALL, 400, 900, f"-m tests.bench.trainers {SEVEN} --traces 64 --trace-tokens 1500"
)
train = [
    *(
        Step(f"training, 7B, {way}", SMALL, 300, 900, f"{TRAIN} {SEVEN} {LONG_TRACES} --references {way}")
        for way in ("cached", "live")
    ),
    *(
        Step(f"training, 8B, {way}", SMALL, 200, 900, f"{TRAIN} {EIGHT} {SHORT_TRACES} --references {way}")
        for way in ("cached", "live")
    ),
    Step(
        "training, 7B, one trace at a time", SMALL, 300, 900,
        f"{TRAIN} {SEVEN} --traces 32 --trace-tokens 1500 --microbatch-tokens 1",
    ),
]  # fmt: skip
# rollouts
first_7b = Step("rollouts, 7B, first runner", FIRST, 210, 330, f"{ROLLOUTS} {SEVEN} --pairs 256 --repeats 1")
first_7b_ahead = Step(
    "rollouts, 7B, first runner, ahead", FIRST, 180, 300, f"{ROLLOUTS} {SEVEN} --pairs 256 --repeats 1 --ahead"
)
first_7b_64 = Step("rollouts, 7B, 64 pairs", FIRST, 150, 330, f"{ROLLOUTS} {SEVEN} --pairs 64 --repeats 1")
first_8b = Step("rollouts, 8B, first runner", FIRST, 220, 330, f"{ROLLOUTS} {EIGHT} --pairs 256 --repeats 1")
second_7b = Step("rollouts, 7B, second runner", SECOND, 210, 330, f"{ROLLOUTS} {SEVEN} --pairs 256 --repeats 1")
plain_7b = Step("plain decoding as vLLM does it, 7B", FIRST, 70, 200, f"-m tests.bench.plain {SEVEN} --tokens 256")
memory_7b = Step("memory, 7B", FIRST, 200, 300, f"-m tests.bench.memory {SEVEN} --tokens 128")


def engine_benches(size: str, shape: str) -> list[Step]:
    """All that is measured of the engine on one shape, with the model runner that vLLM takes by itself."""
    return [
        *(
            Step(f"rollouts, {size}, {n} pairs", SECOND, 400, 900, f"{ROLLOUTS} {shape} --pairs {n} --repeats 3")
            for n in (64, 256)
        ),
        Step(f"rollouts, {size}, ahead", SECOND, 250, 900, f"{ROLLOUTS} {shape} --pairs 256 --repeats 1 --ahead"),
        Step(f"memory, {size}", SECOND, 250, 900, f"-m tests.bench.memory {shape} --tokens 128"),
        Step(f"scale, {size}", SECOND, 400, 900, f"-m tests.bench.scale {shape} --tokens 256"),
        Step(f"speculation, {size}", SECOND, 250, 900, f"-m tests.bench.speculation {shape} --temperature 0"),
    ]


DEVELOPER = [
    probe, first_eager, kernels, epoch_96, first_graphs, first_7b, second_eager, plain_7b, first_ahead, epoch_417,
    first_7b_ahead, second_graphs, loss, second_7b, lora_7b, on_vllm, consistency,
]  # fmt: skip
_SMALL_ALONE = [epoch_417, loss, lora_7b]  # a second machine can do them after one transfer
LONG_1 = [*(step for step in DEVELOPER if step not in _SMALL_ALONE), first_7b_64, first_8b, memory_7b]
LONG_2 = [probe, *_SMALL_ALONE, epoch_live, epoch_8b, beside_trl]
FULL = [  # no kit, no hurry: `make bench-gpu`
    probe, second_eager, first_eager, kernels, second_graphs, first_graphs, first_ahead, on_vllm, consistency, epoch_96,
    *engine_benches("7B", SEVEN), plain_7b, first_7b, lora_7b, *engine_benches("8B", EIGHT), lora_8b,
    loss, divergences, beside_trl_long, *train,
]  # fmt: skip
TINY = [  # for a CPU, however busy; two of them are there to go wrong
    Step("probe", "", 5, 300, "-m tests.gpu.probe"),
    Step("one that fails", "", 1, 60, "-c 'print(1/0)'"),
    Step("one that never ends", "", 1, 3, '-c \'import time; print("{\\"n\\": 1}", flush=True); time.sleep(99)\''),
    Step("equality, eager", FIRST, 60, 900, "-m tests.gpu.equality --eager --traces 4 --tokens 30"),
    Step(
        "trainer's kernels", SMALL, 60, 900, "-m tests.gpu.kernels --tokens 64 --width 64 --vocabulary 2048 --rows 16"
    ),
    Step("epoch", SMALL, 60, 900, f"{EPOCH} --shape tiny --traces 8 --trace-tokens 40 --profile"),
    Step("equality, ahead", FIRST, 60, 900, "-m tests.gpu.equality --eager --ahead --traces 2 --tokens 12"),
    Step("plain", FIRST, 60, 900, "-m tests.bench.plain --shape demo --rows 16 --tokens 20"),
    Step("rollouts", FIRST, 60, 900, "-m tests.bench.rollout --shape tiny --pairs 4 --tokens 8 --repeats 1"),
]
PLANS = {"developer": DEVELOPER, "long-1": LONG_1, "long-2": LONG_2, "full": FULL, "tiny": TINY}
