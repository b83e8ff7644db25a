"""What Celeriac sends by HTTP: calls of tasks that are endpoints of other programs, and callbacks that tell of ends.

    app.http_task(…)  ──► task.py ──► calling.py ──┐                     answers.py: what an answer means
                          (styles.py: what is sent) ├─► exchange.py ──► httpx2
    "callback": {…}   ──► callbacks.py ► delivery.py ┘                   model/callback_hosts.py: where callbacks may go

`task.py` and `callbacks.py` are imported by apps that use them. The others need the extra `celeriac[http]`, and are
imported by workers alone, through `driver.py`.
"""
