"""The app: it holds the configuration and the tasks, and connects them to broker, backend and workflows."""
