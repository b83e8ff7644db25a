"""Servers that all tests of a process share, each started when it is first needed: they take seconds for that.

A test has a vhost or a database of its own there. Some tests kill and freeze a server; it runs again, with its data,
when they end. `tests/conftest.py` ends them all.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache

from tests.activemq_server import ActiveMQServer, running_activemq
from tests.mariadb_server import MariaDBServer, running_mariadb
from tests.ports import free_port
from tests.postgresql_server import PostgreSQLServer, running_postgresql
from tests.rabbitmq_cluster import RabbitCluster, running_cluster
from tests.rabbitmq_server import STOMP, RabbitServer, running_rabbit

__all__ = ["activemq", "end", "mariadb", "postgresql", "rabbit", "rabbit_cluster"]

_running = ExitStack()


@cache
def rabbit() -> RabbitServer:
    return _running.enter_context(running_rabbit(**{STOMP: f"127.0.0.1:{free_port()}"}))


@cache
def rabbit_cluster() -> RabbitCluster:
    return _running.enter_context(running_cluster())


@cache
def activemq() -> ActiveMQServer:
    return _running.enter_context(running_activemq(others=True))


@cache
def postgresql() -> PostgreSQLServer:
    return _running.enter_context(running_postgresql())


@cache
def mariadb() -> MariaDBServer:
    return _running.enter_context(running_mariadb())


def end() -> None:
    """End those that were started."""
    _running.close()
