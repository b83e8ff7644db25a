"""One MongoDB database, for every thread, event loop and process that uses it.

Threads share a blocking client, and each event loop has an asynchronous one (`Session`). Clients are made on first use,
by the process that uses them: a forked child makes its own, and leaves its parent's alone. Each request ends at the
time-out, whatever happens to the server. PyMongo finds it when it is back, and sends a write again where that is safe.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from bson.errors import BSONError
from pymongo import AsyncMongoClient, IndexModel, MongoClient, ReadPreference, WriteConcern
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from celeriac.drivers.mongodb.address import Address
from celeriac.drivers.mongodb.error_translation import LOGIN, translated
from celeriac.drivers.mongodb.requests import CLAIMS, COUNTERS, DELAYS, OUTCOMES, SCHEDULES, TREES, Work, call
from celeriac.drivers.mongodb.session import Session
from celeriac.drivers.registry import Registry
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["EXPIRY", "Server", "server"]

log = logging.getLogger("celeriac.mongodb")

Result = TypeVar("Result")

AT_ONCE = 20  # works of one call
LONGEST_CONNECT = 5.0  # seconds until a host that accepts a connection and says nothing counts as down
INDEX_SECONDS = 3600.0  # indexes are made again after this: the database may have been dropped
EXPIRY = IndexModel("expires_at", name="expires_at", expireAfterSeconds=0)
UNFINISHED = IndexModel([("tree_at", -1)], name="unfinished", partialFilterExpression={"left": {"$gt": 0}})
INDEXES = {
    OUTCOMES: [EXPIRY, IndexModel([("stored_at", -1), ("state", 1)], name="stored_at")],
    COUNTERS: [EXPIRY, IndexModel("next_at", name="next_at", sparse=True), UNFINISHED],
    TREES: [EXPIRY],
    CLAIMS: [EXPIRY],
    SCHEDULES: [IndexModel("next_at", name="next_at", sparse=True)],
    DELAYS: [IndexModel("due_at", name="due_at"), IndexModel([("queue", 1), ("due_at", 1)], name="queue")],
}


class Server:
    """A MongoDB database, and the prefix of Celeriac's collections in it."""

    def __init__(self, url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> None:
        self.address = Address.of(url)
        self.prefix = prefix
        self.timeout = timeout
        self.codec = codec
        self._client: MongoClient[Any] | None = None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._indexed_until: dict[str, float] = {}  # by one of the collections: monotonic
        self._warned = False
        _registry.know(self)

    # --- Work -----------------------------------------------------------------------------------------

    def do(self, work: Work[Result]) -> Result:
        """Do work, blocking; return its result. Raises `BackendError`, `AccessRefused`, `Unstorable`."""
        try:
            collections = self._collections(self.client())
            request = next(work)
            while True:
                try:
                    answer = request(collections)
                except PyMongoError as error:
                    request = work.throw(error)
                else:
                    request = work.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except (PyMongoError, BSONError) as error:
            raise translated(error, self.address, self.timeout) from error

    async def ado(self, work: Work[Result]) -> Result:
        """Coroutine version of `do`."""
        try:
            collections = self._collections(self.session().client)
            request = next(work)
            while True:
                try:
                    answer = await _cancellable(request(collections))
                except PyMongoError as error:
                    request = work.throw(error)
                else:
                    request = work.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except (PyMongoError, BSONError) as error:
            raise translated(error, self.address, self.timeout) from error

    async def ado_each(self, works: Sequence[tuple[str, Work[bool]]]) -> list[bool]:
        """Do works side by side, and those with the same key one after the other; return all results."""
        of_key: dict[str, list[int]] = {}
        for number, (key, _) in enumerate(works):
            of_key.setdefault(key, []).append(number)
        done = [False] * len(works)
        turns = asyncio.Semaphore(AT_ONCE)

        async def do_all(numbers: Sequence[int]) -> None:
            async with turns:
                for number in numbers:
                    done[number] = await self.ado(works[number][1])

        ends = await asyncio.gather(*map(do_all, of_key.values()), return_exceptions=True)
        for error in ends:
            if error is not None:
                raise error
        return done

    def indexed(self, work: Work[Result], indexes: Mapping[str, list[IndexModel]] = INDEXES) -> Work[Result]:
        """Return the same work, with the making of the indexes before it if that is due."""
        first = next(iter(indexes))
        if time.monotonic() >= self._indexed_until.get(first, 0.0):
            try:
                for collection, some in indexes.items():
                    yield call(collection, "create_indexes", some)
            except OperationFailure as error:
                if error.code in LOGIN:
                    raise
                self._warn(error)
            self._indexed_until[first] = time.monotonic() + INDEX_SECONDS
        return (yield from work)

    def _warn(self, error: OperationFailure) -> None:
        if not self._warned:
            self._warned = True
            why = translated(error, self.address, self.timeout)
            log.warning("The indexes of %s.* cannot be made: what expires is not deleted, and listing is slow. %s",
                        self.prefix, why)  # fmt: skip

    # --- Connections ----------------------------------------------------------------------------------

    def client(self) -> MongoClient[Any]:
        """Return this process's blocking client."""
        with self._lock:
            if self._client is None:
                self._client = MongoClient(self.address.url, **self._options())
            return self._client

    def session(self) -> Session:
        """Return what the running event loop has open on this server."""
        loop = asyncio.get_running_loop()
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.loop is not loop or session.closing is not None:
            session = self._local.session = Session(AsyncMongoClient(self.address.url, **self._options()))
        return session

    def _options(self) -> dict[str, Any]:
        milliseconds = int(self.timeout * 1000)
        return {
            "timeoutMS": milliseconds, "serverSelectionTimeoutMS": milliseconds, "appname": "celeriac",
            "connectTimeoutMS": min(milliseconds, int(LONGEST_CONNECT * 1000)), "connect": False,
        }  # fmt: skip

    def _collections(self, client: Any) -> Callable[[str], Any]:
        """Return what gives the collections of a client.

        A write is confirmed once most members of the replica set have it on disk, and only such outcomes are read: what
        has been seen stays, whichever member fails. Counters are read as they are, to be compared and changed.
        """
        database = client.get_database(
            self.address.database, write_concern=WriteConcern("majority", int(self.timeout * 1000), j=True),
            read_concern=ReadConcern("local"), read_preference=ReadPreference.PRIMARY,
        )  # fmt: skip
        return lambda name: database.get_collection(
            f"{self.prefix}.{name}", read_concern=ReadConcern("majority") if name == OUTCOMES else None
        )

    def close(self) -> None:
        """Close the blocking client, and the session of the running event loop."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
        session: Session | None = getattr(self._local, "session", None)
        try:
            if session is not None and session.closing is None and session.loop is asyncio.get_running_loop():
                session.close()
        except RuntimeError:  # no event loop runs here
            pass

    def forget(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self._lock = threading.Lock()
        _registry.inherited.append(self._local)
        _inherited.append(self._client)
        self._local = threading.local()
        self._client = None

    def __repr__(self) -> str:
        return f"<Server {self.address}/{self.address.database} {self.prefix}>"


async def _cancellable(request: Awaitable[Result]) -> Result:
    """Await a request; raise `CancelledError` if it was cancelled and has ended all the same.

    PyMongo waits by `asyncio.wait_for`. Until Python 3.12, that loses a cancellation in the turn of the loop in which
    the answer comes in.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    answer = await request
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return answer


def server(url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> Server:
    """Return the process's one `Server` for these arguments."""
    return _registry.of(url, prefix, timeout, codec)


_registry: Registry[Server] = Registry(Server)
_inherited: list[MongoClient[Any] | None] = []
"""Blocking clients that were made before this process was forked; kept, so that nothing closes them."""
