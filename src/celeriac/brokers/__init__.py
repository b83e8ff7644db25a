"""The brokers: adapters of `ports.broker`."""
