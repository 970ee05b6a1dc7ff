"""A pair on real vLLM in which a test can make faults: `FOLDER/fault` says which one the next step brings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from dail.synth.config import SynthConfig


def faulty_pair(config: SynthConfig, folder: Path) -> Any:
    from vllm.v1.engine.exceptions import EngineDeadError

    from dail.synth.rollout.pair import start_pair

    pair = start_pair(config)
    engine = pair._entries[0].engine._engine
    step, fault = engine.step, folder / "fault"

    def step_with_faults() -> Any:
        written = {unit_id: len(tokens) for unit_id, tokens in pair.progress().items()}
        (folder / "written.new").write_text(json.dumps(written))
        (folder / "written.new").replace(folder / "written.json")  # whole, whenever this process is killed
        if fault.exists():
            kind = fault.read_text()
            fault.unlink()
            if kind == "stall":
                time.sleep(1000)
            raise EngineDeadError
        return step()

    engine.step = step_with_faults
    return pair
