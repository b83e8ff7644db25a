"""The HTTP API (`celeriac[web]`): send, follow and operate tasks from any language, over HTTP and JSON.

`celeriac web` serves it. Or mount it in an ASGI application of your own:

    from celeriac.web import api

    site.mount("/celeriac", api(app))
"""

from celeriac.web.application import Api, api
from celeriac.web.limits import Limits
from celeriac.web.scopes import User

__all__ = ["Api", "Limits", "User", "api"]
