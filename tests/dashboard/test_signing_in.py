"""Who may use the dashboard: tokens and sessions, roles, one-time links; and what no other site can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from tests.dashboard.browsing import seeded
from tests.patience import PATIENCE
from tests.web.served import Served

CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')
ONCE = re.compile(r"sign in\s+http://[^/]+(/sign-in\?once=\S+)")


class Guarded(NamedTuple):
    served: Served
    address: str
    tokens: dict[str, str]  # by role
    link: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    seeded(folder, rows=10, hours=0.2, workers=0, schedules=0).close()
    served = Served(folder)
    try:
        tokens = {role: served.run("web", "token", "add", role, "--scope", role) for role in ("viewer", "operator")}
        tokens["gone"] = served.run("web", "token", "add", "gone", "--scope", "viewer")
        _, log = served.start("web", "--port", "0", "--open", ready="Ctrl-C stops it")
        text = log.read_text()
        address, link = re.search(r"running on (http://\S+)", text), ONCE.search(text)
        assert address is not None
        assert link is not None
        yield Guarded(served, address[1], tokens, link[1])
    finally:
        served.end()


@pytest.fixture
def client(guarded: Guarded) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.address, timeout=PATIENCE, trust_env=False) as made:
        yield made


def sign_in(client: httpx.Client, token: str, back: str = "/queues") -> httpx.Response:
    return client.post("/sign-in", data={"token": token, "back": back}, headers={"Origin": str(client.base_url)})


def csrf_of(client: httpx.Client, path: str = "/queues/default") -> str:
    found = CSRF.search(client.get(path).text)
    assert found is not None
    return found[1]


def pause(client: httpx.Client, csrf: str, **headers: str) -> httpx.Response:
    form = {"csrf": csrf, "back": "/queues"}
    return client.post("/queues/default/pause", data=form, headers={"Origin": str(client.base_url), **headers})


def is_paused(client: httpx.Client) -> bool:
    row = re.search(r'<tr data-row="default">.*?</tr>', client.get("/queues?fragment=list").text, re.DOTALL)
    assert row is not None
    return ">paused<" in row[0]


def test_who_is_not_known_is_led_to_sign_in_and_back(guarded: Guarded, client: httpx.Client) -> None:
    answer = client.get("/queues?sort=queue")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?back=/queues%3Fsort%3Dqueue")
    answer = sign_in(client, guarded.tokens["viewer"], "/queues?sort=queue")
    assert (answer.status_code, answer.headers["location"]) == (303, "/queues?sort=queue")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=lax" in answer.headers["set-cookie"]
    assert client.get("/queues?sort=queue").status_code == 200


@pytest.mark.parametrize("path", ["/?fragment=queues", "/live?topic=queues"])
def test_a_script_is_told_that_nobody_is_signed_in(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 401


def test_a_wrong_token_is_refused_with_what_to_do(client: httpx.Client) -> None:
    answer = sign_in(client, "clr_viewer_" + "0" * 64)
    assert answer.status_code == 401
    assert "celeriac web token add" in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("back", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"])
def test_signing_in_leads_to_no_other_site(guarded: Guarded, client: httpx.Client, back: str) -> None:
    assert sign_in(client, guarded.tokens["viewer"], back).headers["location"] == "/"


def test_a_one_time_link_works_once(guarded: Guarded, client: httpx.Client) -> None:
    assert client.get(guarded.link).status_code == 303
    assert client.get("/queues").status_code == 200
    assert "Purge" in client.get("/queues/default").text  # an administrator
    client.cookies.clear()
    assert "was used before" in client.get(guarded.link).text
    assert client.get("/queues").status_code == 303


def test_signing_out_ends_the_session_even_if_its_cookie_was_copied(guarded: Guarded, client: httpx.Client) -> None:
    sign_in(client, guarded.tokens["viewer"])
    copied = dict(client.cookies)
    form = {"csrf": csrf_of(client, "/queues")}
    assert client.post("/sign-out", data=form, headers={"Origin": str(client.base_url)}).status_code == 303
    client.cookies.clear()
    client.cookies.update(copied)
    assert client.get("/queues").status_code == 303


def test_a_session_ends_with_its_token(guarded: Guarded, client: httpx.Client) -> None:
    sign_in(client, guarded.tokens["gone"])
    assert client.get("/queues").status_code == 200
    guarded.served.run("web", "token", "remove", "gone")
    assert client.get("/queues").status_code == 303


def test_a_session_that_was_changed_is_none(guarded: Guarded, client: httpx.Client) -> None:
    sign_in(client, guarded.tokens["viewer"])
    (name, value), = client.cookies.items()
    client.cookies.clear()
    client.cookies.set(name, value[:-1] + ("0" if value[-1] != "0" else "1"))
    assert client.get("/queues").status_code == 303


def test_a_viewer_sees_no_buttons_and_is_refused_by_the_action_itself(guarded: Guarded, client: httpx.Client) -> None:
    sign_in(client, guarded.tokens["viewer"])
    page = client.get("/queues/default").text
    assert "/pause" not in page
    assert "/purge" not in page
    answer = pause(client, csrf_of(client, "/queues"))
    assert answer.status_code == 303
    assert "needs the scope queues:write" in client.get(answer.headers["location"]).text
    assert not is_paused(client)


def test_a_stream_tells_of_what_its_user_may_see(guarded: Guarded) -> None:
    token = guarded.served.run("web", "token", "add", "sender", "--scope", "tasks:send").strip()
    for topics, status in (("task:1", 403), ("audit", 403), ("queues", 403), ("nothing", 422)):
        answer = httpx.get(f"{guarded.address}/live?topic={topics}", timeout=PATIENCE, trust_env=False,
                           headers={"Authorization": f"Bearer {token}"})  # fmt: skip
        assert answer.status_code == status
    with httpx.stream("GET", f"{guarded.address}/live?topic=task:1&topic=queues", timeout=PATIENCE, trust_env=False,
                      headers={"Authorization": f"Bearer {guarded.tokens['viewer']}"}) as opened:  # fmt: skip
        assert opened.status_code == 200


def test_a_form_with_too_many_fields_is_refused(guarded: Guarded, client: httpx.Client) -> None:
    form = {f"f{number}": "" for number in range(5_001)}
    answer = client.post("/queues/default/pause", data=form, headers={"Origin": str(client.base_url)})
    assert answer.status_code == 401  # who it is comes first
    sign_in(client, guarded.tokens["operator"])
    answer = client.post("/queues/default/pause", data=form, headers={"Origin": str(client.base_url)})
    assert (answer.status_code, "more than 5,000 fields" in answer.text) == (400, True)


def test_an_operator_pauses_and_the_audit_has_it(guarded: Guarded, client: httpx.Client) -> None:
    sign_in(client, guarded.tokens["operator"])
    answer = pause(client, csrf_of(client))
    assert answer.headers["location"] == "/queues"
    assert "The queue default is paused" in client.get("/queues").text
    assert "The queue default is paused" not in client.get("/queues").text  # it is said once
    assert is_paused(client)
    bearer = {"Authorization": f"Bearer {guarded.tokens['operator']}"}
    entries = client.get("/api/v1/audit", headers=bearer).json()
    assert (entries[0]["text"], entries[0]["by"], entries[0]["id"]) == ("Pause a queue", "operator", "default")
    form = {"csrf": csrf_of(client), "back": "https://evil.example/"}
    answer = client.post("/queues/default/resume", data=form, headers={"Origin": str(client.base_url)})
    assert answer.headers["location"] == "/"
    assert not is_paused(client)


def test_another_site_can_do_nothing(guarded: Guarded, client: httpx.Client) -> None:
    sign_in(client, guarded.tokens["operator"])
    csrf = csrf_of(client)
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
                    {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
        assert pause(client, csrf, **headers).status_code == 403
    assert client.post("/queues/default/pause", data={"csrf": csrf}).status_code == 403  # neither is said
    assert pause(client, "0" * 64).status_code == 303
    assert "Nothing was done" in client.get("/queues").text
    assert not is_paused(client)


def test_a_form_of_another_session_is_refused(guarded: Guarded, client: httpx.Client) -> None:
    with httpx.Client(base_url=guarded.address, timeout=PATIENCE, trust_env=False) as other:
        sign_in(other, guarded.tokens["operator"])
        csrf = csrf_of(other)
    sign_in(client, guarded.tokens["operator"])
    assert pause(client, csrf).status_code == 303
    assert "another session" in client.get("/queues").text
    assert not is_paused(client)


def test_a_name_that_is_not_served_is_refused_with_a_session_too(guarded: Guarded, client: httpx.Client) -> None:
    sign_in(client, guarded.tokens["viewer"])
    guarded.served.environment["CELERIAC_WEB_ALLOWED_HOSTS"] = "celeriac.example"
    try:
        _, address = guarded.served.web()
    finally:
        del guarded.served.environment["CELERIAC_WEB_ALLOWED_HOSTS"]
    answer = httpx.get(f"{address}/queues", headers={"Host": "evil.example"}, trust_env=False)
    assert answer.status_code == 403
    assert "web_allowed_hosts" in answer.text
