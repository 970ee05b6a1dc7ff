"""`dail`: a table of verbs. A room is imported only when one of its verbs is used, so `--help` is instant.

Exit codes: 0 all good; 1 stopped by an error; 2 wrong usage or input; 3 some items failed; 4 the batch failed;
5 cancelled or expired; 6 stopped by the gate; 130 interrupted.

    dail --help              # the verbs
    dail train --help        # one verb, its options and its settings
    dail settings synthesis  # the settings of one table
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from dail.synth.core.errors import DailError
from dail.synth.core.owner import end_with_owner

VERBS = {
    "demo": ("dail.serve.demo:demo", "The whole story on this machine: serve, synthesise, train, evaluate, report."),
    "serve": ("dail.serve.commands:serve", "Start the API that takes batches of expert solutions."),
    "worker": ("dail.synth.commands:worker", "Lease units from an API and roll them out on this Ray cluster."),
    "submit": ("dail.serve.commands:submit", "POST a file of expert solutions as a batch."),
    "watch": ("dail.serve.commands:watch", "Follow a batch until it ends."),
    "list": ("dail.serve.commands:list_batches", "All batches of an API."),
    "cancel": ("dail.serve.commands:cancel", "Stop a batch and keep what is committed."),
    "retry": ("dail.serve.commands:retry", "New attempts for what failed in a batch."),
    "delete": ("dail.serve.commands:delete", "Delete an ended batch."),
    "workers": ("dail.serve.commands:workers", "Who works for an API, and what each holds."),
    "token": ("dail.serve.token_commands:token", "Who may ask an API: make, list and revoke tokens."),
    "store": ("dail.serve.store_commands:store", "Copies of an API's store: backup, restore, check."),
    "orphans": ("dail.serve.orphan_commands:orphans", "What lies among an API's objects and nothing names."),
    "results": ("dail.serve.commands:results", "What came of a batch: counts, failures, files, the next command."),
    "synth": ("dail.synth.commands:synth", "Expert solutions to shards on this machine, without a server."),
    "inspect": ("dail.synth.commands:inspect", "Read traces: a table, one by its writers, or a file for a browser."),
    "select": ("dail.synth.commands:select", "Choose which traces of a manifest are trained on."),
    "doctor": ("dail.synth.commands:doctor", "Look at machine, model and expert solutions, and forecast a run."),
    "waypoints": (
        "dail.synth.commands:waypoints",
        "What is found as waypoints, and what the negative reference is told.",
    ),
    "prompts": ("dail.synth.commands:prompts", "Import the authors' prompts from a checkout of their repository."),
    "calibrate": (
        "dail.train.studies.calibrate_commands:calibrate",
        "Which tau to draw traces with, measured on the training set.",
    ),
    "train": ("dail.train.commands:train", "Train a LoRA adapter on a manifest."),
    "cache": ("dail.train.commands:cache", "Compute the references of a manifest's traces once, for runs to come."),
    "grpo": ("dail.train.commands:grpo", "Train by rewards for right answers: GRPO, the paper's baseline."),
    "loop": ("dail.serve.loop:loop", "Rounds of synth, select and train: each adapter is the next round's student."),
    "paper": (
        "dail.serve.paper.commands:paper",
        "The paper's tables and figures: runs of the other verbs, beside its numbers.",
    ),
    "average": ("dail.train.commands:average", "The running mean of adapters, a reference that follows slowly."),
    "merge": ("dail.train.commands:merge", "An adapter into its base model's weights: a model that needs no adapter."),
    "eval": ("dail.train.evals.commands:evaluate", "pass@k of base and adapter, and a report with pictures."),
    "curate": (
        "dail.train.studies.curate_commands:curate",
        "Choose the problems of a pool that a model fails at: a training set and a validation split.",
    ),
    "compare": ("dail.train.evals.commands:compare", "DAIL beside its control runs: what they explain of its gain."),
    "export": (
        "dail.synth.export.commands:export",
        "Traces as a data set that another trainer reads: TRL, verl, messages.",
    ),
    "push": ("dail.synth.export.commands:push", "Traces, an export or an adapter to a model hub."),
    "settings": ("dail.serve.listing:settings", "Every setting: what it does, its bound, its default."),
    "completion": ("dail.serve.completion:completion", "A script that makes bash, zsh or fish complete `dail`."),
}
# What each package, or one verb of it, needs beyond `pip install dail`: a missing import is answered with the line that
# cures it.
_EXTRAS = {"synth": "worker", "train": "train", "push": "data", "calibrate": "worker,train"}


class Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # not the group's own way, which would import the room of every verb for its help
        verbs = [CompletionItem(verb, help=about) for verb, (_, about) in VERBS.items() if verb.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        from dail.synth.core.console import speaking

        try:
            with speaking():
                return super().invoke(ctx)
        except ModuleNotFoundError as error:  # of a verb's own imports, or of what it imports on use
            verb = ctx.invoked_subcommand
            room = VERBS[verb][0].split(".")[1] if verb in VERBS else ""
            extra = _EXTRAS.get(verb or "", _EXTRAS.get(room))
            if extra is None or (error.name or "").partition(".")[0] == "dail":
                raise
            raise click.ClickException(
                f"`dail {verb}` needs the package {error.name}; run: pip install 'dail[{extra}]'"
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, about) for verb, (_, about) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dail")
def dail() -> None:
    """Turns expert solutions into reasoning traces a model can learn from, and trains on them."""


def _tell_programs(facts: dict[str, Any]) -> None:
    """With --json, standard output has an object whatever fails."""
    if "--json" in sys.argv[1:]:
        from dail.synth.core.console import emit

        emit(facts)


def main() -> None:
    end_with_owner()
    try:
        code = dail.main(standalone_mode=False)
    except DailError as error:
        from dail.synth.core.console import say

        say(f"error: {error}")
        _tell_programs(error.facts())
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        _tell_programs({"error": "usage", "message": error.format_message(), "exit_code": error.exit_code})
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("interrupted; rerun the same command to go on", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
