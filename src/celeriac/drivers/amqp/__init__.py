"""What the AMQP broker and the `rpc://` backend share: codec, connections, and the names of exchanges and queues.

AMQP 0-9-1 as RabbitMQ speaks it; its extensions are used where the server announces them.
"""
