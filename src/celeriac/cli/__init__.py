"""The `celeriac` command: one module per subcommand; `root.py` lists them."""

from celeriac.cli.root import main

__all__ = ["main"]
