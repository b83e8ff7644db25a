"""Redis, as the broker and the backend share it.

`keys` is the page of every key and script. `address` reads URLs and opens sockets; `connection` (blocking), `wire`
(asyncio) and `ear` (pub/sub, both) speak on them; `server` keeps them, and runs scripts; `refusals` makes Redis's
errors ours.
"""
