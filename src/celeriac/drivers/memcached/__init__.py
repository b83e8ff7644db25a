"""The Memcached driver: `protocol` has the requests and replies, `servers` finds the server of a key."""
