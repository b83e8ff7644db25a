"""The result backends: adapters of `ports.backend`, and the bases that derive most of one."""
