"""What the pages of errors and of questions name is there: settings, variables, verbs and their options."""

import re

import click
import pytest

from dail.serve.cli import dail
from dail.serve.listing import environment
from dail.synth.core.settings import TABLES, settings_of
from tests.conftest import ROOT

PAGES = {name: (ROOT / "deploy" / "docs" / name).read_text() for name in ("errors.md", "faq.md")}


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_and_variable_that_a_page_names_is_there(page: str) -> None:
    known = {one.name for table in TABLES for one in settings_of(table).values()}
    assert set(re.findall(rf"\b((?:{'|'.join(TABLES)})\.[a-z]\w*)", PAGES[page])) - known == set()
    assert set(re.findall(r"DAIL_\w+", PAGES[page])) - set(environment()) == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_is_there(page: str) -> None:
    for verb, words in re.findall(r"`(?:torchrun [^`]*\(which )?dail\)? ([a-z]+)([^`]*)`", PAGES[page]):
        command = dail.get_command(click.Context(dail), verb)
        assert command is not None, verb
        options = re.findall(r"--[a-z-]+", words)
        assert set(options) - known_options(command, words.split()) == set(), f"dail {verb}{words}"


def known_options(command: click.Command, words: list[str]) -> set[str]:
    """Of a verb, or of the part of it that is named, as `dail token new`."""
    if isinstance(command, click.Group) and words[:1] and (part := command.commands.get(words[0])):
        command = part
    return {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
