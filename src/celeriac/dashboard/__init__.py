"""The dashboard (`celeriac[web]`): pages that show and operate the whole system, and the HTTP API under them.

`celeriac web` serves it. Or mount it in an ASGI application of your own:

    from celeriac.dashboard import dashboard

    site.mount("/celeriac", dashboard(app))
"""

from celeriac.dashboard.application import Dashboard, dashboard

__all__ = ["Dashboard", "dashboard"]
