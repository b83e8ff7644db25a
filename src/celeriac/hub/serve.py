"""The loop of the hub: one turn after the other, until it is stopped."""

from __future__ import annotations

import gc
import logging
import math
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import zmq

from celeriac.drivers.zmq.frames import (
    LARGEST_FRAME,
    OtherVersion,
    decode_request,
    encode_reply,
    other_version,
)
from celeriac.drivers.zmq.verbs import Client
from celeriac.errors import AccessRefused, BrokerError
from celeriac.hub.binding import bind
from celeriac.hub.clients import ZAP, Clients, Peer
from celeriac.hub.keys import ClientKeys, hub_keys
from celeriac.hub.pace import Pace
from celeriac.hub.sessions import RUNNING, Job, Sessions
from celeriac.hub.turns import Turns
from celeriac.model.clock import Clock
from celeriac.model.gate import Unreadable

__all__ = ["Hub"]

log = logging.getLogger("celeriac.hub")

TURN_JOBS: Final = 1000  # requests in one turn …
TURN_BYTES: Final = 8 << 20  # … and so many bytes, and one request more …
TURN_SECONDS: Final = 0.05  # … and so much time, and one request more: ZeroMQ takes from all clients in turn
BUSY_TURNS: Final = 16  # until the other sockets are looked at, if requests never cease
IDLE_SECONDS: Final = 1.0  # the longest sleep
GC_THRESHOLD: Final = 50_000  # net allocations before the garbage collector runs: few objects here are ever in a cycle
LOOK_SECONDS: Final = 0.5  # how often it is looked whether keys were taken away
KEEPALIVE_SECONDS: Final = 60  # a client of Celeriac's is found dead sooner: it tells ZeroMQ how often it will ping
NOW: Final = int(zmq.NOBLOCK)  # as plain numbers: pyzmq makes an enumeration's member of each flag anew
MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
READABLE: Final = int(zmq.POLLIN)
WAITING_FRAMES: Final = 100  # that ZeroMQ keeps for one connection, each way
UNSENT_BYTES: Final = 16 << 20  # that the hub keeps for a connection besides
RETRY_SECONDS: Final = 0.02  # until what could not be sent is tried again
TOLD: Final = 60.0  # seconds between two lines about frames that are none


class Hub:
    """Serves a file. `keys` is the folder of CURVE's keys; None: everybody is let in."""

    def __init__(self, binds: list[str], data: str, keys: Path | None = None, *, synchronous: str = "normal",
                 timeout: float = 10.0, clock: Clock | None = None, socket_mode: int = 0o600) -> None:  # fmt: skip
        self._binds = binds
        self._socket_mode = socket_mode
        self._keys = keys
        self._clients = Clients(ClientKeys(keys) if keys is not None else None)
        self._sessions = Sessions()
        self._turns = Turns(data, synchronous, timeout, clock or Clock(), {"hub.clients": self._infos})
        self._context = zmq.Context()
        self._wake, self._woken = socket.socketpair()
        self._pace = Pace()
        self._is_stopping = False
        self._nonsense: Counter[str] = Counter()  # frames that are none, since the last line
        self._told_at = 0.0
        self._look_at = 0.0
        self._count = 0  # requests of this turn
        self._is_empty = False  # the router had nothing more, and its descriptor tells when there is something
        self._unsent: dict[bytes, _Unsent] = {}  # by connection
        self._retry_at = 0.0  # when they are tried again

    def open(self) -> list[str]:
        """Open the file, and listen. Return the endpoints. Raises `ImproperlyConfigured`, `BrokerError`."""
        self._turns.database.connection()
        context = self._context
        self._zap = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap_fd = self._zap.fileno()
        self._router = router = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 0), (zmq.ROUTER_MANDATORY, 1), (zmq.MAXMSGSIZE, LARGEST_FRAME),
            (zmq.TCP_KEEPALIVE, 1), (zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_SECONDS),
            (zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_SECONDS // 6), (zmq.TCP_KEEPALIVE_CNT, 6),
            (zmq.SNDHWM, WAITING_FRAMES), (zmq.RCVHWM, WAITING_FRAMES), (zmq.BACKLOG, 1000),
        ):  # fmt: skip
            router.setsockopt(option, value)
        if self._keys is not None:
            self._zap.bind(ZAP)
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt(zmq.CURVE_SECRETKEY, hub_keys(self._keys)[1])
            router.setsockopt(zmq.ZAP_DOMAIN, b"celeriac")
        return [bind(router, endpoint, self._socket_mode) for endpoint in self._binds]

    @property
    def wake_fd(self) -> int:
        """A file descriptor: what is written there wakes the loop (`signal.set_wakeup_fd`)."""
        return self._wake.fileno()

    def stop(self) -> None:
        """End the loop after this turn. May be called by a signal handler, or from another thread."""
        self._is_stopping = True
        self._wake.send(b"\0")

    def run(self) -> None:
        """Serve until it is stopped."""
        poller = select.poll()  # of file descriptors: `zmq.Poller` asks each socket four times
        for one in (self._router.fileno(), self._zap_fd, self._woken.fileno()):
            poller.register(one, select.POLLIN)
        self._wake.setblocking(False)
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        self._let_in()  # a descriptor tells nothing before the first look
        busy, ran_at = 0, 0.0  # turns since the last look at the other descriptors; when the last turn began
        while not self._is_stopping:
            has_come = self._is_empty and busy < BUSY_TURNS and self._spins()
            if self._is_empty or busy >= BUSY_TURNS:
                self._wait(poller)
                busy = 0
            self._count = 0
            coming = self._receive(has_come)
            first = next(coming, None)
            now = time.monotonic()
            if first is not None or now >= min(ran_at + IDLE_SECONDS, self._turns.polls.next_at()):
                ran_at, busy = now, busy + 1
                if first is None:
                    answered = self._turns.run(())
                else:
                    is_one = self._pace.is_single and (has_come or not self._has_more())
                    answered = self._turns.run((first,) if is_one else chain((first,), coming), is_one)
                    self._pace.note(now, self._count, first.identity)
                self._answer(answered)
            if self._unsent and now >= self._retry_at:
                self._send_rest(now)
            if now >= self._look_at:
                self._look()

    def _spins(self) -> bool:
        """Look for requests instead of sleeping, if that is worth while; return whether there is one."""
        return not self._unsent and self._pace.finds(self._has_more, self._turns.polls.next_at())

    def _wait(self, poller: select.poll) -> None:
        """Wait until something comes.

        The descriptor of a ZeroMQ socket tells once that there is something new. So it is waited for only when the
        socket was found empty since the last call that sent or received.
        """
        left = min(RETRY_SECONDS if self._unsent else IDLE_SECONDS, self._turns.polls.next_at() - time.monotonic())
        left = left if self._is_empty else 0.0
        for descriptor, _ in poller.poll(math.ceil(max(0.0, left) * 1000)):
            if descriptor == self._zap_fd:
                self._let_in()
            elif descriptor == self._woken.fileno():
                self._woken.recv(4096)

    def _let_in(self) -> None:
        """Answer who may connect."""
        while True:
            try:
                asked = self._zap.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._zap.send_multipart(self._clients.answer(asked))
        self._shut_out()

    def _look(self) -> None:
        """Do what is done once in a while."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._clients.reread()
        self._shut_out()
        self._sessions.forget_idle(time.time())
        self._sessions.bound()
        self._tell_nonsense()

    def _shut_out(self) -> None:
        """Refuse what waits of connections that are shut out. What they were given stands until their leases end."""
        if not (gone := {*self._clients.shut_out}):
            return
        self._clients.shut_out.clear()
        for identity in gone:
            self._unsent.pop(identity, None)
        for session in self._sessions.known.values():
            for job in [job for job in session.running.values() if job.identity in gone]:
                self._turns.polls.drop(job)
                del session.running[job.number]
                self._refuse(job.identity, session.client, job.number)

    def _refuse(self, identity: bytes, client: str, number: int) -> None:
        text = f"The key of {client} was taken away from it, or replaced, and this client is shut out."
        self._send(identity, encode_reply(number, AccessRefused.__name__, text))

    # --- Receiving ------------------------------------------------------------------------------------

    def _has_more(self) -> bool:
        """Return whether a request is there."""
        # An exception for "nothing there" takes three times as long as this question.
        has_more = bool(self._router.getsockopt(zmq.EVENTS) & READABLE)  # type: ignore[operator]
        self._is_empty = not has_more
        return has_more

    def _receive(self, has_come: bool) -> Iterator[Job]:
        """Yield the requests that have come, as long as a turn may last. `has_come`: the first is known to be there."""
        size, router, now, end = 0, self._router, time.time(), time.monotonic() + TURN_SECONDS
        while has_come or (
            self._count < TURN_JOBS and size < TURN_BYTES and time.monotonic() < end and self._has_more()
        ):
            has_come = False
            identity = router.recv(NOW)
            peer = self._clients.known(identity)
            if peer is None:
                first = router.recv(NOW, copy=False)
                frame = first.bytes
                peer = self._clients.meet(identity, first, now)
            else:
                frame = router.recv(NOW)
            if router.getsockopt(zmq.RCVMORE):
                router.recv_multipart()
                peer = None
            if peer is None:
                self._nonsense["several parts, or an identity of its own"] += 1
                continue
            self._count += 1
            peer.requests += 1
            peer.seen_at = now
            size += len(frame)
            if (job := self._job(identity, peer, frame, now)) is not None:
                yield job

    def _job(self, identity: bytes, peer: Peer, frame: bytes, now: float) -> Job | None:
        """Return what a frame asks for, if it is not answered here."""
        try:
            request = decode_request(frame)
        except OtherVersion as error:
            self._nonsense[str(error)] += 1
            self._send(identity, other_version())
            return None
        except Unreadable as error:
            self._nonsense[str(error)] += 1
            return None
        if peer.is_shut_out:
            self._refuse(identity, peer.name, request.number)
            return None
        try:
            session = self._sessions.of(request.session, peer.name, now)
        except BrokerError as error:
            self._send(identity, encode_reply(request.number, BrokerError.__name__, str(error)))
            return None
        session.forget(request.oldest, request.over)
        for job in session.given_up(request.oldest, request.over):
            self._turns.polls.drop(job)
            session.running.pop(job.number, None)
        if (answer := session.answers.get(request.number)) is not None:
            self._send(identity, answer)
        elif (running := session.running.get(request.number)) is not None:
            running.identity = identity
        elif len(session.running) >= RUNNING:
            text = f"{RUNNING} requests of this client are under way. It asks too much at once."
            self._send(identity, encode_reply(request.number, BrokerError.__name__, text))
        else:
            job = session.running[request.number] = Job(identity, peer.name, session, request)
            return job
        return None

    # --- Answering ------------------------------------------------------------------------------------

    def _answer(self, jobs: list[Job]) -> None:
        for job in jobs:
            frame = encode_reply(job.number, job.kind, job.body)
            self._send(job.identity, frame)
            session = job.session
            session.running.pop(job.number, None)
            session.keep(job.number, frame)

    def _send(self, identity: bytes, frame: bytes) -> None:
        """Send a frame. What a slow client has no room for is kept, up to a bound; it asks again for the rest."""
        if (unsent := self._unsent.get(identity)) is not None:
            if unsent.size + len(frame) <= UNSENT_BYTES:
                unsent.add(frame)
        elif not self._sends(identity, frame):
            self._unsent[identity] = _Unsent(frame)

    def _sends(self, identity: bytes, frame: bytes) -> bool:
        """Send a frame, if there is room for it; return whether that is so. To who is gone, all is sent."""
        self._is_empty = False  # for all that is known: sending may take in what tells of new requests
        try:
            self._router.send(identity, MORE)
            self._router.send(frame, NOW)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._clients.forget(identity)
            elif error.errno == zmq.EAGAIN:
                return False
            else:
                raise
        return True

    def _send_rest(self, now: float) -> None:
        self._retry_at = now + RETRY_SECONDS
        for identity, unsent in list(self._unsent.items()):
            while unsent.frames and self._sends(identity, unsent.frames[0]):
                unsent.drop()
            if not unsent.frames:
                del self._unsent[identity]

    def _infos(self) -> list[Client]:
        return self._clients.infos(self._sessions.counts, Counter(self._turns.broker.standing()))

    def _tell_nonsense(self) -> None:
        if self._nonsense and time.monotonic() > self._told_at + TOLD:
            total, (usual, _) = self._nonsense.total(), self._nonsense.most_common(1)[0]
            log.warning("%d frames were not Celeriac's, or not this version's, and were ignored: %s", total, usual)
            self._nonsense.clear()
            self._told_at = time.monotonic()

    def close(self) -> None:
        """Close everything."""
        self._router.close(0)
        self._zap.close(0)
        self._context.term()
        self._wake.close()
        self._woken.close()
        self._turns.close()


class _Unsent:
    """Answers for which a connection had no room."""

    __slots__ = ("frames", "size")

    def __init__(self, frame: bytes) -> None:
        self.frames = deque([frame])
        self.size = len(frame)

    def add(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.size += len(frame)

    def drop(self) -> None:
        self.size -= len(self.frames.popleft())
