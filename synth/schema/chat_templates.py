"""A model's chat template as its files have it: which there is, and which names it reads from outside.

A template is a program. What it reads decides which settings it can be given (`enable_thinking`, `reasoning_effort`)
and whether it prints the date, so it is asked of its syntax tree: a word in a comment is no switch. Only bytes are read
here, without transformers, so that the API knows as much as a worker.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes

from dail.synth.core.errors import UsageError

DATE = "strftime_now"  # by which templates ask for the date
FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json", "special_tokens_map.json")
NAMED = "additional_chat_templates"
# What every template is given, whatever the settings say.
GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "raise_exception"}
_JINJA = {"loop", "caller", "varargs", "kwargs", "self"}  # what the language itself gives


class _Generation(jinja2.ext.Extension):
    """Reads `{% generation %}`, by which templates mark an assistant's words; nothing is rendered here."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way to say so

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


_SYNTAX = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _Generation])


def chat_template(folder: Path) -> str:
    """The template that speaks where no tools are: the only one, else the one named default.

    Raises:
        UsageError: there is none, since one is never guessed, or a file cannot be read.
    """
    named = _templates(folder)
    if "default" in named:
        return named["default"]
    if named:
        raise UsageError(
            f"{folder} has chat templates named {', '.join(sorted(named))} and none named default; save the one that "
            "is meant as chat_template.jinja"
        )
    raise UsageError(f"{folder} has no chat template; save one as chat_template.jinja, it is never guessed")


def _templates(folder: Path) -> dict[str, str]:
    file, more = folder / "chat_template.jinja", folder / NAMED
    try:
        found = _in_config(folder / "chat_template.json") | _in_config(folder / "tokenizer_config.json")
        if file.is_file():
            found = {"default": file.read_text("utf-8")}
        return {one.stem: one.read_text("utf-8") for one in sorted(more.glob("*.jinja"))} | found
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"the chat template of {folder} cannot be read: {error}; restore the file") from None


def _in_config(file: Path) -> dict[str, str]:
    """One text, or several by name: as an object, or as a list of objects with name and template."""
    settings = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(template, list):
        template = {one["name"]: one["template"] for one in template}
    if isinstance(template, dict):
        return {str(name): str(text) for name, text in template.items()}
    return {"default": template} if isinstance(template, str) else {}


def names_read(template: str) -> tuple[str, ...]:
    """The names that a template reads and that no conversation gives it: its switches, and `strftime_now`. Sorted.

    A name that it sets itself where nobody gave it one is such a name too: it reads it before it sets it.

    Raises:
        UsageError: it is no Jinja template.
    """
    try:
        tree = _SYNTAX.parse(template)
    except jinja2.TemplateError as error:
        raise UsageError(f"the chat template is no Jinja template: {error}; restore its file") from None
    macros = (macro.name for macro in tree.find_all(jinja2.nodes.Macro))
    read = set(_read(tree, {*GIVEN, *_JINJA, *_SYNTAX.globals, *macros}))
    return tuple(sorted(name for name in read if not name.endswith("_token")))


def _read(node: jinja2.nodes.Node, given: set[str]) -> Iterator[str]:
    """The names that are read before anything gives them a value, in the order in which they are looked up.

    Args:
        given: names with a value; what is set on the way is added, but for what is set inside a macro.
    """
    if isinstance(node, jinja2.nodes.Name):
        if node.ctx != "load":
            given.add(node.name)
        elif node.name not in given:
            yield node.name
        return
    if isinstance(node, jinja2.nodes.Macro | jinja2.nodes.CallBlock):
        given = set(given)  # its arguments are names inside it alone
    for part in _parts(node):
        yield from _read(part, given)


def _parts(node: jinja2.nodes.Node) -> list[jinja2.nodes.Node]:
    """A value comes before the name that it is given, whatever their order in the text."""
    match node:
        case jinja2.nodes.Assign():
            return [node.node, node.target]
        case jinja2.nodes.AssignBlock():
            return [*node.body, node.target]
        case jinja2.nodes.With():
            return [*node.values, *node.targets, *node.body]
        case jinja2.nodes.Macro():
            return [*node.defaults, *node.args, *node.body]
        case jinja2.nodes.CallBlock():
            return [node.call, *node.defaults, *node.args, *node.body]
        case jinja2.nodes.For():
            rest = [node.target, *([node.test] if node.test else []), *node.body, *node.else_]
            return [node.iter, *rest]
        case _:
            return list(node.iter_child_nodes())
