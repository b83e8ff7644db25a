"""The STOMP 1.2 client of the STOMP broker and of results over it: frames, connections, procedures."""
