"""The project for ASGI servers, with the HTTP API of Celeriac below /celeriac."""

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from celeriac.contrib.django.asgi import with_api

# The handler serves the files of Django's admin. In production, the web server in front does.
application = with_api(ASGIStaticFilesHandler(get_asgi_application()), "/celeriac")
