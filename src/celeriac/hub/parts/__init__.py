"""The parts of the hub: each has the methods that the verbs of its name are (`drivers/zmq/verbs.py`)."""
