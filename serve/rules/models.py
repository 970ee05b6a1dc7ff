"""The registered models: which one a batch is for, and whether a worker's is among them."""

from __future__ import annotations

import hashlib

from dail.synth.core.config import canonical
from dail.synth.core.errors import InputError, InputFault
from dail.synth.schema.models import ModelIdentity, differences


def choose_model(models: dict[str, ModelIdentity], name: str | None) -> ModelIdentity:
    """The model of that name; the only one if none is named."""
    if name is None and len(models) == 1:
        return next(iter(models.values()))
    if name in models:
        return models[name]
    wrong = "no model is named" if name is None else "the model is not registered"
    raise InputError(
        f"{wrong}; this API has {_names(models)}",
        [InputFault("/model", "unknown_model", f"give one of: {_names(models)}")],
    )


def check_registered(models: dict[str, ModelIdentity], model: ModelIdentity) -> None:
    """Raises InputError unless a registered model is the same, under whatever name; says what differs."""
    if model_key(model) in map(model_key, models.values()):
        return
    nearest = models.get(model.name) or min(
        models.values(), key=lambda known: len(differences(known, model)), default=None
    )
    which = f"; of {nearest.name} differ: {', '.join(differences(nearest, model))}" if nearest else ""
    raise InputError(
        f"no batch here wants the model {model.name} at revision {model.revision}; this API has "
        f"{_names(models)}{which}; start the worker with the same files",
        [InputFault("/model", "unknown_model", "other weights, tokenizer or templates than any registered model")],
    )


def model_key(model: ModelIdentity) -> str:
    """What must be equal for a worker to serve a batch; a model's name is only a name."""
    return hashlib.sha256(canonical(model.identity())).hexdigest()


def _names(models: dict[str, ModelIdentity]) -> str:
    return ", ".join(sorted(models)) or "no model; start it with `dail serve --model NAME=FOLDER`"
