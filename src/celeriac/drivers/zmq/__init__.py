"""The driver of the hub: what a client says to it over ZeroMQ, and what the hub understands.

    conversation   numbered requests, repeated after each new connection; no I/O
    channel        drives a conversation for one thread, blocking
    session        drives one for an event loop
    server         lends channels and sessions; turns trouble into Celeriac's errors
    frames, verbs  the protocol, which `celeriac.hub` shares;  `parcels`: messages that the hub cannot open
"""
