"""Addresses as people write them. Nothing here asks a name server."""

from typing import Any

import pytest

from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.ledger.tigerbeetle_addresses import parse_addresses, resolve_addresses
from transfer_engine.engine.ledger.tigerbeetle_client import TigerBeetleLedger, open_tigerbeetle_ledger

GOOD: dict[str, Any] = {"cluster_id": 0, "addresses": ["127.0.0.1:9"], "timeout_ms": 1_000}


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("10.0.0.1:3000", "10.0.0.1:3000"),
        ("3000", "127.0.0.1:3000"),
        ("[::1]:3000", "[::1]:3000"),
        ("localhost:3000", "127.0.0.1:3000"),  # whatever else it means on this machine
    ],
)
async def test_what_the_client_is_told(text: str, resolved: str) -> None:
    assert await resolve_addresses(parse_addresses([text])) == resolved


async def test_replicas_stay_in_their_order() -> None:
    addresses = parse_addresses(["10.0.0.3:3000", "10.0.0.1:3000", "3001"])
    assert await resolve_addresses(addresses) == "10.0.0.3:3000,10.0.0.1:3000,127.0.0.1:3001"


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.0.0.1", "host:", ":3000", "host:0", "host:65536", "host:-1", "host:\u0663", "a b:3000", 3000, None),
        *("::1:3000", "[::1]", "[host]:3000", "10.0.0.1:3000,10.0.0.2:3000", "http://host:3000"),
    ],
)
def test_what_is_no_address_is_refused_by_its_place(text: str) -> None:
    with pytest.raises(ValueError, match=r"tigerbeetle\.addresses\[1\] is .*: give host:port"):
        parse_addresses(["3000", text])


@pytest.mark.parametrize("addresses", [[], "10.0.0.1:3000", [str(port) for port in range(3000, 3007)]])
def test_one_to_six_replicas(addresses: Any) -> None:
    with pytest.raises(ValueError, match=r"tigerbeetle\.addresses is .*: give a list of 1 to 6 replicas"):
        parse_addresses(addresses)


def test_a_replica_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tigerbeetle\.addresses .* named twice"):
        parse_addresses(["3000", "127.0.0.1:3000"])


async def test_a_name_that_does_not_resolve_is_an_outage_that_says_what_to_check() -> None:
    unresolvable = "x" * 64 + ".example:3000"  # no label may be so long: refused without asking
    with pytest.raises(LedgerUnavailable, match=r"can't be resolved .* check its spelling and this machine's DNS"):
        async with open_tigerbeetle_ledger(**{**GOOD, "addresses": [unresolvable]}):
            pass


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cluster_id": -1}, r"tigerbeetle\.cluster_id is -1"),
        ({"cluster_id": 2**128}, r"tigerbeetle\.cluster_id"),
        ({"timeout_ms": 0}, r"tigerbeetle\.timeout_ms is 0"),
        ({"concurrency": 0}, r"concurrency 0"),
        ({"close_ms": -1}, r"close_ms -1"),
        ({"addresses": ["nowhere"]}, r"tigerbeetle\.addresses\[0\] is 'nowhere'"),
    ],
)
def test_other_settings_that_can_never_work(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TigerBeetleLedger(**{"concurrency": 1, "close_ms": 0, **GOOD, **change})
