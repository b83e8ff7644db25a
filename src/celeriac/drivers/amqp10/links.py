"""Sessions and links of a connection: credit, messages, outcomes. Made by an `Engine`, and fed by its events.

What runs for each message uses proton's functions (`cproton`), not its classes, which make three objects of each event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import cproton as pn
from proton import UNDESCRIBED, Array, Data, Described, symbol

from celeriac.drivers.amqp10.error_translation import Refusal
from celeriac.drivers.amqp10.messages import Received, decode
from celeriac.drivers.server_errors import ConnectionLost

__all__ = ["ACCEPTED", "FAILED", "REJECTED", "RELEASED", "Link", "Node", "Owner", "Receiver", "Sender", "Session",
           "refusal_of"]  # fmt: skip

ACCEPTED, REJECTED, RELEASED = pn.PN_ACCEPTED, pn.PN_REJECTED, pn.PN_RELEASED
FAILED = -1  # released, and counted as a delivery that has failed
UNDESCRIBED_SYMBOLS: Any = (UNDESCRIBED, Data.SYMBOL)


class Node(NamedTuple):
    """Where a link begins or ends on the server."""

    address: str | None
    capabilities: tuple[str, ...] = ()  # that the server is asked for
    subject: str | None = None  # a receiver's: of the messages of an exchange
    copy: bool = False  # a receiver's: messages stay where they are
    temporary: bool = False  # it is no queue that lasts


class Owner(Protocol):
    """What sessions and links need of the engine that has made them."""

    links: dict[Any, Link]
    available: int | None

    def forget(self, session: Session) -> bool:
        """Forget a session that has ended; False if it was forgotten before."""


class Session:
    """A session. The server ends it where it refuses a link in a way of its own."""

    def __init__(self, engine: Owner, impl: Any) -> None:
        self.engine = engine
        self.impl = impl
        self.error: Exception | None = None
        self.links: list[Link] = []
        self.on_ended: Callable[[], None] = _nothing  # called when the server has ended it
        self._numbers = 0

    def receiver(self, node: Node) -> Receiver:
        """Attach a receiver. Raises `ConnectionLost` if the session has ended."""
        receiver = Receiver(self, pn.pn_receiver(self.impl, self._name()), node)
        self._attach(receiver)
        return receiver

    def sender(self, node: Node) -> Sender:
        """Attach a sender. Raises `ConnectionLost` if the session has ended."""
        sender = Sender(self, pn.pn_sender(self.impl, self._name()), node)
        self._attach(sender)
        return sender

    def _name(self) -> str:
        if self.error is not None:
            raise self.error
        self._numbers += 1
        return f"{id(self):x}-{self._numbers}"

    def _attach(self, link: Link) -> None:
        self.links.append(link)
        self.engine.links[link.impl] = link
        pn.pn_link_open(link.impl)

    def ended(self, error: Exception | None) -> None:
        """Note that the server has ended it, or that the connection is lost."""
        if self.error is None:
            self.error = error or ConnectionLost("the server has ended the session")
            self.close()
            self.on_ended()

    def close(self) -> None:
        """End it; the server takes back what was not settled."""
        self.error = self.error or ConnectionLost("this process has ended the session")
        if not self.engine.forget(self):
            return
        for link in self.links:
            link.end(self.error)
        self.links.clear()
        pn.pn_session_close(self.impl)
        pn.pn_session_free(self.impl)


class Link:
    """A link. `changed` is called when it has opened or ended."""

    def __init__(self, session: Session, impl: Any, node: Node) -> None:
        self.session = session
        self.impl = impl
        self.node = node
        self.opened = False
        self.error: Exception | None = None
        self.changed: Callable[[], None] = _nothing
        ours = pn.pn_link_source(impl) if pn.pn_link_is_receiver(impl) else pn.pn_link_target(impl)
        pn.pn_terminus_set_address(ours, node.address)
        if not node.temporary:
            pn.pn_terminus_set_durability(ours, pn.PN_DELIVERIES)
            pn.pn_terminus_set_expiry_policy(ours, pn.PN_EXPIRE_NEVER)
        if node.capabilities:
            names: Any = [symbol(name) for name in node.capabilities]
            asked = names[0] if len(names) == 1 else Array(*UNDESCRIBED_SYMBOLS, *names)
            Data(pn.pn_terminus_capabilities(ours)).put_object(asked)
        pn.pn_link_set_snd_settle_mode(impl, pn.PN_SND_UNSETTLED)
        pn.pn_link_set_rcv_settle_mode(impl, pn.PN_RCV_FIRST)

    @property
    def largest(self) -> int:
        """The size of the largest message (bytes) that the other side takes; 0: it does not say."""
        return int(pn.pn_link_remote_max_message_size(self.impl))

    def event(self, kind: int) -> None:
        """Handle what the server has said of the link."""
        if kind == pn.PN_LINK_REMOTE_OPEN:
            side = pn.pn_link_remote_source if pn.pn_link_is_receiver(self.impl) else pn.pn_link_remote_target
            self.opened = pn.pn_terminus_get_type(side(self.impl)) != pn.PN_UNSPECIFIED
            if self.opened:  # otherwise the reason follows
                self.changed()
        elif kind != pn.PN_LINK_FLOW:
            error = refusal_of(pn.pn_link_remote_condition(self.impl))
            self.end(error or Refusal("amqp:link:detach-forced", f"the server has ended it ({self.node.address})"))
            self.close()

    def delivery(self, delivery: Any) -> None:
        """Handle news of a delivery."""

    def end(self, error: Exception) -> None:
        """Note that the link has ended."""
        if self.error is None:
            self.error = error
            self.changed()

    def close(self) -> None:
        """Detach."""
        if self.session.engine.links.pop(self.impl, None) is not None:
            self.error = self.error or ConnectionLost("this process has detached it")
            self.session.links.remove(self)
            pn.pn_link_close(self.impl)
            pn.pn_link_free(self.impl)


class Receiver(Link):
    """A link from the server. `take` is called with each message, and `flowed` when the server has told its state."""

    def __init__(self, session: Session, impl: Any, node: Node) -> None:
        super().__init__(session, impl, node)
        self.take: Callable[[Any, Received], None] = _nothing
        self.flowed: Callable[[], None] = _nothing
        self.available: int | None = None  # how many messages wait, as the last flow has told
        source = pn.pn_link_source(impl)
        if node.copy:
            pn.pn_terminus_set_distribution_mode(source, pn.PN_DIST_MODE_COPY)
        if node.subject is not None:
            binding = symbol("apache.org:legacy-amqp-topic-binding:string")
            Data(pn.pn_terminus_filter(source)).put_object({binding: Described(binding, node.subject)})

    @property
    def drained(self) -> bool:
        """Whether the server has sent all that it could for the credit it had."""
        return not pn.pn_link_draining(self.impl)

    def allow(self, credit: int) -> None:
        """Let the server send so many messages, from now on."""
        change = credit - pn.pn_link_credit(self.impl)
        if pn.pn_link_get_drain(self.impl):
            pn.pn_link_set_drain(self.impl, False)
        if change:
            pn.pn_link_flow(self.impl, change)

    def drain(self, more: int = 0) -> None:
        """Let the server send so many messages more, as far as it has them now; it answers with a flow."""
        pn.pn_link_set_drain(self.impl, True)
        pn.pn_link_drain(self.impl, more)

    def ask(self) -> None:
        """Ask for the state of the link, by a flow that changes nothing; output must follow at once.

        Proton sends a flow for a link that has nothing new to say if its session has to send one.
        """
        pn.pn_session_set_incoming_capacity(self.session.impl, 0)
        pn.pn_link_flow(self.impl, 0)

    def settle(self, delivery: Any, state: int) -> None:
        """Tell the server the outcome of a message; nothing, if the link has ended."""
        if self.error is not None:
            return
        if state == FAILED:
            pn.pn_disposition_set_failed(pn.pn_delivery_local(delivery), True)
            state = pn.PN_MODIFIED
        pn.pn_delivery_update(delivery, state)
        pn.pn_delivery_settle(delivery)

    def event(self, kind: int) -> None:
        if kind == pn.PN_LINK_FLOW:
            pn.pn_link_drained(self.impl)
            self.available = self.session.engine.available
            self.flowed()
        else:
            super().event(kind)

    def delivery(self, delivery: Any) -> None:
        if not pn.pn_delivery_readable(delivery) or pn.pn_delivery_partial(delivery):
            return
        size = pn.pn_delivery_pending(delivery)
        data = pn.pn_link_recv(self.impl, size)[1] if size else b""
        pn.pn_link_advance(self.impl)
        if pn.pn_delivery_aborted(delivery):
            pn.pn_delivery_settle(delivery)
            return
        try:
            received = decode(data)
        except ValueError:
            received = Received(bytes(data))  # whoever reads it puts it aside
        self.take(delivery, received)


class Sender(Link):
    """A link to the server."""

    def __init__(self, session: Session, impl: Any, node: Node) -> None:
        super().__init__(session, impl, node)
        self._waiting: dict[Any, Callable[[int, Exception | None], None]] = {}
        self._numbers = 0

    @property
    def idle(self) -> bool:
        """Whether all that was sent is settled."""
        return not self._waiting

    @property
    def blocked(self) -> bool:
        """Whether the server takes no messages at present."""
        return pn.pn_link_credit(self.impl) <= 0 and bool(self._waiting)

    def send(self, data: bytes, settled: Callable[[int, Exception | None], None]) -> None:
        """Send a message, at once or when the server has given credit; `settled` is called with the outcome."""
        self._numbers += 1
        delivery = pn.pn_delivery(self.impl, self._numbers.to_bytes(8, "big"))
        self._waiting[delivery] = settled
        pn.pn_link_send(self.impl, data)
        pn.pn_link_advance(self.impl)

    def delivery(self, delivery: Any) -> None:
        state = pn.pn_delivery_remote_state(delivery)
        if not (state > pn.PN_RECEIVED or pn.pn_delivery_settled(delivery)):
            return
        settled = self._waiting.pop(delivery, None)
        if settled is None:
            return
        error = None
        if state == REJECTED:
            error = refusal_of(pn.pn_disposition_condition(pn.pn_delivery_remote(delivery)))
        pn.pn_delivery_settle(delivery)
        settled(state, error)

    def end(self, error: Exception) -> None:
        if self.error is None:
            waiting, self._waiting = self._waiting, {}
            super().end(error)
            for settled in waiting.values():
                settled(0, error)


def refusal_of(condition: Any) -> Refusal | None:
    """Return what the other side has said of the end of something."""
    if not pn.pn_condition_is_set(condition):
        return None
    try:
        return Refusal(str(pn.pn_condition_get_name(condition)), str(pn.pn_condition_get_description(condition) or ""))
    except UnicodeDecodeError:
        return Refusal("amqp:internal-error", "the server says why in bytes that are no UTF-8")


def _nothing(*_: Any) -> None:
    pass
