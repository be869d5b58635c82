"""Orders are what the traffic asks for, in its shares, and the same ones from the same seed."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.benchmarks.orders import HOT_USER, RECENT, Orders
from transfer_engine.benchmarks.plan import AMOUNT, REFUSED_AMOUNT, SLOW_CORE, Traffic

COUNT = 20_000
SHARE = st.sampled_from([0.0, 0.05, 0.2, 0.33])


def near(found: float, share: float) -> bool:
    """Whether a frequency of COUNT draws is within six standard deviations of what it should be."""
    return abs(found - share) <= 6 * (share * (1 - share) / COUNT) ** 0.5 + 1e-9


@given(users=st.integers(1, 50), replays=SHARE, refusals=SHARE, slow=SHARE, seed=st.integers(0, 2**32))
def test_the_same_traffic_makes_the_same_orders(
    users: int, replays: float, refusals: float, slow: float, seed: int
) -> None:
    traffic = Traffic(users=users, replays=replays, refusals=refusals, slow=slow, seed=seed)
    orders = Orders(traffic)
    assert Orders(traffic).take(300) == orders.take(100) + [orders.take(1)[0] for _ in range(200)]
    assert orders.made == 300


def test_another_seed_makes_others() -> None:
    users = [[order.user_id for order in Orders(Traffic(seed=seed)).take(50)] for seed in (1, 2)]
    assert users[0] != users[1]


def test_another_run_has_the_same_bodies_and_other_keys() -> None:
    first, second = Orders(Traffic(), "a-").take(20), Orders(Traffic(), "b-").take(20)
    assert [(order.user_id, order.source) for order in first] == [(order.user_id, order.source) for order in second]
    assert not {order.key for order in first} & {order.key for order in second}


@pytest.mark.parametrize(("replays", "refusals", "slow"), [(0.1, 0.2, 0.05), (0.5, 0.0, 0.0), (0.0, 0.0, 1.0)])
def test_shares(replays: float, refusals: float, slow: float) -> None:
    keys, kinds = set[str | None](), Counter[str]()
    for order in Orders(Traffic(replays=replays, refusals=refusals, slow=slow)).take(COUNT):
        if order.key in keys:
            kinds["replay"] += 1
        elif order.amount == REFUSED_AMOUNT:
            kinds["refusal"] += 1
        elif order.target == SLOW_CORE:
            kinds["slow"] += 1
        keys.add(order.key)
    for kind, share in (("replay", replays), ("refusal", refusals), ("slow", slow)):
        assert near(kinds[kind] / COUNT, share) or kinds[kind] / COUNT == share, kind


def test_a_replay_repeats_the_key_and_body_of_a_recent_order() -> None:
    seen = {}
    for order in Orders(Traffic(users=20, replays=0.3, refusals=0.1)).take(COUNT):
        earlier = seen.setdefault(order.key, order)
        assert (earlier.user_id, earlier.source, earlier.target, earlier.amount) == (
            order.user_id,
            order.source,
            order.target,
            order.amount,
        )
        assert order.number - earlier.number <= 20 * RECENT
        if earlier is not order:
            assert order.amount == AMOUNT


@pytest.mark.parametrize("exponent", [0.5, 1.1, 2.0])
def test_zipf(exponent: float) -> None:
    users = 100
    found = Counter(order.user_id for order in Orders(_zipf(users, exponent)).take(COUNT))
    whole = sum(rank**-exponent for rank in range(1, users + 1))
    for rank in (1, 2, 3, 10, 100):
        assert near(found[rank] / COUNT, rank**-exponent / whole), rank
    assert set(found) <= set(range(1, users + 1))


def _zipf(users: int, exponent: float) -> Traffic:
    return Traffic(users=users, pick="zipf", zipf_exponent=exponent)


def test_uniform() -> None:
    found = Counter(order.user_id for order in Orders(Traffic(users=10)).take(COUNT))
    assert all(near(found[user_id] / COUNT, 0.1) for user_id in range(1, 11))


def test_a_hot_user_has_its_share_beside_the_others() -> None:
    found = Counter(order.user_id for order in Orders(Traffic(users=1_000, hot_share=0.4)).take(COUNT))
    assert near(found[HOT_USER] / COUNT, 0.4 + 0.6 / 1_000)
    assert {order.user_id for order in Orders(Traffic(pick="hot")).take(100)} == {HOT_USER}


def test_every_other_transfer_of_a_user_goes_back() -> None:
    last: dict[int, str] = {}
    for order in Orders(Traffic(users=7)).take(500):
        assert {order.source, order.target} == {"funding", "trading"}
        assert order.source == ("trading" if last.get(order.user_id) == "funding" else "funding")
        last[order.user_id] = order.source
    assert {order.source for order in Orders(Traffic(both_directions=False)).take(500)} == {"funding"}


def test_what_the_engine_names_has_no_key() -> None:
    assert {order.key for order in Orders(Traffic(is_keyed=False)).take(100)} == {None}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"users": 0}, "users"),
        ({"replays": 1.1}, "replays"),
        ({"refusals": 0.6, "slow": 0.6}, "refusals"),
        ({"replays": 0.1, "is_keyed": False}, "keyed"),
        ({"pick": "zipf", "zipf_exponent": -1.0}, "zipf_exponent"),
    ],
)
def test_traffic_that_contradicts_itself(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Orders(Traffic(**wrong))
