"""A double of a server of AMQP 1.0, by proton, for what RabbitMQ's plugin lacks: `python -m tests.amqp10_double`.

It follows the conventions of JMS, as ActiveMQ, Artemis and Qpid do: queues and topics by capability, counts of failed
deliveries, messages that wait for their delivery time, looking by copies, draining, dynamic nodes, and transactions.
Everything is in memory. Messages to `$control` change it: `advance 60` its clock, `block` and `unblock` its credit, and
`reset` empties it; `detach NAME` ends the links from a queue or topic, `end NAME` their sessions, and `delete NAME`
deletes the queue.
It prints its port.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from proton import Delivery, Described, Message, Terminus, symbol, ulong
from proton.handlers import IOHandler, MessagingHandler
from proton.reactor import Container

CREDIT = 1000
TRANSACTIONAL, DECLARED = 0x34, 0x33
ACCEPTED = Described(ulong(0x24), [])
LARGEST = 1_000_000
DELIVERY_TIME = symbol("x-opt-delivery-time")


class Entry:
    """A message in a queue."""

    def __init__(self, number: int, message: Message, due: float) -> None:
        self.number = number
        self.message = message
        self.due = due
        self.taken = False
        self.acquired = False  # once, at least
        self.failures = 0


class Queue:
    """A queue, and the links from it."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.links: deque[Any] = deque()


class Double(MessagingHandler):
    """The server."""

    def __init__(self, port: int) -> None:
        super().__init__(prefetch=0, auto_accept=False, auto_settle=False)
        self.port = port
        self.offset = 0.0
        self.blocked = False
        self.numbers = 0
        self.queues: dict[str, Queue] = {"$control": Queue()}
        self.topics: dict[str, list[Any]] = {}
        self.receivers: list[Any] = []  # links to here
        self.held: dict[Any, tuple[Any, str, Entry]] = {}  # by delivery: the link, the queue, the message
        self.copied: dict[Any, int] = {}  # by link: the last number that was shown
        self.faults: dict[str, int] = {}  # how often attaching to a queue is to fail
        self.transactions: dict[bytes, list[Callable[[bool], None]]] = {}

    def on_start(self, event: Any) -> None:
        self.container = event.container
        acceptor = event.container.listen(f"127.0.0.1:{self.port}")
        print(acceptor._selectable._delegate.getsockname()[1], flush=True)

    def now(self) -> float:
        return time.time() + self.offset

    # --- Connections and links ------------------------------------------------------------------------

    def on_connection_opening(self, event: Any) -> None:
        connection = event.connection
        if connection.remote_hostname == "nowhere":
            connection.condition = _condition("amqp:not-found", "no such virtual host")
            self.soon(connection.close)
            return
        connection.container = "double"
        connection.offered_capabilities = [symbol("DELAYED_DELIVERY"), symbol("ANONYMOUS-RELAY")]
        connection.properties = {symbol("product"): "double", symbol("version"): "1"}
        connection.open()

    def on_session_opening(self, event: Any) -> None:
        event.session.open()

    def on_link_opening(self, event: Any) -> None:
        link = event.link
        if link.is_sender:
            self.attach_reader(link)
        else:
            self.attach_writer(link)

    def attach_reader(self, link: Any) -> None:
        source = link.remote_source
        link.target.copy(link.remote_target)
        link.source.copy(source)
        if source.dynamic:
            self.numbers += 1
            link.source.address = f"dynamic-{self.numbers}"
            self.queues[link.source.address] = Queue()
        name = link.source.address or ""
        link.topic = "topic" in _symbols(source.capabilities)
        link.copy = source.distribution_mode == Terminus.DIST_MODE_COPY
        link.name_of_queue = name
        if link.topic:
            self.topics.setdefault(name, []).append(link)
        elif self.is_refused(link, source):
            return
        else:
            self.queues.setdefault(name, Queue()).links.append(link)
            self.copied[link] = 0
        link.pending = deque()
        link.open()

    def attach_writer(self, link: Any) -> None:
        target = link.remote_target
        link.source.copy(link.remote_source)
        link.target.copy(target)
        name = target.address
        if target.type == Terminus.COORDINATOR:
            link.kind = "coordinator"
        elif "topic" in _symbols(target.capabilities):
            link.kind = "topic"
        else:
            link.kind = "queue"
            if self.is_refused(link, target):
                return
            self.queues.setdefault(name, Queue())
        link.max_message_size = LARGEST
        link.open()
        self.receivers.append(link)
        if not self.blocked or name == "$control" or name == "celeriac.turn":
            link.flow(CREDIT)

    def is_refused(self, link: Any, node: Any) -> bool:
        """Refuse a queue that is missing, and is not to be made; and one to which nobody has the rights."""
        name = node.address
        if self.faults.get(name, 0):
            self.faults[name] -= 1
            self.refuse(link, "amqp:internal-error", "told to fail")
        elif name == "forbidden":
            self.refuse(link, "amqp:unauthorized-access", "not for you")
        elif name not in self.queues and "queue" not in _symbols(node.capabilities):
            self.refuse(link, "amqp:not-found", f"there is no queue {name!r}")
        else:
            return False
        return True

    def refuse(self, link: Any, condition: str, text: str) -> None:
        """Refuse a link, as the protocol demands: with an empty terminus, and its end with the reason."""
        (link.source if link.is_sender else link.target).type = Terminus.UNSPECIFIED
        link.condition = _condition(condition, text)
        self.soon(link.close)

    def soon(self, work: Callable[[], None]) -> None:
        """Do something after this event: proton opens what it is about."""
        self.container.schedule(0, _Later(work))

    def on_link_closing(self, event: Any) -> None:
        self.forget(event.link, failed=False)
        event.link.close()

    on_link_detach = on_link_error = on_link_closing  # an error: the client has told one

    def on_session_closing(self, event: Any) -> None:
        for link in [*self.links_of(lambda link: link.session == event.session)]:
            self.forget(link, failed=False)
        event.session.close()

    on_session_error = on_session_closing

    def on_connection_closing(self, event: Any) -> None:
        self.drop(event.connection)
        event.connection.close()

    on_connection_error = on_connection_closing

    def on_disconnected(self, event: Any) -> None:
        self.drop(event.connection)

    def drop(self, connection: Any) -> None:
        for link in [*self.links_of(lambda link: link.session.connection == connection)]:
            self.forget(link, failed=True)

    def links_of(self, condition: Callable[[Any], bool]) -> list[Any]:
        readers = [link for queue in self.queues.values() for link in queue.links]
        readers += [link for links in self.topics.values() for link in links]
        return [link for link in [*readers, *self.receivers] if condition(link)]

    def forget(self, link: Any, failed: bool) -> None:
        """Forget a link, and put back what it had."""
        if link.is_receiver:
            if link in self.receivers:
                self.receivers.remove(link)
            return
        name = getattr(link, "name_of_queue", "")
        if link in self.topics.get(name, []):
            self.topics[name].remove(link)
        queue = self.queues.get(name)
        if queue is not None and link in queue.links:
            queue.links.remove(link)
        self.copied.pop(link, None)
        for delivery, (holder, of, entry) in list(self.held.items()):
            if holder == link:
                del self.held[delivery]
                self.put_back(of, entry, failed)
        if name.startswith("dynamic-"):
            self.queues.pop(name, None)

    # --- Messages in ----------------------------------------------------------------------------------

    def on_message(self, event: Any) -> None:
        link, delivery, message = event.receiver, event.delivery, event.message
        if not self.blocked:
            link.flow(1)
        if link.kind == "coordinator":
            self.coordinate(delivery, message.body)
            return
        name = link.target.address
        if name == "$control":
            self.control(bytes(message.body).decode())
        elif link.kind == "topic":
            for reader in self.topics.get(name, []):
                reader.pending.append(message)
                self.send_topic(reader)
        elif delivery.remote_state == TRANSACTIONAL:
            number = _bytes(delivery.remote.data[0])
            self.transactions[number].append(lambda good: self.add(name, message) if good else None)
            delivery.local.data = [number, ACCEPTED]
            delivery.update(TRANSACTIONAL)
            delivery.settle()
            return
        else:
            self.add(name, message)
        delivery.update(Delivery.ACCEPTED)
        delivery.settle()

    def control(self, command: str) -> None:
        what, _, value = command.partition(" ")
        if what == "advance":
            self.offset += float(value)
            for name in self.queues:
                self.serve(name)
        elif what == "reset":
            self.queues, self.topics, self.offset = {"$control": Queue(), "celeriac.turn": Queue()}, {}, 0.0
            self.faults = {}
            self.add("celeriac.turn", Message(b"turn", inferred=True))  # or the first reader would wait for it
        elif what in ("detach", "end", "delete"):
            self.end_links(what, value)
        elif what in ("fault", "faults"):
            self.faults[value] = 1 if what == "fault" else 1000
        self.blocked = what == "block" or (self.blocked and what not in ("unblock", "reset"))
        if what in ("unblock", "reset"):
            for link in self.receivers:
                link.flow(max(0, CREDIT - link.credit))

    def add(self, name: str, message: Message) -> None:
        self.numbers += 1
        at = (message.annotations or {}).get(DELIVERY_TIME)
        entry = Entry(self.numbers, message, at / 1000 + self.offset if at else 0.0)  # its clock was set since
        self.queues.setdefault(name, Queue()).entries[entry.number] = entry  # it may have been deleted meanwhile
        self.serve_from(name, entry.due)

    def serve_from(self, name: str, due: float) -> None:
        """Serve a queue now, and when a message in it is due: proton's timers may be early."""
        if due > self.now():
            self.container.schedule(max(0.001, due - self.now()), _Later(lambda: self.serve_from(name, due)))
        self.serve(name)

    def end_links(self, what: str, name: str) -> None:
        if what == "delete":
            self.queues.setdefault(name, Queue()).entries.clear()
        for link in self.links_of(lambda link: link.is_sender and link.name_of_queue == name):
            condition = "amqp:resource-deleted" if what == "delete" else "amqp:internal-error"
            ended = link.session if what == "end" else link
            for one in self.links_of(lambda other, link=link: other == link or (what == "end" and
                                                                                 other.session == link.session)):
                self.forget(one, failed=False)
            ended.condition = _condition(condition, f"told to {what}")
            ended.close()
        if what == "delete":
            del self.queues[name]

    def coordinate(self, delivery: Any, body: Any) -> None:
        if body.descriptor == ulong(0x31):
            self.numbers += 1
            number = str(self.numbers).encode()
            self.transactions[number] = []
            delivery.local.data = [number]
            delivery.update(DECLARED)
        else:
            number, failed = body.value[0], len(body.value) > 1 and body.value[1]
            for work in self.transactions.pop(_bytes(number)):
                work(not failed)
            delivery.update(Delivery.ACCEPTED)
        delivery.settle()

    # --- Messages out ---------------------------------------------------------------------------------

    def on_sendable(self, event: Any) -> None:
        self.on_link_flow(event)

    def on_link_flow(self, event: Any) -> None:
        link = event.link
        if link.is_receiver or not hasattr(link, "name_of_queue"):
            return
        if link.topic:
            self.send_topic(link)
            if link.drain_mode:
                link.drained()
        else:
            self.serve(link.name_of_queue)

    def send_topic(self, link: Any) -> None:
        while link.pending and link.credit > 0:
            self.transfer(link, link.pending.popleft())

    def transfer(self, link: Any, message: Message) -> Any:
        self.numbers += 1
        delivery = link.delivery(str(self.numbers))
        link.send(message.encode())
        link.advance()
        return delivery

    def serve(self, name: str) -> None:
        queue = self.queues.get(name)
        if queue is None:
            return
        now = self.now()
        served = True
        while served:
            served = False
            for link in list(queue.links):
                if link.credit > 0 and (entry := self.next_for(link, queue, now)) is not None:
                    served = True
                    entry.message.delivery_count, entry.message.first_acquirer = entry.failures, not entry.acquired
                    delivery = self.transfer(link, entry.message)
                    if link.copy:
                        self.copied[link] = entry.number
                    else:
                        entry.taken = entry.acquired = True
                        self.held[delivery] = link, name, entry
        for link in queue.links:
            if link.drain_mode and link.credit > 0:
                link.drained()
        queue.links.rotate(-1)

    def next_for(self, link: Any, queue: Queue, now: float) -> Entry | None:
        after = self.copied[link] if link.copy else 0
        found = (one for one in queue.entries.values() if not one.taken and one.due <= now and one.number > after)
        return next(found, None)  # they are in the order of their numbers

    def on_delivery(self, event: Any) -> None:
        delivery = event.delivery
        if delivery.link.is_sender and delivery.remote_state:
            held = self.held.get(delivery)
            if held is not None and delivery.remote_state == TRANSACTIONAL:
                number = _bytes(delivery.remote.data[0])
                del self.held[delivery]
                self.transactions[number].append(lambda good: self.end(held[1], held[2], good))
            elif held is not None:
                del self.held[delivery]
                failed = delivery.remote_state == Delivery.MODIFIED and delivery.remote.failed
                if delivery.remote_state in (Delivery.ACCEPTED, Delivery.REJECTED):
                    self.end(held[1], held[2], True)
                else:
                    self.put_back(held[1], held[2], failed)
            delivery.settle()

    def end(self, name: str, entry: Entry, good: bool) -> None:
        if good:
            self.queues.setdefault(name, Queue()).entries.pop(entry.number, None)
        else:
            self.put_back(name, entry, failed=False)

    def put_back(self, name: str, entry: Entry, failed: bool) -> None:
        entry.taken = False
        entry.failures += failed
        self.serve(name)

    def on_transport_error(self, event: Any) -> None:
        pass  # the end of a client


class _Later:
    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def on_timer_task(self, _: Any) -> None:
        self._work()


def _condition(name: str, text: str) -> Any:
    from proton import Condition

    return Condition(name, text)


def _symbols(data: Any) -> set[str]:
    data.rewind()
    if data.next() is None:
        return set()
    found = data.get_object()
    return {str(found)} if isinstance(found, str) else set(map(str, getattr(found, "elements", ())))


def _bytes(value: Any) -> bytes:
    return bytes(value)


class _Io(IOHandler):
    """Proton's input and output, which stumbles over the timer of a connection that has ended."""

    def on_selectable_expired(self, event: Any) -> None:
        if event.selectable._transport is not None:
            super().on_selectable_expired(event)


if __name__ == "__main__":
    Container(Double(int(sys.argv[1]) if len(sys.argv) > 1 else 0), global_handler=_Io()).run()
