"""The SQLite driver, which the broker and the backend share.

`database` runs transactions on the connections that `opening` opens, and wakes waiting processes (`notify`). `schema`
has the tables; `borrowed` is a caller's own connection, in whose transaction they are written; `outcomes` and `workflows` write to those that broker and backend share.
"""
