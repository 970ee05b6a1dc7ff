"""What a run folder and a finished adapter say about themselves: run.json and dail.json. Loads no torch."""

from __future__ import annotations

import datetime as dt

from dail.synth.core.config import TOOL_VERSION, Frozen, fingerprint
from dail.synth.core.extensions import label
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.train.config import FREE_ON_RESUME, TrainConfig
from dail.train.gate import GateRecord

RUN_FILE, PROVENANCE_FILE = "run.json", "dail.json"


class RunRecord(Frozen):
    """What a run folder is for. Two records with the same `fingerprint` give the same adapter.

    `synthesis`: how the traces were drawn, as their manifest has it. `student`: what the student was then, if not the
    model itself: the digest of its adapter, or its weights' revision. Training starts from the model all the same.
    `dropped_traces`: so many of the manifest were left out, by `too_long`. `gate`: signs of a
    collapse that were seen.
    """

    config: TrainConfig
    model: ModelIdentity
    model_folder: str
    manifest: str
    manifest_digest: str
    batch_id: str
    synthesis: Synthesis
    student: str | None = None
    started_at: dt.datetime
    dropped_traces: int = 0
    gate: GateRecord | None = None
    tool_version: str = TOOL_VERSION

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.decisive())

    def decisive(self) -> dict[str, object]:
        """What the adapter depends on; where files lie does not count."""
        return {
            **self.config.model_dump(mode="json", exclude=set(FREE_ON_RESUME)),
            "objective": label(self.config.objective),
            "model revision": self.model.revision,
            "tokenizer": self.model.tokenizer_hash,
            "manifest digest": self.manifest_digest,
        }


class Provenance(Frozen):
    """dail.json. `metrics` is relative to the adapter folder; in `run` no path is one of this machine."""

    run: RunRecord
    fingerprint: str
    steps: int
    metrics: str
    finished_at: dt.datetime
