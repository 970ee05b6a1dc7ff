"""`dail store`: copies of an API's store, put back, and checked.

dail store backup copies/monday.sqlite --data-dir runs/api    # while the server runs
dail store restore copies/monday.sqlite --data-dir runs/new   # where no store is
dail store check --data-dir runs/new --deep
"""

from __future__ import annotations

from pathlib import Path

import click

from dail.serve.own_store import data_dir_option, objects_option, opened
from dail.synth.core.console import emit, say
from dail.synth.core.errors import EXIT_ERROR, EXIT_OK, UsageError

_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
_copy = click.argument("copy", type=click.Path(path_type=Path, dir_okay=False))
_BY_ITS_OWN = (
    "a store on PostgreSQL is copied by PostgreSQL's own tools: pg_dump --format=custom --file=COPY DATABASE, and "
    "pg_restore --dbname=DATABASE COPY into an empty one; with no server of dail running on it meanwhile"
)


@click.group()
def store() -> None:
    """Copies of an API's store: backup, restore, check. The shards are files or objects: copy their place as well."""


@store.command()
@_copy
@data_dir_option
@_json
def backup(copy: Path, data_dir: Path | None, as_json: bool) -> int:
    """Copy the store to a file, as of one moment, while servers run. The copy is checked.

    Copy the shards' place after it, not before: then the copy names none that is not there.
    """
    from dail.serve.store.backups import back_up

    place = _file_of(data_dir)
    size = back_up(place, copy.resolve())
    emit({"copy": str(copy.resolve()), "bytes": size}) if as_json else say(f"{place} is copied to {copy}, {size} bytes")
    return EXIT_OK


@store.command()
@_copy
@data_dir_option
@_json
def restore(copy: Path, data_dir: Path | None, as_json: bool) -> int:
    """Make the store of a copy, where there is none. What was leased then waits again; workers of before are fenced.

    What was posted or committed after the copy is not in it: its shards are orphans (`dail orphans`), and clients that
    post again make their batches again.
    """
    from dail.serve.store.backups import restore as put_back

    place = _file_of(data_dir)
    put_back(copy.resolve(), place)
    emit({"store": str(place)}) if as_json else say(f"{place} is made of {copy}; check it with `dail store check`")
    return EXIT_OK


@store.command()
@objects_option
@click.option("--deep", is_flag=True, help="Read every shard and compare its sha256.")
@data_dir_option
@_json
def check(objects: str | None, deep: bool, data_dir: Path | None, as_json: bool) -> int:
    """Whether the store holds together: its counts, and the shards and manifests it names. Exit code 1 if not."""
    from dail.serve.rules.checking import findings
    from dail.serve.settings import load_settings
    from dail.synth.core.objects import open_objects

    settings = load_settings(data_dir=data_dir, objects=objects)
    with opened(settings) as own:
        found = list(findings(own, open_objects(settings.output_root), deep))
    if as_json:
        emit({"store": own.name, "findings": found})
    for line in found if not as_json else ():
        say(line)
    say(f"{own.name}: {len(found)} findings" if found else f"{own.name} holds together")
    return EXIT_ERROR if found else EXIT_OK


def _file_of(data_dir: Path | None) -> Path:
    """The store's file. Raises UsageError where it is no file."""
    from dail.serve.settings import load_settings

    place = load_settings(data_dir=data_dir).store_place
    if not isinstance(place, Path):
        raise UsageError(_BY_ITS_OWN)
    return place
