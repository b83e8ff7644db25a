"""Sending once: messages are published, and a request with an `Idempotency-Key` that is repeated publishes nothing new.

The header is that of draft-ietf-httpapi-idempotency-key-header. A key is its user's own, and lasts `KEPT` seconds:

1. The ids of the messages and a fingerprint of the request are claimed under the key, before anything is published.
2. The messages are published with the claimed ids. A process that dies before this leaves a claim that is not marked:
   the repetition publishes the same ids, which publishes them once where the broker knows ids.
3. The claim is marked as sent. From then on a repetition gets the same answer, and publishes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec
from msgspec.structs import replace

from celeriac.app.app import Celeriac
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.claims import claim_store
from celeriac.ports.complete import in_thread
from celeriac.tasks.custom_ids import afree_ids
from celeriac.web.endpoints import Call
from celeriac.web.problems import Problem
from celeriac.web.site import Site

__all__ = ["HEADER", "KEPT", "sent_once"]

HEADER: Final = "idempotency-key"
KEPT: Final = 86_400.0  # seconds
LONGEST: Final = 255  # characters


class _Claim(msgspec.Struct, array_like=True):
    fingerprint: bytes
    ids: list[str]
    due_at: float | None  # of all of them, as the next one
    sent_at: float


async def sent_once(site: Site, call: Call, messages: Sequence[Message],
                    chosen: bool) -> tuple[Sequence[Message], dict[str, Outcome]]:  # fmt: skip
    """Publish messages; return them, with the ids of the first time if this request has come before.

    Also returns the outcomes of those that were run at once (`task_always_eager`). `chosen`: the caller chose the ids.
    """
    key = _key(call)
    if key is None:
        return messages, await _publish(site.app, messages, chosen)
    name = f"http:{call.user.name}:{key}"
    if name in site.outstanding:
        raise Problem("outstanding", "A request with this Idempotency-Key is being handled. Repeat it in a second.",
                      headers={"Retry-After": "1"})  # fmt: skip
    site.outstanding.add(name)
    try:
        return await _claimed(site, call, messages, chosen, name)
    finally:
        site.outstanding.discard(name)


async def _claimed(site: Site, call: Call, messages: Sequence[Message], chosen: bool,
                   name: str) -> tuple[Sequence[Message], dict[str, Outcome]]:  # fmt: skip
    claim = _Claim(_fingerprint(call), [message.id for message in messages], messages[0].due_at, messages[0].sent_at)
    store, now = claim_store(site.app.backend), site.app.clock.now
    before = await store.claim(name, msgspec.msgpack.encode(claim), KEPT, now())
    if before is not None:
        earlier = _read(before)
        if earlier.fingerprint != claim.fingerprint:
            raise Problem("key-reused", "This Idempotency-Key came with another request before: use a new one.")
        messages = [replace(message, id=id, due_at=earlier.due_at, sent_at=earlier.sent_at)
                    for message, id in zip(messages, earlier.ids, strict=True)]  # fmt: skip
        if await store.claim(f"{name}:sent", b"", 0.0, now()) is not None:
            return messages, {}
    outcomes = await _publish(site.app, messages, chosen and before is None, before is not None)
    await store.claim(f"{name}:sent", b"1", KEPT, now())
    return messages, outcomes


def _read(claim: bytes) -> _Claim:
    try:
        return msgspec.msgpack.decode(claim, type=_Claim)
    except msgspec.DecodeError:
        raise Problem("key-reused", "What is kept under this Idempotency-Key is unreadable: use a new one.") from None


def _fingerprint(call: Call) -> bytes:
    """Return a hash of what is asked for: not of how it is written, nor of how long the client waits."""
    query = sorted((name, value) for name, value in call.request.query_params.multi_items() if name != "wait")
    body = call.data if call.body is None else call.body
    return sha256(msgspec.json.encode((call.request.url.path, query, body), order="sorted")).digest()


async def _publish(app: Celeriac, messages: Sequence[Message], chosen: bool,
                   again: bool = False) -> dict[str, Outcome]:  # fmt: skip
    """Publish messages in one step; `again` if they may have been before."""
    if app.conf.task_always_eager:
        return await in_thread(_run, app, messages)
    if chosen:
        await afree_ids(app, [message.id for message in messages])
    if again:
        await app.broker.apublish(messages, True)
    else:
        await app.apublish(messages)
    return {}


def _run(app: Celeriac, messages: Sequence[Message]) -> dict[str, Outcome]:
    return {message.id: app.workflows.run_message(message) for message in messages}


def _key(call: Call) -> str | None:
    """Return the key: a structured-field string, or one without its quotes."""
    given = call.request.headers.get(HEADER)
    if given is None:
        return None
    text = given.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not text or len(text) > LONGEST or not text.isascii() or not text.isprintable():
        raise Problem("bad-request", f"An Idempotency-Key has 1 to {LONGEST} characters of ASCII.")
    return text
