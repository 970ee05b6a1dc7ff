"""Figures of every step: metrics.jsonl for programs, curves.svg and the trackers for eyes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from dail.synth.core.errors import StorageError, UsageError
from dail.synth.core.extensions import label
from dail.synth.core.files import refused, replace, replace_text
from dail.train.charts import standalone, training_curves
from dail.train.config import TrainConfig
from dail.train.gate import EntropyWatch, GateRecord
from dail.train.record import RunRecord

_log = logging.getLogger(__name__)

METRICS_FILE, CURVES_FILE = "metrics.jsonl", "curves.svg"
_PROJECT = "dail"


class Metrics:
    """What a run writes down of its steps. `seen` is what the gate saw in the traces and in the steps up to now."""

    def __init__(self, file: TextIO, trackers: list[Any], gate: GateRecord, watch: EntropyWatch) -> None:
        self._file, self._trackers, self._watch = file, trackers, watch
        self.seen = gate
        self._look()

    def _look(self) -> None:
        if self.seen.action == "off":
            return
        before, self.seen = self.seen, self.seen.with_signal(self._watch.signal)
        if len(self.seen.tripped) > len(before.tripped):
            _log.warning(f"gate: {self._watch.signal.sentence}")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        for tracker in list(self._trackers):
            try:
                tracker.log({f"train/{name}": value for name, value in figures.items()}, step=step)
            except OSError:
                raise
            except Exception as error:  # the run is worth more than its picture
                _log.warning(f"tracker {tracker.name} fails ({error}); this run goes on without it")
                self._trackers.remove(tracker)
        self._watch.see(figures)
        self._look()


class TensorBoard:
    """As accelerate's trackers; its own cannot drop the steps that are run again."""

    name = "tensorboard"

    def __init__(self, folder: Path, step: int) -> None:
        self._board = SummaryWriter(folder, purge_step=step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def finish(self) -> None:
        self._board.close()


def check_trackers(config: TrainConfig) -> None:
    """Raises UsageError for one that is not installed."""
    for name in config.trackers:
        if find_spec(name) is None:
            raise UsageError(f"tracker {name} is not installed; run: pip install {name}, or leave it out of trackers")


@contextmanager
def metrics(out: Path, step: int, record: RunRecord) -> Iterator[Metrics]:
    """Goes on after `step`; what was written of later steps is dropped, since they are run again.

    Raises:
        StorageError: the disk refused, here or while it is used.
        UsageError: a tracker cannot start.
    """
    path = out / METRICS_FILE
    try:
        earlier = _keep(path, step)
        with ExitStack() as stack, open(path, "a", encoding="utf-8") as file:
            trackers = [_tracker(name, out, step, record) for name in record.config.trackers]
            for tracker in trackers:
                stack.callback(tracker.finish)
            seen = record.gate or GateRecord(action=record.config.gate.action)
            yield Metrics(file, list(trackers), seen, EntropyWatch(record.config.gate, earlier))
    except OSError as error:
        raise refused(path, error) from error
    finally:
        with suppress(StorageError, OSError):  # a picture hides no other error
            draw(out)


def draw(out: Path) -> None:
    """The curves of what was written so far."""
    curves = training_curves([step for line in _lines(out / METRICS_FILE) if (step := _figures(line))])
    if curves:
        replace_text(out / CURVES_FILE, standalone(curves))


def _tracker(name: str, out: Path, step: int, record: RunRecord) -> Any:
    if name == "tensorboard":
        return TensorBoard(out / "tensorboard", step)
    from accelerate import PartialState
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker

    run = record.fingerprint.removeprefix("sha256:")[:16]
    try:
        PartialState()  # accelerate's logger wants it
        if name == "wandb":
            tracker: Any = WandBTracker(_PROJECT, name=out.name, id=run, resume="allow", dir=str(out))
        elif name == "trackio":
            tracker = TrackioTracker(_PROJECT, name=f"{out.name}-{run}", resume="allow")
        else:
            tracker = MLflowTracker(_PROJECT, run_name=out.name)
        tracker.start()
        tracker.store_init_configuration(_flat(record))
    except Exception as error:
        raise UsageError(f"tracker {name} cannot start: {error}; set it up, or leave it out of trackers") from error
    return tracker


def _flat(record: RunRecord) -> dict[str, str]:
    settings = {
        **record.config.model_dump(mode="json"),
        "objective": label(record.config.objective),
        "model": record.model.name,
        "manifest": record.manifest_digest,
    }
    return {name: str(value) for name, value in settings.items()}


def _keep(path: Path, step: int) -> list[dict[str, Any]]:
    """Leaves the lines up to `step`, as they are, and says how many others were no figures of a step; these figures."""
    lines = _lines(path)
    found = [(line, figures) for line in lines if (figures := _figures(line))]
    if len(found) < len(lines):
        _log.warning(
            f"{path}: {len(lines) - len(found)} of {len(lines)} lines hold no figures of a step and are left out; "
            "something else wrote into this file, or it was damaged"
        )
    kept = [(line, figures) for line, figures in found if figures["step"] <= step]
    replace(path, lambda staged: staged.write_bytes(b"".join(line for line, _ in kept)))
    return [figures for _, figures in kept]


def _lines(path: Path) -> list[bytes]:
    """The whole lines; a run killed while it wrote may leave half of one at the end, of a step that is run again."""
    if not path.exists():
        return []
    return [line + b"\n" for line in path.read_bytes().split(b"\n")[:-1]]


def _figures(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # no UTF-8 is a ValueError, too
        return None
    is_step = isinstance(found, dict) and type(found.get("step")) is int and found["step"] > 0
    return found if is_step else None
