"""`celeriac completion`: shell completion scripts."""

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
        raise click.ClickException(f"The installed version of click has no completion for {shell}. "
                                   "Upgrade it: pip install -U click.")  # fmt: skip
    click.echo(found(context.find_root().command, {}, "celeriac", "_CELERIAC_COMPLETE").source())
