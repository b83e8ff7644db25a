"""The Tokyo Tyrant driver: `protocol` has the requests and replies of its binary protocol."""
