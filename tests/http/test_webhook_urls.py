"""Which URLs may be registered, which addresses are public, and that only what was checked is connected to."""

import ipaddress
from collections.abc import Sequence

import httpcore
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from support.endpoint_server import endpoint_server
from transfer_engine.http.problems import Rejected
from transfer_engine.http.webhook_network import AddressRefused, GuardedNetwork, SystemResolver, is_public
from transfer_engine.http.webhook_urls import URL_LENGTH_MOST, parse_endpoint_url

NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.254",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:0:53aa:64c:0:7eff:f5ff:fffe",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "4000::1",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.63.255.255", "2606:4700::1111", "2a00:1450::200e"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_only_we_could_reach_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_the_internet_is(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_is_public_that_the_standard_library_calls_private(address: ipaddress.IPv4Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not is_public(address)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://example.com", "https://example.com/"),
        ("https://Example.COM:443/Hook?a=b&c=%20", "https://example.com/Hook?a=b&c=%20"),
        ("HTTPS://example.com:8443/", "https://example.com:8443/"),
        ("https://xn--bcher-kva.example/x", "https://xn--bcher-kva.example/x"),
        ("https://example.com.?q", "https://example.com/?q"),
        ("https://8.8.8.8/x", "https://8.8.8.8/x"),
        ("https://[2606:4700::1111]:4430/x", "https://[2606:4700::1111]:4430/x"),
        ("https://a_b.example.com/", "https://a_b.example.com/"),
    ],
)
def test_a_good_url_is_read_and_written_again(text: str, normal: str) -> None:
    parsed = parse_endpoint_url(text, allow_private_addresses=False)
    assert str(parsed) == normal
    assert parse_endpoint_url(normal, allow_private_addresses=False) == parsed


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "characters"),
        ("example.com", "whole URL"),
        ("/hook", "whole URL"),
        ("http://example.com/", "https://"),
        ("ftp://example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("https://", "no host"),
        ("https:///x", "no host"),
        ("https://user@example.com/", "user name"),
        ("https://user:pass@example.com/", "user name"),
        ("https://8.8.8.8@127.0.0.1/", "user name"),
        ("https://example.com\\@127.0.0.1/", "characters"),
        ("https://example.com/#top", "fragment"),
        ("https://example.com/ä", "characters"),
        ("https://bücher.example/", "characters"),
        ("https://example.com/a b", "characters"),
        ("https://example.com/\r\nHost: x", "characters"),
        ("https://example.com/%zz", "characters"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:65536/", "port 65536"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:80/", "port 80"),
        ("https://example.com:123456/", "no host"),
        ("https://example.com:/", "no host"),
        ("https://exa mple.com/", "characters"),
        ("https://-example.com/", "DNS"),
        ("https://example..com/", "DNS"),
        (f"https://{'a' * 64}.com/", "DNS"),
        (f"https://{'a.' * 127}com/", "DNS"),
        ("https://localhost/", "within a network"),
        ("https://localhost./", "within a network"),
        ("https://metadata/", "within a network"),
        ("https://127.0.0.1/", "not a public"),
        ("https://127.0.0.1./", "not a public"),
        ("https://169.254.169.254/latest/meta-data", "not a public"),
        ("https://127.1/", "no address"),
        ("https://2130706433/", "no address"),
        ("https://0x7f000001/", "no address"),
        ("https://0x7f.1/", "no address"),
        ("https://0177.0.0.1/", "no address"),
        ("https://1.2.3.4.5/", "no address"),
        ("https://[::1]/", "not a public"),
        ("https://[::ffff:127.0.0.1]/", "not a public"),
        ("https://[fe80::1%25eth0]/", "no host"),
        ("https://[nonsense]/", "no host"),
        ("https://[1:2:3]/", "no address"),
        ("https://example.com/" + "x" * URL_LENGTH_MOST, "at most 2048"),
    ],
)
def test_a_bad_url_is_refused_with_what_to_mend(text: str, fault: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse_endpoint_url(text, allow_private_addresses=False)
    assert refused.value.field == "url"
    assert fault in refused.value.detail


@pytest.mark.parametrize("text", ["http://localhost:9000/x", "http://127.0.0.1/", "https://[::1]:22/", "http://db/"])
def test_a_closed_network_may_be_allowed(text: str) -> None:
    assert str(parse_endpoint_url(text, allow_private_addresses=True)) == text


@given(st.text(max_size=60) | st.from_regex(r"https://[a-z0-9.@:\[\]%\\-]{0,30}/?.{0,20}", fullmatch=True))
def test_no_text_is_too_strange(text: str) -> None:
    try:
        parsed = parse_endpoint_url(text, allow_private_addresses=False)
    except Rejected:
        return
    assert httpcore.URL(str(parsed)).host.decode().strip("[]") == parsed.host


class Names:
    """A resolver that knows some names, and notes what it is asked."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        addresses = self.known.get(host.partition(".")[0])
        if addresses is None:
            raise OSError("no such name")
        return addresses


class Refuser(httpcore.AsyncNetworkBackend):
    """A network on which nobody is there; it notes who was looked for."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):  # type: ignore[no-untyped-def]  # noqa: ASYNC109
        await trio.lowlevel.checkpoint()
        self.tried.append(host)
        raise httpcore.ConnectError("nobody")


def guarded(names: Names, *, allow: bool = False) -> tuple[GuardedNetwork, Refuser]:
    network = GuardedNetwork(names, allow_private_addresses=allow)
    below = Refuser()
    network._trio = below
    return network, below


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_a_name_with_one_private_address_is_not_connected_to_at_all(address: str) -> None:
    network, below = guarded(Names(evil=["8.8.8.8", address]))
    with pytest.raises(AddressRefused, match=r"^evil.example has no public address$"):
        await network.connect_tcp("evil.example", 443)
    assert below.tried == []


async def test_the_checked_address_is_connected_to_and_the_name_is_never_resolved_again() -> None:
    names = Names(good=["8.8.8.8", "2606:4700::1111"])
    network, below = guarded(names)
    with pytest.raises(httpcore.ConnectError, match="nobody"):
        await network.connect_tcp("good.example", 443)
    assert below.tried == ["8.8.8.8", "2606:4700::1111"]
    assert names.asked == ["good.example"]


async def test_an_address_in_a_url_is_checked_without_a_resolver() -> None:
    names = Names()
    network, below = guarded(names)
    with pytest.raises(AddressRefused):
        await network.connect_tcp("127.0.0.1", 443)
    assert (names.asked, below.tried) == ([], [])


async def test_only_a_few_addresses_are_tried() -> None:
    network, below = guarded(Names(many=[f"8.8.8.{number}" for number in range(50)]))
    with pytest.raises(httpcore.ConnectError):
        await network.connect_tcp("many.example", 443)
    assert len(below.tried) == 4


@pytest.mark.parametrize("known", [{}, {"none": []}])
async def test_a_name_without_address_is_no_connection(known: dict[str, list[str]]) -> None:
    network, _ = guarded(Names(**known))
    with pytest.raises(AddressRefused, match=r"^none.example has no public address$"):
        await network.connect_tcp("none.example", 443)


async def test_no_socket_of_this_machine_is_reached() -> None:
    network, _ = guarded(Names())
    with pytest.raises(AddressRefused):
        await network.connect_unix_socket("/var/run/docker.sock")


async def test_the_systems_resolver_is_asked() -> None:
    async with endpoint_server() as server:
        network = GuardedNetwork(SystemResolver(1), allow_private_addresses=True)
        stream = await network.connect_tcp("localhost", server.port)
        await stream.aclose()
    with pytest.raises(httpcore.ConnectError, match="could not be resolved"):
        await network.connect_tcp("no.such.name.invalid", 1)
    guarded_network = GuardedNetwork(SystemResolver(1), allow_private_addresses=False)
    with pytest.raises(AddressRefused, match=r"^no.such.name.invalid has no public address$"):
        await guarded_network.connect_tcp("no.such.name.invalid", 1)
