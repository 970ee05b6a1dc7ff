"""What the files of deploy/ run: every `dail …` in a Dockerfile, a YAML file or a script, read as the verbs read it.

found(ROOT / "deploy/compose.yaml")   [["worker", "--model", "/models/model", "--actors", "1"], …]
check(["worker", "--nonsense"])       NoSuchOption
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from dail.serve.cli import VERBS, dail
from dail.synth.core.settings import read

_LINE = re.compile(r"(?:^|[\s;&/\"])dail\s+(?=[a-z])")
_DAIL = re.compile(r'^"?(?:\S*/)?\$?dail"?$')
_ENDS = ("&", "&&", "|", ";", ">", "#")


def found(file: Path) -> list[list[str]]:
    text = file.read_text("utf-8")
    if file.suffix == ".yaml":
        texts = [one for document in yaml.safe_load_all(text) for one in _strings(document)]
    elif file.name == "Dockerfile":
        texts = [shlex.join(json.loads(words)) for words in re.findall(r"^CMD (\[.+\])$", text, re.MULTILINE)]
    else:
        texts = [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    texts += [line.strip("# ") for line in re.findall(r"^#.+$", text.replace("\\\n#", " "), re.MULTILINE)]
    return [command for one in texts for command in of_text(one)]


def _strings(node: Any) -> Iterator[str]:
    """All texts; a list of words is one."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        if isinstance(node.get("command"), list) and isinstance(node.get("args"), list):
            yield shlex.join(map(str, node["command"] + node["args"]))
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, list):
        if all(isinstance(one, str) for one in node):
            yield shlex.join(node)
        for value in node:
            yield from _strings(value)


def of_text(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        if "dail" not in line:
            continue
        try:
            words = shlex.split(line)
        except ValueError:  # prose, with an apostrophe
            continue
        for place, word in enumerate(words):
            if _DAIL.match(word) and words[place + 1 : place + 2] and words[place + 1] in VERBS:
                yield list(_to_its_end(words[place + 1 :]))
            elif _LINE.search(word):  # sh -c "… dail worker …"
                yield from of_text(word)


def _to_its_end(words: list[str]) -> Iterator[str]:
    for word in words:
        if word.startswith(_ENDS):
            return
        yield word.rstrip(";`")


def check(words: list[str]) -> None:
    """Options, their number of values, what is required, presets and settings; no value is looked at, since it may be
    a place of another machine. What stands for `$@` is the caller's."""
    verb, arguments = words[0], [word for word in words[1:] if word != "$@"]
    command = dail.get_command(click.Context(dail), verb)
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), arguments.pop(0))
    assert command is not None, f"there is no verb dail {shlex.join(words)}"
    given, rest, _ = command.make_parser(click.Context(command, info_name=verb)).parse_args(list(arguments))
    if "--help" in arguments or "$@" in words:
        return
    assert not rest, f"dail {shlex.join(words)}: what are {rest}?"
    missing = [one.name for one in command.params if one.required and one.name not in given]
    assert not missing, f"dail {shlex.join(words)}: {missing} are missing"
    if given.get("config") or given.get("overrides"):
        read(verb, given.get("config"), tuple(given.get("overrides", ())))
