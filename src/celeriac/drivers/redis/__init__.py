"""Redis, as the broker and the backend share it.

`keys` is the page of every key and script. `address` reads URLs and opens sockets; `connection` (blocking), `wire`
(asyncio) and `pubsub` use them; `server` keeps them, and runs scripts; `error_translation` turns the errors of Redis
into ours.
"""
