"""What a run folder and a finished adapter say about themselves: run.json and dail.json. Loads no torch."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import NamedTuple

from dail.synth.core.config import TOOL_VERSION, Frozen, fingerprint
from dail.synth.core.extensions import label
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.selection import Selection
from dail.synth.schema.synthesis import Synthesis
from dail.train.config import FREE_ON_RESUME, TrainConfig
from dail.train.gate import GateRecord

RUN_FILE, PROVENANCE_FILE = "run.json", "dail.json"


class Given(NamedTuple):
    """Folders of the adapters that a run is given: what training starts from, and what the references have on."""

    init_adapter: Path | None = None
    reference_adapter: Path | None = None


class GivenAdapter(Frozen):
    """One of them: where it lies, and the digest of what it is."""

    folder: str
    digest: str


class RunRecord(Frozen):
    """What a run folder is for. Two records with the same `fingerprint` give the same adapter.

    `synthesis`: how the traces were drawn, as their manifest has it. `student`: what the student was then, if not the
    model itself: the digest of its adapter, or its weights' revision. Training starts from the model all the same, or
    from `init_adapter`; references are the model itself, or it with `reference_adapter`, which stays as it is.
    `selection`: how the manifest's traces were chosen, if by `dail select`. `num_traces` of the manifest are trained
    on; left out are `dropped_traces` by `too_long`, `filtered_traces` by `longest`, and `empty_traces`, of which no
    prediction counts. `gate`: the signs of a collapse that were seen.
    """

    config: TrainConfig
    model: ModelIdentity
    model_folder: str
    manifest: str
    manifest_digest: str
    batch_id: str
    synthesis: Synthesis
    selection: Selection | None = None
    student: str | None = None
    init_adapter: GivenAdapter | None = None
    reference_adapter: GivenAdapter | None = None
    started_at: dt.datetime
    num_traces: int | None = None
    dropped_traces: int = 0
    filtered_traces: int = 0
    empty_traces: int = 0
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
            "init adapter": self.init_adapter and self.init_adapter.digest,
            "reference adapter": self.reference_adapter and self.reference_adapter.digest,
        }


class Provenance(Frozen):
    """dail.json. `metrics` is relative to the adapter folder; in `run` no path is one of this machine."""

    run: RunRecord
    fingerprint: str
    steps: int
    metrics: str
    finished_at: dt.datetime
