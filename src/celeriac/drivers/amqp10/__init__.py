"""What the broker and the result backend of one AMQP 1.0 server share. The protocol is python-qpid-proton's."""

__all__: list[str] = []
