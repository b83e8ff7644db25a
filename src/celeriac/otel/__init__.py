"""OpenTelemetry: spans of calls and attempts, and metrics of a worker. Needs the extra `celeriac[otel]`.

Nothing imports these modules but by name, once a provider is set: `tasks/tracing.py`, `worker/supervisor.py`.
"""
