"""What Django's objects are as arguments and results of tasks; `model/foreign.py` keeps it.

- A lazy string is sent as its text, in the language that is active at the call.
- A model instance is refused, with the advice to send its key. If the parameter is annotated with the model, the key is
  sent, and the worker loads the instance by it.
- A queryset or manager is refused.
"""

from __future__ import annotations

from typing import Any

from django.db import DEFAULT_DB_ALIAS, router
from django.db.models import Manager, Model, QuerySet
from django.utils.functional import Promise

from celeriac.model import foreign

__all__ = ["connect"]

ADVICE = (
    "a model instance would be out of date when the task runs: send its key, `.pk`, or annotate the parameter with "
    "the model, which is then loaded by its key"
)
QUERY_ADVICE = "a query would run elsewhere and later: send the keys, list(queryset.values_list('pk', flat=True))"


def connect() -> None:
    """Say what Django's objects are."""
    foreign.sent_as(Promise, str)
    foreign.sent_by_key(Model, _key, _load, ADVICE)
    foreign.refused(QuerySet, QUERY_ADVICE)
    foreign.refused(Manager, QUERY_ADVICE)


def _key(instance: Model) -> Any:
    """Return the primary key of an instance; with the database, if that is not the default one."""
    if instance.pk is None or instance._state.adding:
        raise TypeError(f"{type(instance)._meta.label} is not saved, and a worker could not load it: save it first")
    database = instance._state.db
    if database is None or database == DEFAULT_DB_ALIAS:
        return instance.pk
    return {"pk": instance.pk, "using": database}


def _load(model: Any, key: Any) -> Model:
    """Return the instance of a key, from the database that instances are written to.

    A replica may not have yet what was saved a moment ago.
    """
    using = router.db_for_write(model)
    if isinstance(key, dict) and key.keys() == {"pk", "using"}:
        key, using = key["pk"], key["using"]
    try:
        found: Model = model._base_manager.using(using).get(pk=key)
    except model.DoesNotExist:
        raise ValueError(f"there is no {model._meta.label} with the key {key!r} in the database {using!r}: it was "
                         "deleted, or the task was sent before the transaction committed that saves it (send it with "
                         "delay_on_commit)") from None  # fmt: skip
    return found
