"""Workflows (chains, groups, chords) and maps over iterables: signatures that are sent and run together."""
