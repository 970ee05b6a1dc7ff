"""Long experiments made of the verbs' functions.

The door for Python; a name is imported when it is used:

    from dail.train.studies import CalibrateConfig, CurateConfig, calibrate, curate

    curated = curate("pool.jsonl", "runs/curated", CurateConfig(attempts=8, validation=20), model="models/qwen3-8b")
    print([(step.step, step.num_out) for step in curated.steps])
    found = calibrate("solutions.jsonl", "runs/tau", CalibrateConfig(items=64), model="models/qwen3-8b")
    print(found.recommendation.tau, *found.recommendation.reason)

Functions print nothing: what they have to say goes to the loggers under `dail`, how far they are to `on_progress`.
"""

from typing import TYPE_CHECKING

from dail.synth.core.door import opener as _opener

__all__ = ["CalibrateConfig", "Calibration", "CurateConfig", "Curated", "calibrate", "curate"]

if TYPE_CHECKING:
    from dail.train.studies.calibration import calibrate
    from dail.train.studies.calibration_record import Calibration
    from dail.train.studies.curated import Curated
    from dail.train.studies.curation import curate
    from dail.train.studies.curation_config import CurateConfig
    from dail.train.studies.taus import CalibrateConfig
else:
    __getattr__ = _opener(
        __name__,
        {
            "CalibrateConfig": "dail.train.studies.taus",
            "Calibration": "dail.train.studies.calibration_record",
            "CurateConfig": "dail.train.studies.curation_config",
            "Curated": "dail.train.studies.curated",
            "calibrate": "dail.train.studies.calibration",
            "curate": "dail.train.studies.curation",
        },
        extra="worker,train",
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
