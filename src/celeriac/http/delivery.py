"""An attempt to deliver a callback: look where the host leads, check that, and send the event to that address.

`callbacks.py` calls this in a coroutine child. The URL is a caller's, so nothing about it is believed:

- The host must be listed, when the call is taken and when the callback is sent.
- The name is looked up once. Each address that it leads to must be public, or listed; the connection is made to the
  very address that was checked, so that a name which leads elsewhere a moment later changes nothing.
- No redirect is followed, no proxy of the environment is used, and no connection is used twice.
- Nothing of the answer is read but its status and `Retry-After`, so that no caller learns what a host says.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Sequence
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Final

import httpx2

from celeriac.errors import ImproperlyConfigured, RemoteError
from celeriac.http.answers import Answer, phrase, retry_after
from celeriac.http.exchange import USER_AGENT, NoAnswer, exchange, tls
from celeriac.model.callback_hosts import Address, CallbackHosts, Target
from celeriac.model.webhook_signatures import parse_secret, signed_headers

__all__ = ["deliver", "looked_up"]

TIMEOUT: Final = 15.0  # seconds, for all of an attempt
MOST_ADDRESSES: Final = 4  # that are tried in turn
JITTER: Final = 0.1  # of a delay, at most
CONTENT_TYPE: Final = "application/cloudevents+json"


async def deliver(task: Any, url: str, body: bytes, delays: Sequence[float]) -> None:
    """Deliver an event. Raises `AddressRefused`, `RemoteError`, or what ends the attempt with a retry."""
    conf = task.app.conf
    hosts = CallbackHosts(conf.web_callback_hosts)
    target = hosts.check(url)
    secrets = [parse_secret(secret) for secret in conf.web_callback_secrets]
    if not secrets:
        raise ImproperlyConfigured("Callbacks are signed: set `web_callback_secrets` for the workers too.")
    headers = {"Host": target.authority, "User-Agent": USER_AGENT, "Content-Type": CONTENT_TYPE,
               "Accept-Encoding": "identity",
               **signed_headers(task.request.id, task.app.clock.now(), body, secrets)}  # fmt: skip
    where = f"the callback to {target.scheme}://{target.authority}"
    try:
        async with asyncio.timeout(TIMEOUT):
            answer = await _sent(hosts, target, headers, body)
    except TimeoutError:
        error, after = RemoteError("Timeout", f"{where}: there was no answer within {TIMEOUT:g} s."), 0.0
    except NoAnswer as failure:
        error, after = RemoteError(failure.kind, f"{where}: {failure}."), 0.0
    else:
        if 200 <= answer.status < 300:
            return
        error = RemoteError("HTTPError", f"{where} was answered {answer.status} {phrase(answer.status)}.")
        if answer.status == HTTPStatus.GONE:
            raise error
        after = retry_after(answer, task.app.clock.now()) or 0.0
    usual = delays[min(task.request.attempt, len(delays)) - 1]
    jitter = random.uniform(1.0, 1.0 + JITTER)  # noqa: S311 - not a secret
    task.retry(exc=error, countdown=max(after, usual * jitter))


async def _sent(hosts: CallbackHosts, target: Target, headers: dict[str, str], body: bytes) -> Answer:
    """Send to the first address that accepts a connection."""
    addresses = [target.address] if target.address is not None else await looked_up(target.host, target.port)
    for address in addresses:
        hosts.check_address(target, address)
    transport = httpx2.AsyncHTTPTransport(verify=tls(), trust_env=False, limits=httpx2.Limits(max_connections=1))
    async with transport:
        failure = NoAnswer("LookupFailed", f"{target.host} leads to no address")
        for address in addresses[:MOST_ADDRESSES]:
            request = _request(target, address, headers, body)
            try:
                return await exchange(transport.handle_async_request, request, TIMEOUT, None)
            except NoAnswer as error:
                if not isinstance(error.__cause__, httpx2.ConnectError):
                    raise
                failure = error
    raise failure


def _request(target: Target, address: Address, headers: dict[str, str], body: bytes) -> httpx2.Request:
    """Return a request to an address, for the host of the target: so its certificate must be that of the name."""
    url = httpx2.URL(scheme=target.scheme, host=str(address), port=target.port, raw_path=target.path.encode())
    return httpx2.Request("POST", url, headers=headers, content=body, extensions={"sni_hostname": target.host})


async def looked_up(host: str, port: int) -> list[Address]:
    """Return the addresses of a name."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NoAnswer("LookupFailed", f"{host} cannot be looked up ({error.strerror or error})") from error
    return list(dict.fromkeys(ip_address(str(at[0]).partition("%")[0]) for *_, at in found))
