"""The result backends: adapters of the port in `base`."""
