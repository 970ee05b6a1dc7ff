"""Shards to adapters.

The door for Python; a name is imported when it is used:

    from dail.train import TrainConfig, train

    result = train("models/qwen3-8b", manifest, "runs/train", TrainConfig(gamma=0.1))
    print(result.adapter)

Functions print nothing: what they have to say goes to the loggers under `dail`, how far they are to `on_progress`.
"""

from typing import TYPE_CHECKING

from dail.synth.core.door import opener as _opener

__all__ = ["GateConfig", "Objective", "Result", "TrainConfig", "train"]

if TYPE_CHECKING:
    from dail.train.config import TrainConfig
    from dail.train.gate import GateConfig
    from dail.train.loop import Result, train
    from dail.train.objective import Objective
else:
    __getattr__ = _opener(
        __name__,
        {
            "GateConfig": "dail.train.gate",
            "Objective": "dail.train.objective",
            "Result": "dail.train.loop",
            "TrainConfig": "dail.train.config",
            "train": "dail.train.loop",
        },
        extra="train",
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
