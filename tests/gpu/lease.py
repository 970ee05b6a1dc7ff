"""Runs a plan of measurements so that a time-out, a failure or a machine that is taken away loses nothing.

    python3 tests/gpu/lease.py run --plan developer --seconds 1500     detached: see begin.sh
    python3 tests/gpu/lease.py wait --seconds 540 --to FOLDER       until all is done or so long; copies what there is
    python3 tests/gpu/lease.py run --plan full --installed --work runs/bench-gpu      what `make bench-gpu` does
    python3 tests/gpu/lease.py show                                    which steps there are, with their times

What a step prints as JSON lines goes into WORK/out/results.jsonl as soon as it is there, with the step's name. A step
that fails leaves the end of what it said, one that takes too long is killed with all it started, and the next one runs.
One whose archive has not arrived (see unpack.sh) lets the next one run first; with `--installed` all come with the
environment. Steps that ended well in WORK before are not run again. A file WORK/out/stop ends the run after its step.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.gpu.plans import FIRST, PLANS, Step  # noqa: E402

MIN_LEFT_S = 10  # with less than that no step is begun
END_OF_LOG = 25  # lines
COPIED_BYTES = 12 << 20  # of the log's end, at most


class Lease:
    """A folder of work, what has arrived in it, and what was measured."""

    def __init__(self, work: Path, is_installed: bool = False) -> None:
        self.work, self.is_installed = work.resolve(), is_installed
        self.site, self.out = self.work / "site", self.work / "out"
        self.results, self.state, self.log = (self.out / name for name in ("results.jsonl", "state.txt", "log.txt"))
        self.stop = self.out / "stop"

    def run(self, plan: Sequence[Step], seconds: float = math.inf) -> int:
        """How many steps failed or were left out."""
        self.out.mkdir(parents=True, exist_ok=True)
        until, num_bad = time.time() + seconds, 0
        with self._alone():
            self.stop.unlink(missing_ok=True)
            left = [step for step in plan if [step.name, step.command] not in self._succeeded()]
            self._say("begun", plan, left)
            while left and (step := self._next(left, until)):
                left.remove(step)
                self._say(f"running: {step.name}, {step.about} s or so", plan, left)
                num_bad += not self._try(step, min(step.limit, until - time.time()))
            for step in left:
                self._put({"step": step.name, "skipped": "no time, stopped, or its packages did not come"})
            self._say("done", plan, left)
        return num_bad + len(left)

    def wait(self, seconds: float, to: Path | None) -> None:
        """Until the run is done, or so long. Copies what was measured and shows the last of it."""
        until = time.time() + seconds
        while time.time() < until and not (self.state.exists() and self.state.read_text().startswith("done")):
            time.sleep(1)
        for path in (self.results, self.state, self.log):
            if to and path.exists():
                copy_end(path, to / path.name)
        print(self.state.read_text() if self.state.exists() else "not begun")
        if self.results.exists():
            print("\n".join(line[:600] for line in self.results.read_text().splitlines()[-14:]))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One run at a time: a second one waits until the first has ended."""
        with (self.work / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _succeeded(self) -> list[list[str]]:
        """Steps of earlier runs that ended well, with what they ran: a changed step is another one."""
        lines = self.results.read_text().splitlines() if self.results.exists() else []
        return [[line["step"], line["command"]] for line in map(json.loads, lines) if line.get("rc") == 0]

    def _next(self, left: Sequence[Step], until: float) -> Step | None:
        """The first one that is ready and fits, waited for if a later transfer may bring it; none: the run is over."""
        while time.time() < until - MIN_LEFT_S and not self.stop.exists():
            ready = [step for step in left if self._is_ready(step)]
            if fits := [step for step in ready if step.about <= until - time.time()]:
                return fits[0]
            if len(ready) == len(left):
                return None
            time.sleep(0.5)
        return None

    def _is_ready(self, step: Step) -> bool:
        return self.is_installed or not step.needs or (self.site / f"{step.needs}.ready").exists()

    def _try(self, step: Step, limit: float) -> bool:
        try:
            return self._do(step, limit)
        except Exception as error:  # the other steps are worth more than this one
            self._put({"step": step.name, "driver": f"{type(error).__name__}: {error}"})
            return False

    def _do(self, step: Step, limit: float) -> bool:
        """Runs one step, keeps its figures as they come, and ends it and all it started at its limit."""
        started = time.time()
        with self.log.open("a") as log:
            log.write(f"\n##### {step.name}\n")
            log.flush()
            begin = log.tell()
            child = subprocess.Popen(
                [sys.executable, *step.arguments],
                cwd=ROOT,
                env=self._environment(step),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            with self.log.open(errors="replace") as said:
                said.seek(begin)
                lines = self._follow(step, child, said, started + limit)
        finally:
            _kill(child)
        failed = {} if child.returncode == 0 else {"end of its log": lines[-END_OF_LOG:]}
        seconds = round(time.time() - started, 1)
        self._put({"step": step.name, "rc": child.returncode, "seconds": seconds, "limit": round(limit),
                   "command": step.command, **failed})  # fmt: skip
        return child.returncode == 0

    def _follow(self, step: Step, child: subprocess.Popen[bytes], said: TextIO, until: float) -> list[str]:
        """All lines, cut, until the child is over or its time is; those that are figures are kept at once."""
        rest, lines = "", list[str]()
        while True:
            is_over = child.poll() is not None
            *new, rest = (rest + said.read()).split("\n")
            for line in new:
                lines.append(line[-500:])
                if line.startswith("{"):
                    self._put({"step": step.name, **_figures(line)})
            if is_over:
                return [*lines, rest]
            if time.time() > until:
                _kill(child)
            time.sleep(0.1)

    def _put(self, figures: dict[str, Any]) -> None:
        with self.results.open("a") as file:
            file.write(json.dumps({"at": round(time.time()), **figures}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _say(self, now: str, plan: Sequence[Step], left: Sequence[Step]) -> None:
        begun = "; ".join(step.name for step in plan if step not in left)
        self.state.write_text(f"{now}\nbegun so far: {begun}\nwaiting: {'; '.join(step.name for step in left)}\n")
        print(now, flush=True)

    def _environment(self, step: Step) -> dict[str, str]:
        folders, kit = [ROOT], dict[str, str]()
        if not self.is_installed:
            folders += [self.site / "project", self.site / "small"]
            if step.needs.startswith("vllm"):
                folders += [self.site / "engine", self.site / step.needs]
            kit = {
                "PYTHONPYCACHEPREFIX": str(self.work / "pyc"),
                "VLLM_CACHE_ROOT": str(self.work / f"cache-{step.needs or 'none'}"),
                "VLLM_USE_FLASHINFER_SAMPLER": "0",  # neither is among the packages
                "VLLM_USE_DEEP_GEMM": "0",
            }
        elif step.needs == FIRST:  # there is one vLLM, which may prefer the second runner
            kit = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
        known = [str(folder) for folder in folders if folder.exists()] + [os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            **kit,
            "PYTHONPATH": ":".join(filter(None, known)),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }


def _figures(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {"said": line[:2000]}


def _kill(child: subprocess.Popen[bytes]) -> None:
    """With all it started, of which some may outlive it and hold the GPU's memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def copy_end(path: Path, to: Path) -> None:
    with path.open("rb") as file:
        file.seek(-min(COPIED_BYTES, path.stat().st_size), os.SEEK_END)
        with to.open("wb") as copy:
            shutil.copyfileobj(file, copy)


def show(plan: Sequence[Step]) -> None:
    for step in plan:
        print(f"{step.about:5} s, at most {step.limit:4}  {step.needs or '-':12} {step.name}: {step.command}")
    print(f"{sum(step.about for step in plan):5} s in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "wait", "show"])
    parser.add_argument("--plan", choices=PLANS, default="developer")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--work", type=Path, default=Path(os.environ.get("LEASE", "/tmp/lease")))
    parser.add_argument("--installed", action="store_true", help="all packages are those of this Python")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    lease = Lease(options.work, options.installed)
    if options.what == "run":
        num_bad = lease.run(PLANS[options.plan], options.seconds)
        print(f"{num_bad} of {len(PLANS[options.plan])} steps did not end well; figures: {lease.results}")
        sys.exit(num_bad > 0)
    elif options.what == "wait":
        lease.wait(options.seconds, options.to)
    else:
        show(PLANS[options.plan])


if __name__ == "__main__":
    main()
