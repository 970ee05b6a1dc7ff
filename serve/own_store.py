"""For verbs that work on a server's own store, beside it: which one it is, and that it is there.

dail token list --data-dir runs/api      the store of `dail serve --data-dir runs/api`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dail.synth.core.errors import UsageError

if TYPE_CHECKING:  # the verbs' help starts without the store
    from dail.serve.settings import Settings
    from dail.serve.store.transaction import Store

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="That of `dail serve` [DAIL_DATA_DIR, else runs/api].",
)
objects_option = click.option(
    "--objects", metavar="PLACE", help="That of `dail serve` [DAIL_OBJECTS, else in the data folder]."
)


@contextmanager
def opened(settings: Settings, may_be_new: bool = False) -> Iterator[Store]:
    """Raises UsageError where there is none, so that a wrong folder does not get one."""
    from dail.serve.store.transaction import Store

    place = settings.store_place
    if isinstance(place, Path) and not may_be_new and not place.is_file():
        raise UsageError(
            f"{place.parent} has no store {place.name}; give the --data-dir of `dail serve`, or its DAIL_STORE"
        )
    store = Store(place)
    try:
        yield store
    finally:
        store.close()
