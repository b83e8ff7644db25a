"""The Redis driver, which the broker and the backend share.

`keys` lists every key and script. `address` parses URLs and opens sockets; `connection` (blocking), `wire` (asyncio)
and `pubsub` use them, and `opening` checks new connections. `server` keeps connections and runs scripts (see `calls`);
`error_translation` translates Redis's errors.
"""
