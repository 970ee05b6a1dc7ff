"""A data set of the Hugging Face hub by its name, through the `datasets` library.

    hf:OWNER/NAME                        its one configuration and its one split
    hf:OWNER/NAME@REVISION               a branch, tag or commit
    hf:OWNER/NAME:SPLIT, hf:OWNER/NAME:CONFIG, hf:OWNER/NAME@REVISION:CONFIG/SPLIT; SPLIT may be train[:100]

What was downloaded before is read from its cache; HF_HUB_OFFLINE=1 reads nothing else. Where there are several
configurations or splits, none is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from dail.synth.core.errors import UsageError
from dail.synth.data.table import Row, Table, numbered_batches

PREFIX = "hf:"
_BATCH_ROWS = 1024
_NAME = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^:\s]+))?(?::(?P<part>\S+))?")


class HubError(UsageError):
    """A set cannot be loaded, or it is not clear which part of it is meant. `set_name`: as it was given."""

    def __init__(self, set_name: str, why: str) -> None:
        super().__init__(f"{set_name}{why}")
        self.set_name = set_name


class HubName(NamedTuple):
    """A set's name taken apart. `part`: configuration, split, or both with a slash between; none is its only one."""

    name: str
    revision: str | None
    part: str | None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Raises UsageError if the text is no name of a set."""
        if not (match := _NAME.fullmatch(text)):
            raise UsageError(
                f"{text} names no data set of the hub; wanted hf:OWNER/NAME[@REVISION][:CONFIG/SPLIT], for example "
                "hf:AI-MO/NuminaMath-1.5@main:default/train"
            )
        return cls(match["name"], match["revision"], match["part"])


def read_hub(text: str) -> Table:
    """The rows of a set; it is loaded at once, its rows are read when they are asked for.

    Raises:
        HubError: the library is not installed, or the set cannot be loaded, or it is not clear which part is meant.
    """
    wanted = HubName.parse(text)
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise HubError(text, f" needs the package {error.name}; run: pip install 'dail[data]'") from None
    try:
        config, split = _part(datasets, wanted, text)
        data = datasets.load_dataset(wanted.name, config, split=split, revision=wanted.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise HubError(
            text,
            f" cannot be loaded: {reason or type(error).__name__}; look at its name, at the network, at "
            "`hf auth login` if its owner asks for one, and at HF_HUB_OFFLINE",
        ) from None

    def rows(columns: Collection[str] | None) -> Iterator[Row]:
        some = data if columns is None else data.select_columns([name for name in data.column_names if name in columns])
        # as Arrow's tables, so that no picture is decoded
        return numbered_batches(text, some.with_format("arrow").iter(_BATCH_ROWS))

    return Table(text, tuple(data.column_names), rows, (f"configuration {config}, split {split}",))


def _part(datasets: Any, wanted: HubName, text: str) -> tuple[str, str]:
    """Configuration and split: those that are named, else the only ones there are."""
    of = {"revision": wanted.revision}
    configs = datasets.get_dataset_config_names(wanted.name, **of)
    config, _, split = (wanted.part or "").partition("/")
    if config and not split and config not in configs:
        config, split = "", config
    config = config or _only("configuration", configs, text, "CONFIG/SPLIT")
    if config not in configs:
        raise HubError(text, f": there is no configuration {config!r}; it has {', '.join(configs)}")
    splits = list(map(str, datasets.get_dataset_split_names(wanted.name, config, **of)))
    split = split or _only("split", splits, text, f"{config}/SPLIT")
    if split.partition("[")[0] not in splits:  # train[:100] is part of one
        raise HubError(text, f": there is no split {split!r} in {config}; it has {', '.join(splits)}")
    return config, split


def _only(what: str, names: list[str], text: str, example: str) -> str:
    if len(names) == 1:
        return names[0]
    base = text.rpartition(":")[0] if text.count(":") > 1 else text
    raise HubError(text, f" has {len(names)} {what}s ({', '.join(names)}); name one: {base}:{example}")
