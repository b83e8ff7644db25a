"""A web application with Flask, and its tasks."""

from typing import Any

from flask import Flask, current_app, request

from celeriac import Celeriac, Request, Task

web = Flask("shop")
web.config["GREETING"] = "Welcome"
app = Celeriac("shop")


class FlaskTask(Task):
    """A task that runs in the application context of Flask."""

    def call(self, attempt: Request) -> Any:
        """Run one attempt."""
        with web.app_context():
            return super().call(attempt)


@app.task(base=FlaskTask)
def greet(name: str) -> str:
    """Use the configuration of the web application, as a view does."""
    return f"{current_app.config['GREETING']}, {name}!"


@web.post("/greetings")
def start() -> tuple[dict[str, str], int]:
    """Send a task."""
    result = greet.delay(request.form["name"])
    return {"id": result.id}, 202


@web.get("/greetings/<id>")
def status(id: str) -> dict[str, Any]:
    """Tell how far a task is."""
    return app.AsyncResult(id).to_dict()
