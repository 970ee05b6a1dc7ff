"""`dail completion`: the script that makes a shell complete verbs, options, settings and presets.

eval "$(dail completion bash)"
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes `dail` in SHELL: verbs, options, --set and --config.

    \b
    bash: eval "$(dail completion bash)" in ~/.bashrc
    zsh:  eval "$(dail completion zsh)" in ~/.zshrc, after compinit
    fish: dail completion fish > ~/.config/fish/completions/dail.fish
    """
    found = get_completion_class(shell)
    assert found is not None, "click knows these three"
    click.echo(found(context.find_root().command, {}, "dail", "_DAIL_COMPLETE").source())
