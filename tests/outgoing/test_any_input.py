"""Whatever an endpoint answers, and whatever a caller writes as a URL, ends in one of the ways that there are."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.errors import AddressRefused, RemoteError
from celeriac.http.answers import LONGEST, Accepted, Answer, Failed, Returned, meaning
from celeriac.http.styles import LONGEST_DELAY, STYLES, Call
from celeriac.model.callback_hosts import CallbackHosts, Target
from celeriac.model.webhook_signatures import header_id

ANY = CallbackHosts(["*", "http://*", "0.0.0.0/0", "::/0"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8,
)  # fmt: skip
ERRORS = st.dictionaries(st.sampled_from(["type", "message", "retry", "traceback", "x"]), VALUES)
DOCUMENTS = st.dictionaries(
    st.sampled_from(["result", "error", "status", "retval", "reason", "progress"]),
    VALUES | ERRORS | st.sampled_from(["success", "failure"]), max_size=3,
)  # fmt: skip
BODIES = st.binary(max_size=50) | DOCUMENTS.map(lambda document: json.dumps(document).encode())
HEADERS = st.fixed_dictionaries({}, optional={
    "retry-after": st.text() | st.integers().map(str) | st.datetimes().map("{:%a, %d %b %Y %H:%M:%S GMT}".format),
    "location": st.text(), "content-type": st.sampled_from(["text/plain", "application/json", "x"]),
})  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@given(st.integers(100, 999), HEADERS, BODIES)
def test_any_answer_has_a_meaning(style: str, status: int, headers: dict[str, str], body: bytes) -> None:
    found = meaning(STYLES[style], Answer(status, headers, body), "the task", 1_800_000_000.0)
    match found:
        case Returned():
            assert status in (200, 204)
        case Accepted():
            assert status == 202
            assert found.pause is None or 0 <= found.pause <= LONGEST
        case Failed():
            assert isinstance(found.error, RemoteError)
            assert 0 <= found.at_least <= LONGEST
            assert found.delay is None or 0 <= found.delay <= LONGEST_DELAY
            str(found.error).encode("utf-8", "surrogatepass")


URLS = st.text(alphabet="htps:/@.\\#?[]%0123456789abcdefx-_ \r\n\t\x00ä\u3002\u0661", max_size=40) | st.from_regex(
    r"https?://[\w.\[\]:@\\-]{1,20}(:[0-9]{1,6})?([/?#][^ ]{0,10})?", fullmatch=True
)


@given(URLS)
def test_a_url_that_is_accepted_means_the_same_to_every_parser(url: str) -> None:
    """Else one would check a host, and another would connect to one that differs."""
    try:
        target = ANY.check(url)
    except AddressRefused:
        return
    parts, other = urlsplit(url), httpx2.URL(url)
    assert parts.username is None
    hosts = {target.host, same(parts.hostname or ""), same(other.host)}
    ports = {target.port, parts.port or {"http": 80, "https": 443}[parts.scheme],
             other.port or {"http": 80, "https": 443}[other.scheme]}  # fmt: skip
    assert (len(hosts), len(ports)) == (1, 1), (target, parts, other)
    assert Target.of(f"{target.scheme}://{target.authority}{target.path}") == target


def same(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        return host.lower()


@given(st.text(min_size=1))
def test_any_id_fits_into_a_header(id: str) -> None:
    header = header_id(id.encode(errors="replace").decode())
    assert header.isascii()
    assert header.isprintable()
    assert not set(header) & set(' ."\\')


@given(st.lists(VALUES, max_size=2), st.dictionaries(st.text(max_size=5), VALUES, max_size=2))
def test_any_plain_arguments_can_be_sent_as_json(args: list[Any], kwargs: dict[str, Any]) -> None:
    sent = STYLES["json"].write("POST", Call("1", "a", args, kwargs, 1, 1e9, {}))
    document = json.loads(sent.body)
    assert (document["args"], document["kwargs"]) == (args, kwargs)
