"""Where callbacks may go: one form of URL, listed hosts, public addresses."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from celeriac import Celeriac
from celeriac.errors import AddressRefused, ImproperlyConfigured
from celeriac.model.callback_hosts import CallbackHosts, Target, is_public

ANY = CallbackHosts(["*", "http://*"])
LISTED = CallbackHosts(["hooks.example.com", "hooks.example.com:8443", "*.shop.example", "http://hooks.internal:8080",
                        "10.1.0.0/16", "https://[2001:db8::1]:9000"])  # fmt: skip


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://hooks.example.com", ("https", "hooks.example.com", 443, "/")),
        ("HTTPS://Hooks.Example.com:443/a/b?c=d&e=%20", ("https", "hooks.example.com", 443, "/a/b?c=d&e=%20")),
        ("https://hooks.example.com:8443/x", ("https", "hooks.example.com", 8443, "/x")),
        ("https://a.b.shop.example/", ("https", "a.b.shop.example", 443, "/")),
        ("http://hooks.internal:8080/", ("http", "hooks.internal", 8080, "/")),
        ("https://10.1.2.3/", ("https", "10.1.2.3", 443, "/")),
        ("http://10.1.2.3/", ("http", "10.1.2.3", 80, "/")),
        ("https://[::ffff:10.1.2.3]/", ("https", "::ffff:a01:203", 443, "/")),
        ("https://[2001:DB8:0::1]:9000/", ("https", "2001:db8::1", 9000, "/")),
    ],
)
def test_a_listed_url_is_taken_apart(url: str, target: tuple[str, str, int, str]) -> None:
    assert LISTED.check(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",  # not by https
        "https://hooks.example.com:8080/",
        "https://hooks.example.com.evil.example/",
        "https://evil-hooks.example.com/",
        "https://shop.example/",  # the entry is for what is below it
        "https://evilshop.example/",
        "https://hooks.internal:8080/",
        "https://10.2.0.1/",
        "https://10.1.2.3:8443/",
        "https://[2001:db8::2]:9000/",
    ],
)
def test_what_is_not_listed_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused, match="web_callback_hosts"):
        LISTED.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "//hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https:///",
        "https://user@hooks.example.com/",
        "https://user:secret@hooks.example.com/",
        "https://hooks.example.com@127.0.0.1/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.example.com\\.evil.example/",
        "https://hooks.example.com#@evil.example/",
        "https://hooks.example.com/#x",
        "https://hooks.example.com./",
        "https://.hooks.example.com/",
        "https://hooks..example.com/",
        "https://hooks.example.com:/",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:65536/",
        "https://hooks.example.com:\u0661/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\r\nX: y",
        "https://hooks.example.com\t/",
        " https://hooks.example.com/",
        "https://hooks.example.com/\n",
        "https://hooks.example.com/ä",
        "https://bücher.example/",
        "https://\uff11\uff12\uff17.0.0.1/",  # digits of full width
        "https://127。0。0。1/",
        "https://evi\u212a.example/",  # a Kelvin sign, whose lower case is k
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.1.5/",
        "https://1.2.3.256/",
        "https://127.0.0.0x1/",
        "https://[::1",
        "https://[::1%25lo]/",
        "https://[::1%lo]/",
        "https://[v1.x]/",
        "https://[127.0.0.1]:80:80/",
        "https://a/" + "x" * 2048,
        "https://" + "a" * 64 + ".example/",
    ],
)
def test_a_url_in_any_other_form_is_refused_even_where_all_hosts_are_listed(url: str) -> None:
    with pytest.raises(AddressRefused):
        ANY.check(url)


PRIVATE = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.255", "169.254.169.254", "172.16.0.1", "192.0.0.1",
    "192.168.1.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1",
    "ff02::1", "4000::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "93.184.215.14", "2606:2800:21f:cb07::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


@pytest.mark.parametrize("text", PRIVATE)
def test_an_address_that_is_not_of_the_internet_is_refused_unless_listed(text: str) -> None:
    address = ip_address(text)
    assert not is_public(address)
    url = f"https://[{text}]/" if address.version == 6 else f"https://{text}/"
    with pytest.raises(AddressRefused):
        ANY.check(url)
    with pytest.raises(AddressRefused, match="not a public address"):
        ANY.check_address(Target.of("https://hooks.example.com/"), address)
    listed = CallbackHosts(["*", "0.0.0.0/0", "::/0"])
    assert listed.check(url).address == address


@pytest.mark.parametrize("text", PUBLIC)
def test_an_address_of_the_internet_is_accepted(text: str) -> None:
    address = ip_address(text)
    assert is_public(address)
    ANY.check_address(Target.of("https://hooks.example.com/"), address)


def test_an_address_that_is_listed_as_a_host_may_also_be_led_to() -> None:
    hosts = CallbackHosts(["http://127.0.0.1:9000", "hooks.example.com"])
    hosts.check("http://127.0.0.1:9000/x")
    hosts.check_address(Target.of("https://hooks.example.com/"), ip_address("127.0.0.1"))
    with pytest.raises(AddressRefused):
        hosts.check("http://127.0.0.1:9001/x")


@pytest.mark.parametrize("entry", ["", "a b", "https://a/b", "ftp://a", "a:b", "*a.example", "10.0.0.0/33", "a.*"])
def test_an_entry_that_is_none_is_refused_at_the_setting(entry: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"web_callback_hosts: hosts \("):
        Celeriac("shop", web_callback_hosts=["hooks.example.com", entry])


def test_secrets_of_callbacks_are_not_shown() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    app = Celeriac("shop", web_callback_secrets=[secret])
    assert secret[6:] not in repr(app.conf)
    with pytest.raises(ImproperlyConfigured, match="web_callback_secrets: a secret of Standard Webhooks") as raised:
        Celeriac("shop", web_callback_secrets=[secret[6:]])
    assert secret[6:] not in str(raised.value)
