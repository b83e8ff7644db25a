"""What the memory broker and the memory backend share: one store for each name, within one process."""

from celeriac.drivers.memory.store import Store, forget, store

__all__ = ["Store", "forget", "store"]
