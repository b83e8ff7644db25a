"""Pools: they run tasks in processes or threads, and report how each attempt ended."""
