"""Reasoning traces from expert solutions: rooms from core (lowest) to run, and the verbs of synthesis.

The door for Python; a name is imported when it is used:

    from dail.synth import Synthesis, synthesise

    result = synthesise("solutions.jsonl", "runs/shards", model="models/qwen3-8b", synthesis=Synthesis(tau=0.8))
    for trace in result.traces():
        print(trace.item_id, trace.trace_text)

Functions print nothing: what they have to say goes to the loggers under `dail`, how far they are to `on_progress`.
"""

import logging as _logging
from typing import TYPE_CHECKING

from dail.synth.core.door import opener as _opener

__all__ = [
    "DailError",
    "EngineConfig",
    "ExpertSolution",
    "Progress",
    "Reading",
    "SelectionResult",
    "Stop",
    "SynthConfig",
    "Synthesis",
    "SynthesisResult",
    "TraceRow",
    "read_traces",
    "select",
    "synthesise",
]

_logging.getLogger("dail").addHandler(_logging.NullHandler())  # a program that shows no logs gets none

if TYPE_CHECKING:
    from dail.synth.config import EngineConfig, SynthConfig
    from dail.synth.core.errors import DailError
    from dail.synth.core.progress import Progress
    from dail.synth.core.running import Stop
    from dail.synth.data.reader import Reading
    from dail.synth.run.local import SynthesisResult, synthesise
    from dail.synth.run.selection import SelectionResult, select
    from dail.synth.schema.items import ExpertSolution
    from dail.synth.schema.manifest import read_rows as read_traces
    from dail.synth.schema.shards import TraceRow
    from dail.synth.schema.synthesis import Synthesis
else:
    __getattr__ = _opener(
        __name__,
        {
            "DailError": "dail.synth.core.errors",
            "EngineConfig": "dail.synth.config",
            "ExpertSolution": "dail.synth.schema.items",
            "Progress": "dail.synth.core.progress",
            "Reading": "dail.synth.data.reader",
            "SelectionResult": "dail.synth.run.selection",
            "Stop": "dail.synth.core.running",
            "SynthConfig": "dail.synth.config",
            "Synthesis": "dail.synth.schema.synthesis",
            "SynthesisResult": "dail.synth.run.local",
            "TraceRow": "dail.synth.schema.shards",
            "read_traces": "dail.synth.schema.manifest:read_rows",
            "select": "dail.synth.run.selection",
            "synthesise": "dail.synth.run.local",
        },
        extra="worker",
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
