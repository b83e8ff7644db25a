"""`celeriac completion`: the shell's part of completing commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    \b
    Examples:
      eval "$(celeriac completion bash)"         # in ~/.bashrc
      eval "$(celeriac completion zsh)"          # in ~/.zshrc
      celeriac completion fish | source          # in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"This version of click knows nothing of {shell}; pip install -U click.")
    click.echo(found(context.find_root().command, {}, "celeriac", "_CELERIAC_COMPLETE").source())
