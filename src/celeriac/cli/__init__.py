"""The command `celeriac`: one file per command; `root.py` has their table."""

from celeriac.cli.root import main

__all__ = ["main"]
