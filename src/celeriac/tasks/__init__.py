"""Tasks: their registration, calls to them, the running of attempts, and results."""
