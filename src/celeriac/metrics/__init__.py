"""Prometheus metrics: their names, their values from what was counted, and their text.

`celeriac web` shows them for the whole system (`web/metrics.py`), a worker for itself (`worker/metrics_server.py`).
"""
