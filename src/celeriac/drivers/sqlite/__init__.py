"""The SQLite driver, which the broker and the backend share.

`database` runs transactions on the connections that `opening` opens, and wakes waiting processes (`notify`); or it
writes inside a transaction of the caller's (`borrowed`). `schema` has the tables; `outcomes` and `workflows` write to
those that broker and backend share.
"""
