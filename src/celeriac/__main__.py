"""`python -m celeriac`: the command."""

from celeriac.cli import main

if __name__ == "__main__":
    main()
