"""Pools: what runs tasks, in processes or threads, and reports how each attempt ended."""
