"""The hub: serves a SQLite file to other machines, over ZeroMQ. `celeriac hub` runs it; `drivers/zmq` are its clients.

    serve      the loop: receives what has come from all clients, has it carried out, sends the answers
    turns      carries out all requests of one turn of the loop in one transaction (group commit)
    parts/     the verbs, by part: the SQLite adapters behind the ports, with parcels for messages
    polls      requests that wait for a message, an outcome, a broadcast
    sessions   what was answered, so that a repeated request gets the same answer
    clients    who may come in (CURVE, ZAP);  `keys`: their files

One thread does all of it. SQLite is the only thing that takes time, and a second thread would only wait for it, and
make each request pass from one thread to another and back. ZeroMQ's own thread keeps the connections alive meanwhile.
"""
