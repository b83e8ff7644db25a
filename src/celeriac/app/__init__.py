"""The app: wires configuration, tasks, broker, backend and workflows together."""
