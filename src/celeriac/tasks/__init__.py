"""Tasks, calls to them, and their results."""
