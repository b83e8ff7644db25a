"""Sessions: which requests of a client were answered, and how, so that a repeated one gets the same answer.

A client numbers its requests, and says with each which one is the oldest that it still waits for, and which later ones
are over: those answers are forgotten. What is kept of one session is bounded, and of all together; beyond that, the
oldest answers are dropped, and the request, repeated, is carried out again, which each verb stands (receipts, tokens,
ids). So is the number of sessions that one client has.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from celeriac.drivers.zmq.frames import Request
from celeriac.errors import BrokerError

__all__ = ["ALL_BYTES", "RUNNING", "SESSIONS", "Job", "Session", "Sessions"]

KEPT_BYTES: Final = 16 << 20  # of the answers of one session …
KEPT_ANSWERS: Final = 4096  # … and so many
ALL_BYTES: Final = 256 << 20  # of the answers of all sessions
RUNNING: Final = 4096  # requests of one session that may be under way
SESSIONS: Final = 10_000  # of one client: each thread and each event loop of its processes has one
IDLE_SECONDS: Final = 300.0
LOOKED_AT_SECONDS: Final = 30.0  # how often idle sessions are looked for


class Job:
    """One request."""

    __slots__ = ("arguments", "body", "client", "identity", "is_answered", "kind", "number", "repeated", "request",
                 "session", "verb")  # fmt: skip

    def __init__(self, identity: bytes, client: str, session: Session, request: Request) -> None:
        self.identity = identity  # of the connection that its answer goes to
        self.client = client
        self.session = session
        self.request = request
        self.number = request.number
        self.verb = request.verb
        self.repeated = request.repeated
        self.arguments: tuple[Any, ...] = ()
        self.is_answered = False
        self.kind = ""  # the name of an error
        self.body: Any = None  # the result, or the text of the error

    def answer(self, body: Any, kind: str = "") -> None:
        """Set the answer."""
        self.is_answered, self.body, self.kind = True, body, kind


class Session:
    """One session."""

    def __init__(self, name: str, now: float) -> None:
        self.client = name
        self.seen_at = now
        self.answers: dict[int, bytes] = {}
        self.size = 0
        self.running: dict[int, Job] = {}

    def keep(self, number: int, answer: bytes) -> None:
        """Remember an answer."""
        self.answers[number] = answer
        self.size += len(answer)
        while self.size > KEPT_BYTES or len(self.answers) > KEPT_ANSWERS:
            self._drop(next(iter(self.answers)))

    def forget(self, oldest: int, over: list[int]) -> None:
        """Drop the answers that the client has: before the oldest that it waits for, and some later ones."""
        for number in over:
            if number in self.answers:
                self._drop(number)
        answers = self.answers
        while answers:
            number = next(iter(answers))
            if number >= oldest:
                break
            self._drop(number)

    def given_up(self, oldest: int, over: list[int]) -> list[Job]:
        """Return waiting requests that the client waits for no more."""
        given_up = [self.running[number] for number in over if number in self.running]
        if self.running and next(iter(self.running)) < oldest:
            given_up += [job for number, job in self.running.items() if number < oldest]
        return given_up

    def drop_all(self) -> int:
        """Drop all answers; return their size."""
        size, self.size = self.size, 0
        self.answers.clear()
        return size

    def _drop(self, number: int) -> None:
        self.size -= len(self.answers.pop(number))


class Sessions:
    """All sessions, by their names."""

    def __init__(self) -> None:
        self.known: dict[bytes, Session] = {}
        self.counts: Counter[str] = Counter()  # by client
        self._looked_at = 0.0

    def of(self, id: bytes, client: str, now: float) -> Session:
        """Return a session of a client; a new one if it is not known, or another client's.

        Raises `BrokerError` if the client has too many.
        """
        session = self.known.get(id)
        if session is None or session.client != client:
            if self.counts[client] >= SESSIONS:
                raise BrokerError(
                    f"{client} has {SESSIONS:,} sessions, the most that one client may have: each thread and each "
                    f"event loop of a process has one. Use fewer at once, or give some programs a key of their own "
                    f"(`celeriac hub keys NAME`). Sessions that ask nothing for {IDLE_SECONDS:g} s are dropped."
                )
            if session is not None:
                self._drop(id, session)
            session = self.known[id] = Session(client, now)
            self.counts[client] += 1
        session.seen_at = now
        return session

    def bound(self) -> None:
        """If the answers of all sessions are too many, drop those of sessions that were heard of least recently."""
        size = sum(session.size for session in self.known.values())
        if size > ALL_BYTES:
            for session in sorted(self.known.values(), key=lambda session: session.seen_at):
                size -= session.drop_all()
                if size <= ALL_BYTES:
                    break

    def forget_idle(self, now: float) -> None:
        """Drop sessions of which nothing was heard for long."""
        if now < self._looked_at + LOOKED_AT_SECONDS:
            return
        self._looked_at = now
        for id, session in list(self.known.items()):
            if not session.running and session.seen_at < now - IDLE_SECONDS:
                self._drop(id, session)

    def _drop(self, id: bytes, session: Session) -> None:
        del self.known[id]
        self.counts[session.client] -= 1
        if not self.counts[session.client]:
            del self.counts[session.client]
