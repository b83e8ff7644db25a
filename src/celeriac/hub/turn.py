"""What is known during one turn of the hub. The parts write to it; `turns.py` reads it."""

from __future__ import annotations

__all__ = ["Turn"]


class Turn:
    """One turn: the request that is being carried out, and who has to look after it."""

    def __init__(self) -> None:
        self.repeated = False  # the request was sent before, and this hub does not know it
        self.client = ""  # who has sent it
        self.is_alone = False  # it is the only request of the turn, and nobody waits for messages
        self.channels: set[str] = set()  # on which something was broadcast
        self.is_open = False  # any queue may have messages that were not written in this turn
        self.is_lined_up = False  # what is due was moved to its line: of many a part, so that a turn is short

    def look_everywhere(self) -> None:
        """Have all who wait for messages look."""
        self.is_open = True

    def clear(self) -> None:
        """Begin the next turn."""
        self.channels.clear()
        self.is_open = self.is_lined_up = False
