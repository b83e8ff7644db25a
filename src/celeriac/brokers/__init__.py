"""The brokers: adapters of the port in `base`."""
