"""What is said where a model's folder was expected and is not there: the way from a hub's name to a folder."""

from __future__ import annotations

import re
from pathlib import Path

from dail.synth.core.settings import presets

_FOLDERS = ("models", "model", "runs", "data", "checkpoints", "weights", "adapters")  # whose owner no hub's name has
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def hub_id(folder: Path) -> str | None:
    """OWNER/NAME, if that is what somebody may have meant by a folder that does not exist.

    >>> hub_id(Path("Qwen/Qwen2.5-7B-Instruct")), hub_id(Path("/models/qwen")), hub_id(Path("models/qwen"))
    ('Qwen/Qwen2.5-7B-Instruct', None, None)
    """
    relative = folder
    if folder.is_absolute():  # as verbs make it, before a worker elsewhere sees it
        if not folder.is_relative_to(Path.cwd()):
            return None
        relative = folder.relative_to(Path.cwd())
    parts = relative.parts
    if (
        len(parts) != 2
        or parts[0].lower() in _FOLDERS
        or relative.exists()
        or Path(parts[0]).exists()
        or not all(map(_NAME.fullmatch, parts))
    ):
        return None
    return "/".join(parts)


def no_model_folder(folder: Path) -> str:
    """The refusal, with the command that makes the folder where a hub has it."""
    name = hub_id(folder)
    if name is None:
        what = "it has no config.json" if folder.is_dir() else "there is no such folder"
        return f"{folder} is no model folder: {what}; give a folder as saved by transformers"
    into = f"models/{name.partition('/')[2]}"
    fitting = [preset for preset in presets() if _model_of(preset) and _model_of(preset) in name.lower()]
    use = f"--model {into}" + (f" --config {fitting[-1]}" if fitting else "")
    return (
        f"{name} is no folder here but looks like a model of a hub, and nothing is downloaded by itself; "
        f"run `hf download {name} --local-dir {into}`, then give {use}"
        + (f" (presets for it: {', '.join(fitting)})" if len(fitting) > 1 else "")
    )


def _model_of(preset: str) -> str:
    """
    >>> _model_of("qwen2.5-7b-paper-v1"), _model_of("e1-proof")
    ('qwen2.5-7b', '')
    """
    found = re.match(r"[a-z]+[0-9.]*-[0-9.]+b(?=-)", preset)
    return found[0] if found else ""
