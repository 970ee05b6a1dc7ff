"""Who is judged, and how it draws: subjects (models, and adapters on the first model) and arms.

An arm is a subject at one temperature and one budget of thought: one row of every table, one line of every picture.

    subjects = read_subjects({"base": Path("models/qwen3-8b")}, {"adapter": Path("runs/train/adapter")})
    [arm.name for arm in arms_of(subjects, [0.6], [])]             ["base", "adapter"]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dail.synth.core.errors import UsageError
from dail.synth.schema.models import ModelIdentity, identify
from dail.synth.schema.synthesis import PAPER
from dail.train.evals.lineage import Adapter, read_adapter

BASE, ADAPTER = "base", "adapter"
_NAME_CHARS = 64

Named = tuple[str | None, Path]  # a folder, and what somebody called it


@dataclass(frozen=True)
class Subject:
    """What is judged: a model, or an adapter on the first model. `folder` is the model's."""

    name: str
    folder: Path
    model: ModelIdentity
    adapter: Adapter | None = None

    @property
    def source(self) -> Path:
        return self.adapter.folder if self.adapter else self.folder


@dataclass(frozen=True)
class Arm:
    """A subject at one temperature and one budget of thought; none: nothing is forced.

    `against` names the arm it is compared with, the first subject's at the same temperature and budget; none for that
    one itself.
    """

    name: str
    subject: Subject
    temperature: float
    budget: int | None = None
    against: str | None = None


def name_models(models: Sequence[Named]) -> dict[str, Path]:
    """The first is "base" unless it has a name, others are called as their folders. UsageError: a name twice."""
    return _by_name([
        (_folder_name(folder) if place else BASE, folder) if name is None else (name, folder)
        for place, (name, folder) in enumerate(models)
    ])  # fmt: skip


def name_adapters(adapters: Sequence[Named]) -> dict[str, Path]:
    """A lone one without a name is "adapter", others are called as their folders, `run/adapter` as its run. UsageError:
    a name twice."""
    is_lone = sum(name is None for name, _ in adapters) == 1
    return _by_name([
        (ADAPTER if is_lone else _folder_name(folder), folder) if name is None else (name, folder)
        for name, folder in adapters
    ])  # fmt: skip


def _folder_name(folder: Path) -> str:
    folder = folder.resolve()
    return folder.parent.name if folder.name == ADAPTER and folder.parent.name else folder.name


def _by_name(named: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    _refuse_doubles(name for name, _ in named)
    return dict(named)


def read_subjects(models: Mapping[str, Path], adapters: Mapping[str, Path], prompts: str = PAPER) -> list[Subject]:
    """What is judged, by name: the first model, which all others are held against, the adapters on it, other models.

    Args:
        prompts: of the evaluation, which are compared with those of an adapter's traces.

    Raises:
        UsageError: a name that is none or is there twice, a model or an adapter twice, a folder that holds none, or an
            adapter that does not fit the first model.
        IntegrityError: an adapter that was trained on another model.
    """
    assert models, "somebody is judged"
    for name in (*models, *adapters):
        _check(name)
    _refuse_doubles([*models, *adapters])
    of_models = [Subject(name, folder, identify(folder)) for name, folder in models.items()]
    base = of_models[0]
    of_adapters = [
        replace(base, name=name, adapter=read_adapter(folder, base.folder, base.model, prompts))
        for name, folder in adapters.items()
    ]
    # the adapters behind their own model, whose engine draws them
    subjects = [base, *of_adapters, *of_models[1:]]
    _refuse_the_same(subjects)
    return subjects


def _refuse_the_same(subjects: Sequence[Subject]) -> None:
    seen: dict[str, Subject] = {}
    for one in subjects:
        content = one.adapter.digest if one.adapter else str(one.model.identity())
        if (other := seen.setdefault(content, one)) is not one:
            raise UsageError(
                f"{one.name} and {other.name} are the same {'adapter' if one.adapter else 'model'} "
                f"({one.source} and {other.source}), which would be drawn and shown twice; leave one out"
            )


def arms_of(subjects: Sequence[Subject], temperatures: Sequence[float], budgets: Sequence[int]) -> list[Arm]:
    """By subject, then temperature, then budget.

    Their names are the subjects' where there is one temperature and at most one budget; else with what differs, as
    "base, temperature 0.8" or "adapter, 512 tokens".
    """

    def name(subject: Subject, temperature: float, budget: int | None) -> str:
        parts = [subject.name]
        if len(temperatures) > 1:
            parts.append(f"temperature {temperature:g}")
        if len(budgets) > 1:
            parts.append(f"{budget} tokens")
        return ", ".join(parts)

    arms = [
        Arm(
            name(subject, temperature, budget),
            subject,
            temperature,
            budget,
            name(subjects[0], temperature, budget) if subject is not subjects[0] else None,
        )
        for subject in subjects
        for temperature in temperatures
        for budget in (budgets or (None,))
    ]
    _refuse_doubles(arm.name for arm in arms)
    return arms


def _check(name: str) -> None:
    if not name or len(name) > _NAME_CHARS or name != name.strip() or not name.isprintable():
        raise UsageError(
            f"{name!r} cannot be the name of what is judged: it stands in every table; wanted 1 to {_NAME_CHARS} "
            "characters that can be printed, without blanks around them; give another, as --adapter NAME=FOLDER"
        )


def _refuse_doubles(names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(
            f"more than one of those that are judged is called {twice[0]!r}; give each a name of its own, as "
            "--model NAME=FOLDER or --adapter NAME=FOLDER"
        )
