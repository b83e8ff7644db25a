"""`python -m celeriac.cli`: runs the `celeriac` command when its script is not on the path."""

from __future__ import annotations

from celeriac.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="celeriac")
