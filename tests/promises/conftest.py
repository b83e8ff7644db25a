"""Every test of a promise has a stage of its own."""

from tests.promises.harness import stage

__all__ = ["stage"]
