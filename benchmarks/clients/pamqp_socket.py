"""pamqp for every frame, over the blocking socket that our driver uses: the driver without its own codec."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from pamqp import body, commands, frame, header

from benchmarks.clients.base import ACK_EVERY, BODY, DURABLE, PREFETCH, QUEUE, TRANSIENT, WINDOW, Client
from celeriac.drivers.sockets import TimedSocket, prepare

CHANNEL = 1
CHUNK = 65536
SECONDS = 60.0
HEAD = struct.Struct(">BHI")
REST = 8  # bytes of a frame beside its payload


class PamqpSocket(Client):
    """One connection, one channel with confirms."""

    title = "pamqp, our socket"
    packages = ("pamqp",)

    def __init__(self) -> None:
        super().__init__()
        plain = socket.create_connection(("127.0.0.1", self.port))
        prepare(plain)
        self._socket = TimedSocket(plain)
        self._frames = self._reading()
        self._confirmed = self._sent = 0
        self._write(header.ProtocolHeader(0, 9, 1).marshal())
        self._next(commands.Connection.Start)
        self._call(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest"), commands.Connection.Tune, 0)
        self._write(frame.marshal(commands.Connection.TuneOk(2047, 131072, 0), 0))
        self._call(commands.Connection.Open(self.vhost), commands.Connection.OpenOk, 0)
        self._call(commands.Channel.Open(), commands.Channel.OpenOk)
        self._call(commands.Confirm.Select(), commands.Confirm.SelectOk)

    def publish_each(self, count: int, mode: int = DURABLE) -> None:
        for _ in range(count):
            self._write(_publication(mode))
            self._next(commands.Basic.Ack)

    def publish_transient(self, count: int) -> None:
        self.publish_each(count, TRANSIENT)

    def publish_pipelined(self, count: int) -> None:
        for start in range(0, count, WINDOW):
            part = min(WINDOW, count - start)
            self._sent += part
            self._write(b"".join([_publication(DURABLE) for _ in range(part)]))
            while self._confirmed < self._sent:
                confirm = self._next(commands.Basic.Ack)
                self._confirmed = confirm.delivery_tag if confirm.multiple else self._confirmed + 1

    def consume(self, count: int) -> None:
        self._call(commands.Basic.Qos(prefetch_count=PREFETCH), commands.Basic.QosOk)
        self._call(commands.Basic.Consume(queue=QUEUE), commands.Basic.ConsumeOk)
        for done in range(1, count + 1):
            delivery = self._next(commands.Basic.Deliver)
            self._next(header.ContentHeader)
            self._next(body.ContentBody)
            if not done % ACK_EVERY or done == count:
                self._write(frame.marshal(commands.Basic.Ack(delivery.delivery_tag, multiple=True), CHANNEL))

    def _write(self, data: bytes) -> None:
        self._socket.write(data, time.monotonic() + SECONDS)

    def _call(self, what: Any, answer: type, channel: int = CHANNEL) -> None:
        self._write(frame.marshal(what, channel))
        self._next(answer)

    def _next(self, kind: type) -> Any:
        found = next(self._frames)
        assert isinstance(found, kind), f"{found!r} instead of {kind.__name__}"
        return found

    def _reading(self) -> Iterator[Any]:
        """Yield the frames that the server sends."""
        data = b""
        while True:
            at = 0
            while len(data) - at >= REST:
                end = at + HEAD.unpack_from(data, at)[2] + REST
                if end > len(data):
                    break
                yield frame.unmarshal(data[at:end])[2]
                at = end
            data = data[at:] + self._socket.read(CHUNK, time.monotonic() + SECONDS)


def _publication(mode: int) -> bytes:
    return b"".join((
        frame.marshal(commands.Basic.Publish(routing_key=QUEUE), CHANNEL),
        frame.marshal(header.ContentHeader(0, len(BODY), commands.Basic.Properties(delivery_mode=mode)), CHANNEL),
        frame.marshal(body.ContentBody(BODY), CHANNEL),
    ))  # fmt: skip


CLIENT = PamqpSocket
