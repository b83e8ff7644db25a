"""What the backend on SQL databases is made of, through SQLAlchemy Core.

`address.py` reads `db+…://` URLs, `database.py` keeps connections and transactions, `time_limits.py` bounds their
waits, `error_translation.py` has the errors of all drivers. `schema.py` defines the tables; `outcomes.py`,
`workflows.py` and `schedules.py` have the statements on them.
"""
