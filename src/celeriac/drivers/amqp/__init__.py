"""The AMQP 0-9-1 client of the AMQP broker and the `rpc://` backend: frames, connections, procedures.

It uses RabbitMQ's extensions of the protocol where the server announces them.
"""
