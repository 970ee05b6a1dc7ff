"""`dail loop`: rounds of synth → select → train, in which the adapter of one round is the student of the next.

    round 1   the bare model ─▶ synth ─▶ select ─▶ train ─▶ adapter
    round 2   student: that adapter ─▶ synth ─▶ select ─▶ train, from that adapter ─▶ adapter   …

    dail loop solutions.jsonl --model models/qwen3-8b --out runs/rounds --config qwen3-8b-paper-v1 --set loop.rounds=3

One round is the paper. What the references are in later ones, `loop.reference` says: the bare model (frozen), the
student that drew the traces (live), or a mean of all students so far that follows slowly (mean). With few items a round
and `synthesis.method=student` the student learns on what it writes by itself now: on-policy self-distillation.

Each step is a verb in a process of its own, as a user would type it: a GPU is free again when it ends, each goes on
where it was stopped, and a round that is done is not begun again.
"""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import Field, ValidationError

from dail.serve.begun import begin
from dail.serve.children import Children
from dail.synth.core.config import Config, Frozen, fingerprint
from dail.synth.core.console import emit, say
from dail.synth.core.errors import EXIT_OK, EXIT_SOME_FAILED, IntegrityError, UsageError, few
from dail.synth.core.files import replace_text
from dail.synth.core.options import verb
from dail.synth.core.settings import Chosen, as_toml, free_on_resume, model_of
from dail.synth.data import options
from dail.synth.data.reader import Reading, read_solutions
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import resolve
from dail.synth.schema.models import identify
from dail.synth.schema.selection import BY_VERDICT
from dail.synth.schema.synthesis import COLUMNS, Synthesis

_MARKER, _SETTINGS, _DONE = "loop.json", "settings.toml", "round.json"
_PASSED_ON = ("engine", "worker", "synthesis", "train", "gate")
_OURS = ("student_adapter", "student_model", "privileged_adapter")  # of [worker]: which students there are, rounds say


class LoopConfig(Config):
    """`[loop]` of a config file."""

    rounds: int = Field(1, ge=1, le=10_000, description="how often; one is the paper, and more may be added later")
    items_per_round: int | None = Field(
        None,
        ge=1,
        description="expert solutions of a round, each pass over them in a new order, so that few of them come near "
        "learning on what the student writes now; all if left out",
    )
    keep: Literal["all", "all_correct", "first_correct", "random_correct", "random"] = Field(
        "all", description="traces that are trained on, by the rules of `dail select`"
    )
    reference: Literal["frozen", "live", "mean"] = Field(
        "frozen",
        description="privileged student and references of later rounds: the bare model; the adapter that the student "
        "has; or the running mean of those so far, the bare model being the first",
    )
    mean_decay: float = Field(
        0.9, ge=0, lt=1, description="what reference=mean keeps of the mean so far when a round has ended"
    )


class Round(Frozen):
    """round.json: where a finished round's outputs lie."""

    manifest: Path
    chosen: Path
    adapter: Path


@dataclass(frozen=True)
class Plan:
    """What all rounds share."""

    out: Path
    model: Path
    items: tuple[ExpertSolution, ...]
    loop: LoopConfig
    synthesis: Synthesis
    training: Any  # [train]; its model is a room's beside this one
    ray_workers: int | None

    def folder(self, number: int) -> Path:
        return self.out / f"round-{number:04d}"

    def items_of(self, number: int) -> list[ExpertSolution]:
        """Those of a round, counted from 1: the next ones of an endless row of passes, each in an order of its own."""
        size = self.loop.items_per_round or len(self.items)
        if size == len(self.items):
            return list(self.items)
        first_pass, start = divmod((number - 1) * size, len(self.items))
        places = [*self._order(first_pass), *self._order(first_pass + 1)][start : start + size]
        return [self.items[place] for place in dict.fromkeys(places)]  # the end of a pass may be the next one's start

    def _order(self, number: int) -> list[int]:
        """By hash, so that no library's generator can change it between versions."""

        def lot(place: int) -> bytes:
            return hashlib.sha256(f"{self.synthesis.seed}/{number}/{self.items[place].id}".encode()).digest()

        return sorted(range(len(self.items)), key=lot)


@verb("loop")
@options.files()
@options.reading("OUT/invalid.jsonl")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of all rounds; goes on in it.")
@click.option("--model", type=click.Path(path_type=Path), help="Model folder; engine.model.")
@click.option("--ray-workers", type=click.IntRange(1), help="Train on so many workers of a Ray cluster, a GPU each.")
@click.option("--json", "as_json", is_flag=True, help="Where everything lies, as one JSON object.")
def loop(
    chosen: Chosen,
    files: tuple[str, ...],
    reading: Reading,
    out: Path,
    model: Path | None,
    ray_workers: int | None,
    as_json: bool,
) -> int:
    """Rounds of synth, select and train on the expert solutions in FILEs: each round's adapter is the next one's
    student, and training goes on from it.

    OUT/round-0001, … hold what the verbs make. Ctrl-C loses nothing: the same command goes on, and with a larger
    loop.rounds it goes further. On a cluster: RAY_ADDRESS, and --ray-workers to train there; OUT where every node sees
    it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, with all children
    chosen = chosen.told("engine", model=model and model.resolve())
    plan = _plan(chosen, files, reading.writing_to(out.resolve()), out.resolve(), ray_workers)
    _begin(plan, chosen)
    with Children(plan.out / "logs") as children:
        rounds = list(_rounds(plan, children))
    last = rounds[-1]
    if as_json:
        emit({"adapter": last.adapter, "rounds": [one.model_dump(mode="json") for one in rounds]})
    say(f"adapter of round {len(rounds)}: {last.adapter}")
    return EXIT_OK


def _plan(chosen: Chosen, files: Sequence[str], reading: Reading, out: Path, ray_workers: int | None) -> Plan:
    """Raises UsageError, before anything costs: settings that cannot work, or that no round could choose a trace by."""
    if not chosen.has("engine", "model"):
        raise UsageError("no model is named; give --model FOLDER, or engine.model in --config or --set")
    if ours := [key for key in _OURS if chosen.has("worker", key)]:
        raise UsageError(
            f"worker.{ours[0]} is set, and `dail loop` gives the roles their adapters itself, by loop.reference; leave "
            "it out, or run `dail synth` and `dail train --init-adapter` yourself"
        )
    settings = chosen.load(LoopConfig, "loop")
    synthesis = chosen.load(Synthesis, "synthesis")
    engine: Any = chosen.load(model_of("engine"), "engine")
    worker: Any = chosen.load(model_of("worker"), "worker", engine=engine)
    training: Any = chosen.load(model_of("train"), "train")
    chosen.load(model_of("gate"), "gate")
    _check_roles(settings, synthesis, worker.strategy, training)
    items = read_solutions(files, reading).items
    _check_items(settings, synthesis, items)
    return Plan(out, Path(engine.model), tuple(items), settings, synthesis, training, ray_workers)


def _check_roles(settings: LoopConfig, synthesis: Synthesis, strategy: str, training: Any) -> None:
    """What a round's student and references are must be possible, and what they read be there."""
    if settings.rounds > 1 and settings.reference != "frozen" and strategy == "draft_verify":
        raise UsageError(
            f"worker.strategy=draft_verify reads what the student proposes, and no engine reads with an adapter, which "
            f"loop.reference={settings.reference} gives the privileged student; set strategy=auto, or reference=frozen"
        )
    if training.tune != "lora":
        raise UsageError(f"train.tune={training.tune} makes no adapter for the next round; set tune=lora")
    contexts = {*COLUMNS, *synthesis.contexts}
    if unknown := sorted(set(training.references) - contexts):
        raise UsageError(
            f"train.references names {few(unknown)}, which the traces of these rounds will not have; they will have "
            f"{', '.join(sorted(contexts))}; take of these, or set synthesis.contexts"
        )
    if settings.rounds > 1 and settings.reference == "frozen" and synthesis.method in ("direct", "expert"):
        say(
            f"note: with method={synthesis.method} and reference=frozen no student has a part in the traces: later "
            "rounds draw what the first could have drawn"
        )


def _check_items(settings: LoopConfig, synthesis: Synthesis, items: Sequence[ExpertSolution]) -> None:
    """Rounds must find among them what they keep and how many they take."""
    if settings.keep in BY_VERDICT and all(resolve(one, synthesis.lone_box).kind == "proof" for one in items):
        raise UsageError(
            f"loop.keep={settings.keep} keeps correct traces, and none of the {len(items)} expert solutions has an "
            "answer; set keep=all or random"
        )
    if synthesis.enough != "all" and settings.keep not in ("all", synthesis.enough):
        raise UsageError(
            f"synthesis.enough={synthesis.enough} draws what that rule needs, and loop.keep={settings.keep} is another "
            f"one; set loop.keep={synthesis.enough}, or leave enough out"
        )
    if settings.items_per_round and settings.items_per_round > len(items):
        raise UsageError(
            f"loop.items_per_round is {settings.items_per_round}, and there are {len(items)} expert solutions; leave "
            "it out for all"
        )


def _begin(plan: Plan, chosen: Chosen) -> None:
    """The folder is ours, and of these settings; else UsageError."""
    text = "\n".join(as_toml(table, chosen.values.get(table, {})) for table in _PASSED_ON)
    begin(plan.out, _MARKER, "rounds", _decided(plan), {_SETTINGS: text})


def _decided(plan: Plan) -> dict[str, Any]:
    """What the rounds depend on, by the name of a setting or of an input. Their number is free."""
    found: dict[str, Any] = {
        "model": identify(plan.model).identity(),
        "expert solutions": fingerprint([one.model_dump(mode="json") for one in plan.items]),
        **{f"loop.{name}": value for name, value in plan.loop.model_dump(mode="json", exclude={"rounds"}).items()},
        **{f"synthesis.{name}": value for name, value in plan.synthesis.pinned().identity().items()},
        "synthesis.samples_per_item": plan.synthesis.samples_per_item,
    }
    free = set(free_on_resume(plan.training))
    return found | {
        f"train.{name}": value for name, value in plan.training.model_dump(mode="json", exclude=free).items()
    }


def _rounds(plan: Plan, children: Children) -> Iterator[Round]:
    previous: Round | None = None
    reference: Path | None = None
    for number in range(1, plan.loop.rounds + 1):
        folder = plan.folder(number)
        done = _read_done(folder)
        if done:
            say(f"round {number} of {plan.loop.rounds}: done before")
        else:
            done = _round(plan, number, previous, reference, children)
            replace_text(folder / _DONE, done.model_dump_json(indent=1) + "\n")
        yield done
        previous = done
        if number < plan.loop.rounds:
            reference = _next_reference(plan, number, done, reference, children)


def _read_done(folder: Path) -> Round | None:
    try:
        done = Round.model_validate_json((folder / _DONE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise IntegrityError(f"{folder / _DONE} cannot be read ({error}); remove it to do the round again") from None
    if not done.adapter.is_dir():
        raise IntegrityError(f"{folder / _DONE} names {done.adapter}, which is gone; remove {folder} to do it again")
    return done


def _round(plan: Plan, number: int, previous: Round | None, reference: Path | None, children: Children) -> Round:
    folder, total = plan.folder(number), plan.loop.rounds
    folder.mkdir(parents=True, exist_ok=True)
    items, settings = plan.items_of(number), plan.out / _SETTINGS
    lines = [json.dumps(one.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False) for one in items]
    source = folder / "items.jsonl"
    replace_text(source, "\n".join(lines) + "\n")
    shared = ("--model", plan.model, "--config", settings)

    say(f"\nround {number} of {total}: traces of {len(items)} expert solutions")
    roles = []
    if previous:
        roles += ["--set", f"worker.student_adapter={previous.adapter}"]
    if reference:
        roles += ["--set", f"worker.privileged_adapter={reference}"]
    drawn = json.loads(
        children.result(
            "synth", "synth", source, "--out", folder / "shards", *shared, *roles, "--json",
            allowed=(EXIT_OK, EXIT_SOME_FAILED),
        )
    )  # fmt: skip
    manifest = chosen = Path(drawn["manifest"])
    if plan.loop.keep != "all":
        say(f"round {number} of {total}: {plan.loop.keep} of {drawn['committed']} traces")
        chosen = Path(children.result("select", "select", manifest, "--keep", plan.loop.keep).strip())

    say(f"round {number} of {total}: training")
    given = []
    if previous:
        given += ["--init-adapter", previous.adapter]
    if reference:
        given += ["--reference-adapter", reference]
    if plan.ray_workers:
        given += ["--ray-workers", plan.ray_workers]
    trained = children.result(
        "train", "train", "--manifest", chosen, "--out", folder / "train", *shared, *given, "--json"
    )
    return Round(manifest=manifest, chosen=chosen, adapter=Path(json.loads(trained)["adapter"]))


def _next_reference(plan: Plan, number: int, done: Round, before: Path | None, children: Children) -> Path | None:
    """What privileged student and references have on in the round after this one."""
    if plan.loop.reference == "frozen":
        return None
    if plan.loop.reference == "live":
        return done.adapter
    mean = plan.folder(number) / "mean"
    if not mean.exists():
        earlier = ("--before", before) if before else ()
        children.run("average", "average", done.adapter, *earlier, "--decay", plan.loop.mean_decay, "--out", mean)
    return mean
