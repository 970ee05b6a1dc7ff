"""`dail orphans`: what lies among the objects and is named by nothing. It says what it would delete, then deletes it.

dail orphans --data-dir runs/api
dail orphans --data-dir runs/api --delete
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from dail.serve.own_store import data_dir_option, objects_option, opened
from dail.synth.core.console import emit, say
from dail.synth.core.options import Numbers

_SHOWN = 20


@click.command()
@data_dir_option
@objects_option
@click.option("--hours", type=Numbers(1), default=24.0, show_default=True, help="Only what is older than that.")
@click.option("--delete", "is_deleted", is_flag=True, help="Delete them; without it they are only told.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output, one object a line.")
def orphans(data_dir: Path | None, objects: str | None, hours: float, is_deleted: bool, as_json: bool) -> None:
    """Find objects that nothing names, and delete them.

    A worker that was too late and a server that was killed leave shards, staged files and manifests that no row of the
    store and no manifest names. The server may run meanwhile. What other stores or people put there is left alone.
    """
    from dail.serve.rules.orphans import find_orphans
    from dail.serve.settings import load_settings
    from dail.synth.core.objects import open_objects

    settings = load_settings(data_dir=data_dir, objects=objects)
    with opened(settings) as store:
        place = open_objects(settings.output_root)
        result = find_orphans(store, place, dt.timedelta(hours=hours))
    for one in result.found:
        if is_deleted:
            place.drop(one.key)
        if as_json:
            about = {"size_bytes": one.size_bytes, "modified": one.modified.isoformat()}
            emit({"key": one.key, **about, "is_deleted": is_deleted})
    if as_json:
        return
    for one in result.found[:_SHOWN]:
        say(f"{place.name_of(one.key)}  {one.size_bytes} bytes  {one.modified:%Y-%m-%d %H:%M}")
    if len(result.found) > _SHOWN:
        say(f"… and {len(result.found) - _SHOWN} more")
    if result.unknown:
        say(f"{result.unknown} objects are of batches that this store does not know; they are left alone")
    size = sum(one.size_bytes for one in result.found)
    hint = "" if is_deleted or not result.found else "; --delete deletes them"
    say(f"{'deleted' if is_deleted else 'found'}: {len(result.found)} objects that nothing names, {size} bytes{hint}")
