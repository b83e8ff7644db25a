from django.core.asgi import get_asgi_application

from celeriac.contrib.django.asgi import with_api
from celeriac.dashboard import dashboard

application = with_api(get_asgi_application(), "/celeriac", site=dashboard)
