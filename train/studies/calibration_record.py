"""calibration.json: the figures of each value of tau, the recommendation, and what they were measured on and with."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from dail.synth.config import SynthConfig
from dail.synth.core.config import TOOL_VERSION, Frozen
from dail.synth.data.account import Account
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.train.studies.measures import Figures
from dail.train.studies.recommendation import Recommendation
from dail.train.studies.taus import CalibrateConfig

Format = Literal["dail.calibration/1"]


class Arm(Frozen):
    """One value of tau, or one role alone. `figures` is none if no trace of it could be drawn.

    `rows_per_token`: rows of the engines, one for each step of each sequence, that a trace token took; none where an
    interrupted run drew in part. `share_of_rows`: of the rows of all values together.
    """

    name: str
    tau: float | None
    method: str
    batch_id: str
    manifest: str | None = Field(description="relative to the folder of this file")
    failed: int
    figures: Figures | None
    rows_per_token: float | None
    share_of_rows: float | None


class Drawing(Frozen):
    """The call that drew all traces; none of this is known where several calls did, or none had to."""

    tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


class Items(Frozen):
    """What was drawn on: `all` were read, `drawn` taken by lot, of which `verifiable` can be judged."""

    all: int
    drawn: int
    verifiable: int
    digest: str
    read: Account


class Calibration(Frozen):
    """calibration.json. `synthesis` is that of all values, but for method and tau."""

    format: Format = "dail.calibration/1"
    settings: CalibrateConfig
    synthesis: Synthesis
    worker: SynthConfig
    model: ModelIdentity
    prompts: str
    extractor: str
    acceptance: str
    grader: str
    items: Items
    arms: tuple[Arm, ...]
    recommendation: Recommendation
    notes: tuple[str, ...]
    drawing: Drawing | None
    engines: tuple[str, ...]
    versions: dict[str, str]
    tool_version: str = TOOL_VERSION
    started_at: dt.datetime
    finished_at: dt.datetime
