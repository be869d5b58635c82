"""A load of many users on all four pairs of services, which may be cut anywhere and gone on with on another server.

Each user sends one transfer at a time, over a connection of its own; so the order in which the engine takes them is
known. Among them are transfers of too much money, and users whose account in a core is full, so that the core refuses
for good and the transfer is rolled back: on every server alike, before a crash and after it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import trio

from transfer_engine.engine.services.registry import EXTERNAL
from transfer_engine.http.demo_client import Client, NoAnswer, open_client
from transfer_engine.http.demo_notes import Asked, Note, Notebook
from transfer_engine.schema.money import AMOUNT_MAX

MATCHING: Final = "matching"
"""A simulated core that freezes until its commit."""

VAULT: Final = "vault"
"""A simulated core without a freeze."""

SERVICES: Final[Sequence[dict[str, Any]]] = (
    {"name": "funding", "code": 2},
    {"name": "trading", "code": 3, "aliases": ["spot"]},
    {"name": MATCHING, "code": 10, "kind": "simulated_core"},
    {"name": VAULT, "code": 11, "kind": "simulated_core", "freezes": False},
)
"""What a server under this load is configured with."""

PAIRS: Final[Sequence[tuple[str, str]]] = (
    ("funding", "trading"),
    ("funding", MATCHING),
    ("trading", "funding"),
    (MATCHING, VAULT),
    (MATCHING, "trading"),
    ("trading", VAULT),
    (VAULT, "funding"),
    (VAULT, MATCHING),
)
"""Wallet to wallet, wallet to core, core to wallet, core to core, both ways and with both kinds of cores."""

ASSET_ID: Final = 1
UNIT: Final = 1_000_000
"""The least that one transfer of it may move; all amounts are some of these."""

FUNDS: Final = 1_000_000 * UNIT
"""What each user has at first in each service, in minor units."""

TOO_MUCH: Final = 1_000_000_000 * UNIT
"""More than any user ever has, and as much as one transfer may move."""

_FULL_EVERY: Final = 6
"""Of so many users one has a full account in the vault: whatever is sent there is refused."""

_TOO_MUCH_EVERY: Final = 11
"""Of so many transfers one is of too much money."""


class Load:
    """Users with their transfers; ``name`` makes their keys differ from other loads', ``first_user`` their users."""

    def __init__(
        self,
        notebook: Notebook,
        *,
        users: int,
        transfers_each: int,
        first_user: int = 1,
        name: str = "load",
    ) -> None:
        self._notebook = notebook
        self.users = range(first_user, first_user + users)
        self._plans = {user: list(_plan(name, user, transfers_each)) for user in self.users}
        self._credits = [asked for user in self.users for asked in _credits(name, user)]
        self.waiting = 0
        """Requests that are sent and not answered now."""

    @property
    def size(self) -> int:
        """How many transfers it has."""
        return sum(map(len, self._plans.values()))

    @property
    def credits(self) -> int:
        """How many credits give its users their money."""
        return len(self._credits)

    @property
    def notes(self) -> list[Note]:
        """The notes of those of its transfers that were sent."""
        noted = (self._notebook.find(asked) for plan in self._plans.values() for asked in plan)
        return [note for note in noted if note is not None]

    async def fund(self, url: str, *, funded: Callable[[], None] = lambda: None) -> None:
        """Give every user money in every service; ``funded`` is called for each credit.

        Raises:
            NoAnswer, NotHealed: a credit was not decided.
        """
        queue = iter(self._credits)

        async def work() -> None:
            async with open_client(url, self._notebook) as client:
                for asked in queue:
                    await client.ask_until_decided(self._notebook.note(asked))
                    funded()

        async with trio.open_nursery() as nursery:
            for _ in range(min(len(self._credits), 16)):
                nursery.start_soon(work)

    async def run(self, url: str, *, answered: Callable[[Note], None] = lambda _: None) -> None:
        """Send everything that has no final answer, each user in turn, until all is sent or the server goes away.

        What was sent before goes first, by its same key. ``answered`` is called for each answer. Cancellation leaves
        the requests under way unanswered; they are in the notes.
        """
        async with trio.open_nursery() as nursery:
            for plan in self._plans.values():
                nursery.start_soon(self._send, url, plan, answered)

    async def _send(self, url: str, plan: list[Asked], answered: Callable[[Note], None]) -> None:
        async with open_client(url, self._notebook) as client:
            for asked in plan:
                note = self._notebook.note(asked)
                if note.verdict is None and not await self._ask(client, note, answered):
                    return

    async def _ask(self, client: Client, note: Note, answered: Callable[[Note], None]) -> bool:
        """Send one; False where its user can't go on: the next one may not overtake it."""
        self.waiting += 1
        try:
            answer = await client.ask(note.asked)
        except NoAnswer:
            return False
        finally:
            self.waiting -= 1
        answered(note)
        return answer.status is not None

    async def settle(self, url: str) -> None:
        """Send everything that was sent and is not decided again, by its same key, until it is.

        Raises:
            NoAnswer, NotHealed: something stays undecided.
        """
        async with trio.open_nursery() as nursery:
            for plan in self._plans.values():
                noted = (self._notebook.find(asked) for asked in plan)
                undecided = [note for note in noted if note is not None and note.is_undecided]
                if undecided:
                    nursery.start_soon(self._settle, url, undecided)

    async def _settle(self, url: str, notes: list[Note]) -> None:
        async with open_client(url, self._notebook) as client:
            for note in notes:
                await client.ask_until_decided(note)


def _is_full(user: int) -> bool:
    return user % _FULL_EVERY == 0


def _credits(name: str, user: int) -> Iterator[Asked]:
    for service in SERVICES:
        target = service["name"]
        yield Asked(
            key=f"{name}-fund-{user}-{target}",
            source=EXTERNAL,
            target=target,
            user_id=user,
            asset_id=ASSET_ID,
            amount=AMOUNT_MAX if target == VAULT and _is_full(user) else FUNDS,
        )


def _plan(name: str, user: int, transfers: int) -> Iterator[Asked]:
    pairs = [(source, target) for source, target in PAIRS if not (_is_full(user) and source == VAULT)]
    for turn in range(transfers):
        source, target = pairs[(user + turn) % len(pairs)]
        is_too_much = (user * 7 + turn) % _TOO_MUCH_EVERY == 0
        yield Asked(
            key=f"{name}-{user}-{turn}",
            source=source,
            target=target,
            user_id=user,
            asset_id=ASSET_ID,
            amount=TOO_MUCH if is_too_much else (1 + (user * 31 + turn * 17) % 97) * UNIT,
            turn=turn,
        )
