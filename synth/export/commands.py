"""The verbs of export: `dail export` and `dail push`. Rooms with transformers and the hub's client are imported on use.

    dail export runs/shards --for trl-sft --out runs/sft
    dail push runs/sft --to OWNER/NAME --private

FORMS, which the help lists, loads neither.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from dail.synth.core import console
from dail.synth.core.errors import UsageError
from dail.synth.core.options import ModelFolder
from dail.synth.data.options import ManifestPath
from dail.synth.export.forms import FORMS


@click.command("export")
@click.argument("source", metavar="MANIFEST|OUT", type=ManifestPath())
@click.option("--for", "form", required=True, type=click.Choice(list(FORMS)), help="Who is to read it.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder of data, card and export.json.")
@click.option(
    "--model",
    type=ModelFolder(),
    help="Folder of the model that drew the traces, or its tokenizer alone: tries for each row whether the text gives "
    "the token ids that were drawn.",
)
@click.option(
    "--format",
    type=click.Choice(["parquet", "jsonl"]),
    help="If left out jsonl for openai, else parquet, which is all that verl reads.",
)
@click.option("--finished", is_flag=True, help="Leave out the traces that were cut.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object on standard output.")
def export(
    source: Path, form: str, out: Path, model: Path | None, format: str | None, finished: bool, as_json: bool
) -> int:
    """The traces of MANIFEST, or of the one batch in the folder OUT, as a data set that another trainer reads.

    trl-sft holds the token ids exactly as they were drawn. The others hold texts, which a chat template turns into ids
    again: with --model it is said how many come back.
    """
    from dail.synth.export.export import export as written

    with console.all_on_stderr():
        exported = written(source, form, out, model=model, format=format, finished=finished)
    if as_json:
        console.emit({"out": str(out), **exported.model_dump(mode="json")})
    console.say(f"{exported.rows} rows in {out / exported.file}; {out / 'README.md'} says how to train on them")
    return 0


@click.command("push")
@click.argument("folder", metavar="OUT|EXPORT|ADAPTER", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="OWNER/NAME", help="The repository; it is made if it is not there.")
@click.option("--private", is_flag=True, help="Make it private; one that is public already is refused.")
@click.option("--revision", default="main", show_default=True, help="Its branch; it is made if it is not there.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object on standard output.")
def push(folder: Path, to: str, private: bool, revision: str, as_json: bool) -> int:
    """The traces of OUT, an EXPORT or an ADAPTER to a model hub, with its card.

    HF_TOKEN holds the token, HF_ENDPOINT another hub than huggingface.co. A push that was interrupted goes on with the
    same command; what is unfinished is refused.
    """
    from dail.synth.export.push import pack
    from dail.synth.export.push import push as sent

    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint:  # another hub need not have Xet's storage, and takes files as Git LFS does
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # there is one of ours
    pack(folder)  # whatever is wrong with it is said before anything of the hub
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise UsageError("HF_TOKEN is not set; set it to a token of the hub with the right to write")
    with console.all_on_stderr(), console.exit_on_sigterm():
        pushed = sent(folder, to, token=token, private=private, revision=revision, endpoint=endpoint)
    if as_json:
        console.emit(pushed.model_dump(mode="json"))
    console.say(f"{pushed.files} files, {pushed.size_bytes} bytes, at {pushed.url}, revision {pushed.revision}")
    return 0
