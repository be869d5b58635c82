"""A door as a run sees it: of a server of the run's own, or of one that runs already."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

from transfer_engine.benchmarks.door_api import DoorApi, NotAllowed, door_api
from transfer_engine.benchmarks.expectations import Expectations
from transfer_engine.benchmarks.http_sender import http_sender
from transfer_engine.benchmarks.http_wire import Address, parse_url
from transfer_engine.benchmarks.plan import FUNDS, SLOW_CORE, Plan, Target
from transfer_engine.benchmarks.private_keyspace import PREFIX
from transfer_engine.benchmarks.result import Books
from transfer_engine.benchmarks.sending import Order, Sender
from transfer_engine.benchmarks.served_engine import FINDINGS_MOST, ServedEngine, audit, served_engine
from transfer_engine.benchmarks.sources import Ground
from transfer_engine.benchmarks.subject import Counters, counters_of
from transfer_engine.benchmarks.websocket_sender import websocket_sender

ACCOUNTS: Final = ("funding", "trading")
_SETTLE_S: Final = 90.0
_HELD_S: Final = 60.0
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
        server: ServedEngine | None,
        ground: Ground | None,
        users: range,
        before: Balances,
        is_own: bool,
    ) -> None:
        self.expectations = expectations
        self.server = server
        self.servers = ground.servers if ground is not None else ()
        self.ground = ground
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

    def keep_told(self) -> None:
        """Remember the last orders that were told as committed: what a fault must not undo."""
        self._told += self.expectations.told

    async def books(self) -> Books:
        """Ask for what is unknown, compare balances with what was told; end a server of our own, audit its books."""
        expectations = self.expectations
        unknown, findings = expectations.unknown, []
        findings += await expectations.settle(within_s=_SETTLE_S)
        findings += await expectations.ask_told(self._told, within_s=_SETTLE_S)
        how = [f"balances of {len(self._users):,} users against what was told"]
        if unknown:
            how.append(f"{unknown:,} unknown outcomes asked for again")
        if self._told:
            how.append(f"{len(self._told):,} told before a fault asked for again")
        findings += wrong_balances(
            self._before,
            await self._api.balances(self._users),
            expectations.expected(),
            may_differ=bool(expectations.nameless),
        )
        if expectations.nameless:
            how.append(f"{expectations.nameless:,} outcomes of transfers without a key can't be known")
        if self.server is not None:
            await self.server.stop()
            if self._is_own:
                audited = await audit(self.server.settings)
                how.insert(0, audited.how)
                findings += audited.findings
        return Books(how="; ".join(how), findings=tuple(findings[:FINDINGS_MOST]))


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
async def served_door(plan: Plan, ground: Ground) -> AsyncIterator[DoorSubject]:
    """Start a server on this ground, and fund the traffic's users.

    Raises:
        RuntimeError: it did not start, or the users could not be funded.
        OSError: the sender can't connect.
    """
    target = plan.target
    is_own = _is_own(ground)
    async with (
        served_engine(
            ground.settings,
            has_token=target.has_token,
            has_limits=target.has_limits,
            has_access_log=target.has_access_log,
        ) as server,
        _subject(
            plan, server.address(target.door), server.token, server=server, ground=ground, is_own=is_own
        ) as subject,
    ):
        yield subject


@asynccontextmanager
async def running_door(plan: Plan, token: str | None) -> AsyncIterator[DoorSubject]:
    """Fund users of the run's own on the server at the plan's URL.

    Raises:
        RuntimeError: the users could not be funded, or the server does not answer.
        ValueError: the URL is none.
    """
    if plan.target.url is None:
        raise ValueError("the plan names no URL")
    async with _subject(plan, parse_url(plan.target.url), token) as subject:
        yield subject


@asynccontextmanager
async def _subject(
    plan: Plan,
    address: Address,
    token: str | None,
    *,
    server: ServedEngine | None = None,
    ground: Ground | None = None,
    is_own: bool = False,
) -> AsyncIterator[DoorSubject]:
    first = 1 if is_own else int(time.time()) * _PER_RUN + 1
    users = range(first, first + (1 if plan.traffic.pick == "hot" else plan.traffic.users))
    target = plan.target
    async with AsyncExitStack() as stack:
        api_address = address if server is None else server.address("express")
        api = await stack.enter_async_context(door_api(api_address, token))
        await _fund(api, users)
        if plan.traffic.slow:
            await api.behave(SLOW_CORE, {"latency_ms": plan.traffic.slow_ms})
        sender = await stack.enter_async_context(_sender(target, address, token))
        looked_at = users[:: max(len(users) // _LOOKED_AT_MOST, 1)]
        before = await api.balances(looked_at)
        expectations = Expectations(sender, repeats=plan.traffic.replays > 0, first_user=first)
        yield DoorSubject(expectations, api, server, ground, looked_at, before, is_own)


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
