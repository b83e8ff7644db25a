from django.core.asgi import get_asgi_application

from celeriac.contrib.django.asgi import with_dashboard

application = with_dashboard(get_asgi_application(), "/celeriac")
