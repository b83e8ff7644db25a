"""MongoDB, reached through PyMongo: connections, and what the backend asks of the server.

Functions that ask are generators of requests (`requests.py`). `Server` carries these out with a blocking client, or
with that of the running event loop. So each function is written once.
"""
