"""Reference pages, read off the program: settings, verbs, the HTTP API, a shard's columns, the Python door.

python deploy/docs/reference.py FOLDER    # what `make docs` does first
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dail.serve.cli import VERBS, dail
from dail.serve.listing import environment
from dail.synth.core.settings import TABLES, presets, settings_of
from dail.synth.schema.shards import SCHEMA, SCHEMA_VERSION, TraceRow

ROOT = Path(__file__).parents[2]
DOORS = ("dail.synth", "dail.train", "dail.train.evals", "dail.train.studies")


def write_reference(folder: Path) -> None:
    """One Markdown page each; a page that says what it said before is left alone, so that a rebuild is quick."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"settings": settings, "verbs": verbs, "http": http, "columns": columns, "python": python}
    for name, lines in pages.items():
        text = "\n".join(lines()).rstrip() + "\n"
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def settings() -> Iterator[str]:
    yield "# All settings"
    yield "\n`--set TABLE.NAME=VALUE` on a command line, or a line under `[TABLE]` in a file for `--config`."
    for table, about in TABLES.items():
        used = ", ".join(f"`dail {verb}`" for verb in about.verbs)
        yield f"\n## {table}\n\n{about.about} ({used}).\n"
        yield from _table(
            ("setting", "what it says", "takes", "default"),
            (
                (f"`{one.name}`", one.sentence, one.kind, "required" if one.is_required else _code(one.default))
                for one in settings_of(table).values()
            ),
        )
    yield "\n## Environment\n"
    yield from _table(("variable", "what it says"), ((f"`{name}`", said) for name, said in environment().items()))
    yield "\n## Presets\n"
    for name, path in presets().items():
        yield f"### `{name}`\n\n```toml\n{path.read_text('utf-8').rstrip()}\n```\n"


def verbs() -> Iterator[str]:
    yield "# All verbs"
    yield "\nWhat `--help` says of each. Exit codes: 0 all good, 1 stopped, 2 wrong usage or input,"
    yield "3 some items failed, 4 the batch failed, 5 cancelled, 6 the gate stopped it,"
    yield "130 and 143 interrupted by Ctrl-C and by SIGTERM."
    for name in VERBS:
        context = click.Context(dail, info_name="dail")
        command = dail.get_command(context, name)
        assert command is not None
        yield f"\n## dail {name}\n"
        yield from _help(command, click.Context(command, info_name=name, parent=context))


def _help(command: click.Command, context: click.Context) -> Iterator[str]:
    context.max_content_width = 100
    yield f"```text\n{command.get_help(context).rstrip()}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield f"\n### dail {context.info_name} {name}\n"
            yield from _help(below, click.Context(below, info_name=name, parent=context))


def http() -> Iterator[str]:
    page = json.loads((ROOT / "serve" / "openapi.json").read_text("utf-8"))
    yield "# HTTP API"
    yield "\nEvery path, from the server's own page (`serve/openapi.json`, or `/openapi.json` of a server)."
    yield "Refusals are `application/problem+json`; [errors by their code](../errors.md) says what each means."
    for path, methods in page["paths"].items():
        for method, about in methods.items():
            yield f"\n## {method.upper()} {path}\n"
            yield about.get("description") or about.get("summary", "")
            rows = [(f"`{one['name']}`", one["in"], _shape(one["schema"])) for one in about.get("parameters", [])]
            rows += [("body", kind, _shape(one.get("schema", {}))) for kind, one in _contents(about, "requestBody")]
            if rows:
                yield ""
                yield from _table(("takes", "where", "what"), rows)
            yield ""
            answers = [
                (code, answer.get("description", ""), ", ".join(_shape(c.get("schema", {})) for c in _bodies(answer)))
                for code, answer in about["responses"].items()
            ]
            yield from _table(("answers", "when", "what"), answers)
    yield "\n## What is sent and answered\n"
    for name, schema in page["components"]["schemas"].items():
        yield f"### {name}\n\n{schema.get('description', '')}\n"
        wanted = schema.get("required", [])
        yield from _table(
            ("field", "type", "what"),
            (
                (f"`{key}`{'' if key in wanted else ' (optional)'}", _shape(one), one.get("description", ""))
                for key, one in schema.get("properties", {}).items()
            ),
        )
        yield ""


def _contents(about: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(about.get(name, {}).get("content", {}).items())


def _bodies(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return list(answer.get("content", {}).values())


def _shape(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words: a name of the components, or a type with what bounds it."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(map(_shape, schema[several]))
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any")
    return f"{kind} of {_shape(schema['items'])}" if kind == "array" and "items" in schema else str(kind)


def columns() -> Iterator[str]:
    yield "# Columns of a shard"
    yield f"\nSchema version {SCHEMA_VERSION}. A Parquet file of row groups, each of them one trace."
    yield "`dail.synth.TraceRow` is a row, and `read_traces` reads them. A row counts if a manifest names it.\n"
    source = inspect.getsource(TraceRow)
    said = dict(re.findall(r"^    (\w+): .*?#\s*(.*)$", source, re.MULTILINE))
    yield from _table(
        ("column", "type", "what"),
        (
            (f"`{one.name}`", f"`{one.type}`{'' if one.nullable else ', never null'}", said.get(one.name, ""))
            for one in SCHEMA
        ),
    )


def python() -> Iterator[str]:
    yield "# Python door"
    for door in DOORS:
        module = importlib.import_module(door)
        yield f"\n## {door}\n\n```text\n{inspect.cleandoc(module.__doc__ or '')}\n```"
        for name in module.__all__:
            yield f"\n### {door}.{name}\n"
            yield f"```text\n{_about(name, getattr(module, name))}\n```"


def _about(name: str, what: Any) -> str:
    doc = inspect.getdoc(what) or ""
    if not callable(what):
        return doc
    if dataclasses.is_dataclass(what) or hasattr(what, "model_fields"):
        kinds = {key: getattr(kind, "__name__", str(kind)) for key, kind in inspect.get_annotations(what).items()}
        fields = "\n".join(f"    {key}: {kind}" for key, kind in kinds.items() if not key.startswith("_"))
        return f"class {name}\n{fields}\n\n{doc}"
    try:
        return f"{name}{inspect.signature(what)}\n\n{doc}"
    except (TypeError, ValueError):
        return f"{name}\n\n{doc}"


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield "| " + " | ".join(_cell(str(cell)) for cell in row) + " |"


def _cell(text: str) -> str:
    plain = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"(?<!\\)\|", r"\\|", plain).replace("<", "&lt;") if "`" not in plain else plain.replace("|", "\\|")


def _code(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value, default=str)}`"


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
