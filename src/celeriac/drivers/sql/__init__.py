"""What the backend on SQL databases is made of, through SQLAlchemy Core.

`address.py` reads `db+…://` URLs, `database.py` keeps connections and transactions, `time_limits.py` bounds their
waits, `arrays.py` has PostgreSQL's sent in binary, `error_translation.py` has the errors of all drivers. `schema.py`,
`history_tables.py` and `columns.py` define the tables; `outcomes.py`, `workflows.py`, `schedules.py`, `claims.py` and
`history.py` have the statements on them.
"""
