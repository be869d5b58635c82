"""A door as a run sees it: of a server of the run's own, or of one that runs already."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from transfer_engine.benchmarks.door_api import DoorApi, NotAllowed, door_api
from transfer_engine.benchmarks.expectations import Expectations
from transfer_engine.benchmarks.faults import Victims, strike, victims_of
from transfer_engine.benchmarks.http_sender import http_sender
from transfer_engine.benchmarks.http_wire import Address, connect, parse_url
from transfer_engine.benchmarks.loops import Around
from transfer_engine.benchmarks.plan import FUNDS, SLOW_CORE, Fault, Plan, Target, Traffic
from transfer_engine.benchmarks.private_keyspace import PREFIX
from transfer_engine.benchmarks.recording import Recording
from transfer_engine.benchmarks.result import Books
from transfer_engine.benchmarks.sending import Order, Sender
from transfer_engine.benchmarks.served_engine import FINDINGS_MOST, ServedEngine, audit, served_engine
from transfer_engine.benchmarks.sources import Ground, Sources, open_ground
from transfer_engine.benchmarks.subject import Counters, counters_of
from transfer_engine.benchmarks.websocket_sender import websocket_sender
from transfer_engine.benchmarks.wrk_load import load_by_wrk

ACCOUNTS: Final = ("funding", "trading")
_SETTLE_S: Final = 90.0
_HELD_S: Final = 60.0
_PAUSE_S: Final = 0.2
_LOOKED_AT_MOST: Final = 2_000
"""Users whose balances are compared; of more, these many, evenly chosen."""
_PER_RUN: Final = 1_000_000
"""Numbers of users that a run on other people's books takes for its own."""

Balances = Mapping[tuple[int, str], tuple[int, int]]


class DoorSubject:
    """A door that is up and funded, and what can be looked at behind it."""

    is_here = False

    def __init__(
        self,
        expectations: Expectations,
        api: DoorApi,
        address: Address,
        token: str | None,
        *,
        server: ServedEngine | None,
        ground: Ground | None,
        users: range,
        before: Balances,
        is_own: bool,
    ) -> None:
        self.expectations = expectations
        self.address = address
        """Where the door is."""
        self._token = token
        self.server = server
        self.servers = ground.servers if ground is not None else ()
        self._victims = victims_of(ground, server) if ground is not None else Victims()
        self._api = api
        self._users = users
        self._before = before
        self._is_own = is_own
        self._told: list[Order] = []

    @property
    def sender(self) -> Sender:
        """Hands out the callers."""
        return self.expectations

    @property
    def pid(self) -> int | None:
        """The server's process; None where it is none of ours, or was killed just now."""
        return self.server.pid if self.server is not None else None

    async def counters(self) -> Counters | None:
        """Return what the engine has counted; None where it does not say, or was started anew amid the run."""
        if self.server is not None and self.server.starts > 1:
            return None
        statistics = await self._api.statistics()
        return counters_of(statistics) if statistics is not None else None

    async def load_by_wrk(self, plan: Plan, recording: Recording, around: Around) -> None:
        """Have wrk make a plan's load; what it leaves under way at the end has an outcome that nobody knows.

        Raises:
            RuntimeError: wrk can't, or failed.
        """
        await load_by_wrk(
            plan, recording, around, address=self.address, expectations=self.expectations, token=self._token
        )

    async def make(self, fault: Fault) -> None:
        """Do this to the server, or to what is behind it; what was told before is asked for again at the end.

        Raises:
            RuntimeError: that can't be done, or a killed server did not start again.
        """
        self._told += self.expectations.told
        await strike(fault, self._victims)

    async def books(self) -> Books:
        """Ask for what is unknown, compare balances with what was told; end a server of our own, audit its books."""
        expectations, server = self.expectations, self.server
        unknown = expectations.unknown
        if server is not None and server.pid is None:  # the load was over before its fault was
            await server.start()
        findings = await expectations.settle(within_s=_SETTLE_S)
        findings += await expectations.ask_told(self._told, within_s=_SETTLE_S)
        against = "what they had together" if expectations.nameless else "what was told"
        how = [f"balances of {len(self._users):,} users against {against}"]
        if unknown:
            how.append(f"{unknown:,} unknown outcomes asked for again")
        if self._told:
            how.append(f"{len(self._told):,} told before a fault asked for again")
        findings += wrong_balances(
            self._before,
            await self._balances_at_rest(),
            expectations.expected(),
            may_differ=bool(expectations.nameless),
        )
        if expectations.nameless:
            how.append(f"{expectations.nameless:,} outcomes that nobody waited for and no key names")
        if server is not None:
            await server.stop()
            if self._is_own:
                audited = await audit(server.settings)
                how.insert(0, audited.how)
                findings += audited.findings
        return Books(how="; ".join(how), findings=tuple(findings[:FINDINGS_MOST]))

    async def _balances_at_rest(self) -> Balances:
        """Return the balances once nothing is held any more, or after some time with what is."""
        until = trio.current_time() + _HELD_S
        while True:
            balances = await self._api.balances(self._users)
            if trio.current_time() > until or not any(frozen for _, frozen in balances.values()):
                return balances
            await trio.sleep(_PAUSE_S)


def wrong_balances(
    before: Balances, after: Balances, changes: Mapping[tuple[int, str], int], *, may_differ: bool
) -> list[str]:
    """Return which accounts hold anything else than what they held and what was told since; nothing may be held.

    With ``may_differ`` some outcomes can't be known: then money must not have come or gone, and no more is looked at.
    """
    wrong = [
        f"user {user_id} has {frozen} held in {account} (I7)"
        for (user_id, account), (_, frozen) in after.items()
        if frozen
    ]
    if may_differ:
        if (had := _sum(before)) != (have := _sum(after)):
            wrong.append(f"the users had {had} together, and have {have} (I1)")
        return wrong
    for key, (available, frozen) in before.items():
        have = sum(after.get(key, (0, 0)))
        if have != available + frozen + changes.get(key, 0):
            user_id, account = key
            wrong.append(
                f"user {user_id} had {available + frozen} in {account}, was told of {changes.get(key, 0):+}, "
                f"and has {have} (I2)"
            )
    return wrong


def _sum(balances: Balances) -> int:
    return sum(available + frozen for available, frozen in balances.values())


@asynccontextmanager
async def open_door_subject(target: Target, traffic: Traffic, sources: Sources) -> AsyncIterator[DoorSubject]:
    """Bring a door up and give the traffic's users money: of a server of the run's own, or at the target's URL.

    Raises:
        UNUSABLE: see :mod:`transfer_engine.benchmarks.sources`.
    """
    if target.url is not None:
        address = address_of(target.url)
        (await connect(address)).cut()  # who isn't there is told at once; later he is waited for
        async with _subject(target, traffic, address, sources.token) as subject:
            yield subject
        return
    with open_ground(sources, traffic) as ground:
        async with (
            served_engine(
                ground.settings,
                has_token=target.has_token,
                has_limits=target.has_limits,
                has_access_log=target.has_access_log,
            ) as server,
            _subject(
                target, traffic, server.address(target.door), server.token, server=server, ground=ground
            ) as subject,
        ):
            yield subject


@asynccontextmanager
async def _subject(
    target: Target,
    traffic: Traffic,
    address: Address,
    token: str | None,
    *,
    server: ServedEngine | None = None,
    ground: Ground | None = None,
) -> AsyncIterator[DoorSubject]:
    is_own = ground is not None and _is_own(ground)
    first = 1 if is_own else int(time.time()) * _PER_RUN + 1
    users = range(first, first + (1 if traffic.pick == "hot" else traffic.users))
    async with AsyncExitStack() as stack:
        api_address = address if server is None else server.address("express")
        api = await stack.enter_async_context(door_api(api_address, token))
        await _fund(api, users)
        if traffic.slow:
            await api.behave(SLOW_CORE, {"latency_ms": traffic.slow_ms})
        sender = await stack.enter_async_context(_sender(target, address, token))
        looked_at = users[:: max(len(users) // _LOOKED_AT_MOST, 1)]
        before = await api.balances(looked_at)
        expectations = Expectations(sender, repeats=traffic.replays > 0, first_user=first)
        yield DoorSubject(
            expectations,
            api,
            address,
            token,
            server=server,
            ground=ground,
            users=looked_at,
            before=before,
            is_own=is_own,
        )


def address_of(url: str) -> Address:
    """Return where a server is.

    Raises:
        RuntimeError: the URL is none.
    """
    try:
        return parse_url(url)
    except ValueError as error:
        raise RuntimeError(str(error)) from None


async def _fund(api: DoorApi, users: range) -> None:
    """Credit both accounts of each user.

    Raises:
        RuntimeError: the server does not let us; the message says what is missing.
    """
    try:
        await api.credit(users, ACCOUNTS, FUNDS, f"funds-{time.time_ns()}-")
    except NotAllowed as error:
        raise RuntimeError(
            f"{error}. The users of a run (here {users[0]} to {users[-1]}) get their money by admin credits: give a "
            "token with the scopes admin, transfer:any, transfer:read and transfer:write"
        ) from None


def _sender(target: Target, address: Address, token: str | None) -> AbstractAsyncContextManager[Sender]:
    if target.kind == "http":
        return http_sender(address, batch=target.batch, connections=target.connections, token=token)
    return websocket_sender(address, batch=target.batch, connections=target.connections, token=token)


def _is_own(ground: Ground) -> bool:
    """Tell whether all of the books are the run's own: those of others may change meanwhile."""
    settings = ground.settings
    is_ledger_own = settings.ledger == "embedded" or ground.tigerbeetle is not None
    return is_ledger_own and (settings.records == "sqlite" or settings.cassandra.keyspace.startswith(PREFIX))
