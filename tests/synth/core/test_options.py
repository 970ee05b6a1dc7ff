"""Completion and help of `--config` and `--set`, as a shell and a reader meet them."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from dail.serve.cli import VERBS, dail
from dail.synth.core.settings import settings_of, tables_of


def completed(*words: str) -> list[str]:
    """What a shell would offer for the last word."""
    *args, incomplete = words
    return [item.value for item in ShellComplete(dail, {}, "dail", "_DAIL_COMPLETE").get_completions(args, incomplete)]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("train", "--set", "train.ga"), ["train.gamma="]),
        (("train", "--set", "gam"), ["train.gamma="]),
        (("train", "--set", "objective=n"), ["objective=negative_kl", "objective=nll"]),
        (("synth", "--set", "synthesis.thinking="), ["synthesis.thinking=true", "synthesis.thinking=false"]),
        (("worker", "--set", "tau"), []),
        (("eval", "--config", "qwen3"), ["qwen3", "qwen3-8b-official", "qwen3-8b-paper-v1"]),
        (("sett",), ["settings"]),
        (("settings", "sy"), ["synthesis"]),
    ],
)
def test_the_shell_completes(words: tuple[str, ...], wanted: list[str]):
    assert completed(*words) == wanted


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1", "1e999", "x"])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--decay", ["average", "adapter", "--out", "mean"]),
        ("--grade-timeout", ["select", "out", "--keep", "all"]),
        ("--idle-exit", ["worker"]),
    ],
)
def test_a_number_on_the_command_line_is_finite_and_within_its_bounds(option: str, words: list[str], number: str):
    ended = CliRunner().invoke(dail, [*words, option, number])
    assert ended.exit_code == 2 and f"Invalid value for '{option}'" in ended.output


@pytest.mark.parametrize("verb", [verb for verb in VERBS if tables_of(verb)])
def test_the_help_of_a_verb_shows_its_settings_and_no_others(verb: str):
    said = CliRunner().invoke(dail, [verb, "--help"], terminal_width=300, max_content_width=300).output
    said = " ".join(said.split())
    for table in ("engine", "worker", "synthesis", "train", "eval"):
        assert (f"Settings of [{table}]" in said) == (table in tables_of(verb))
    for one in (one for table in tables_of(verb) for one in settings_of(table).values()):
        assert one.name in said and f"{one.sentence} [{one.about}]" in said
    assert "--config NAME|FILE.toml" in said and "qwen3-8b-paper-v1" in said
