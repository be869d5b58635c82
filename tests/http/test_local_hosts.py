"""Which ``Host`` and ``Origin`` mean this machine, and what happens to the others where there are no tokens."""

import pytest

from support.server import Server
from transfer_engine.http.gate import Gate
from transfer_engine.http.identity import NoTokens
from transfer_engine.http.local_hosts import is_local_host, is_local_origin
from transfer_engine.http.problems import ProblemCode, Rejected

LOCAL = [
    b"localhost",
    b"LOCALHOST",
    b"localhost.",
    b"localhost:8080",
    b"localhost:0",
    b"localhost:",
    b"engine.localhost",
    b"a.b.localhost:65535",
    b"127.0.0.1",
    b"127.0.0.1:8080",
    b"127.0.0.2",
    b"127.255.255.254:1",
    b"[::1]",
    b"[::1]:8080",
    b"[0:0:0:0:0:0:0:1]:8080",
]
OTHER = [
    b"",
    b"x",
    b"evil.example",
    b"evil.example:8080",
    b"localhost.evil.example",
    b"127.0.0.1.evil.example",
    b"127.0.0.1.nip.io:8080",
    b"evillocalhost",
    b"localhost:8080@evil.example",
    b"user@localhost",
    b"localhost:x",
    b"localhost:80:80",
    b"localhost/",
    b"localhost#evil.example",
    b"local host",
    b"localhost\xe2\x80\x8b",
    b"128.0.0.1",
    b"0.0.0.0",
    b"10.0.0.1",
    b"192.168.1.1",
    b"[::]",
    b"[::2]",
    b"::1",
    b"::1:8080",
    b"[::1",
    b"[::1]x",
    b"[127.0.0.1]",
    b"[]",
    b"127.1",
    b"0177.0.0.1",
    b"2130706433",
    b"\xff\xfe",
    b"localhost" * 100,
]


@pytest.mark.parametrize("host", LOCAL)
def test_names_of_this_machine(host: bytes) -> None:
    assert is_local_host(host)
    assert is_local_origin(b"http://" + host)
    assert is_local_origin(b"https://" + host)


@pytest.mark.parametrize("host", OTHER)
def test_names_of_others(host: bytes) -> None:
    assert not is_local_host(host)
    assert not is_local_origin(b"http://" + host)


@pytest.mark.parametrize(
    "origin", [b"null", b"localhost", b"//localhost", b"file://localhost", b"ftp://localhost", b"://localhost"]
)
def test_origins_that_are_no_page_of_this_machine(origin: bytes) -> None:
    assert not is_local_origin(origin)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"evil.example", b""),
        (b"localhost:8080", b"https://evil.example"),
        (b"", b"null"),
        (b"evil.example", b"http://localhost"),
    ],
)
def test_a_websocket_of_another_sites_page_is_refused(host: bytes, origin: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        Gate(NoTokens()).require_local_page(host, origin)
    assert refused.value.code is ProblemCode.WRONG_HOST


@pytest.mark.parametrize(
    ("host", "origin"), [(b"localhost:8080", b""), (b"127.0.0.1:8080", b"http://localhost:8080"), (b"", b"")]
)
def test_a_websocket_of_this_machine_is_served(host: bytes, origin: bytes) -> None:
    Gate(NoTokens()).require_local_page(host, origin)


def test_other_sites_pages_can_not_ask_for_anything_at_either_door(server: Server) -> None:
    """A page may send what needs no JSON to any address, and its visitor's browser does so without asking."""
    for url in (server.url, server.express_url):
        asked = f"{url}/api/v1/user/webhook/enable?user_id=1"
        refused = server.client.post(asked, headers={"Origin": "https://evil.example"})
        assert (refused.status_code, refused.json()["name"]) == (421, "wrong_host")
        for origin in ({}, {"Origin": url}):
            assert server.client.post(asked, headers=origin).json()["name"] != "wrong_host"
