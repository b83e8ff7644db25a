"""The project for ASGI servers, with the HTTP API of Celeriac below /celeriac."""

from django.core.asgi import get_asgi_application

from celeriac.contrib.django.asgi import with_api

application = with_api(get_asgi_application(), "/celeriac")
