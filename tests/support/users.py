"""Users who send one transfer after the other, by keys of their own, and lose patience with no engine.

Where an engine goes away they go on with the next one, by the same key; where they are refused they try again, or (some
of them) never come back with that request: then nothing may ever be seen of it.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import trio

from transfer_engine.engine.services.registry import EXTERNAL
from transfer_engine.http.demo_books import Books
from transfer_engine.http.demo_client import Client, NoAnswer, open_client
from transfer_engine.http.demo_load import ASSET_ID, FUNDS, TOO_MUCH, UNIT
from transfer_engine.http.demo_notes import Asked, Note, Notebook

WALLET_PAIRS = (("funding", "trading"), ("trading", "funding"))

PATIENCE_S = 90.0
"""How long other processes' progress is waited for."""

ANSWER_S = 8.0
"""How long a user waits for an answer before he takes the engine for gone: beyond the engines' own deadlines."""

_PAUSE_S = 0.1
_TOO_MUCH_EVERY = 13
_GIVES_UP_EVERY = 4
"""Of so many users one does not come back with a request that was refused."""

_DIES_EVERY = 5
"""Of so many users one dies with the engine: nobody asks for his requests any more."""

_EVERYWHERE_EVERY = 4
"""Of so many users one sends each request to all engines at once, where there are several."""


class Users:
    """Users of the engines at ``urls``, from ``first`` on. Made on a notebook that other users may share."""

    def __init__(
        self,
        notebook: Notebook,
        urls: Sequence[str],
        *,
        number: int = 16,
        first: int = 1,
        pairs: Sequence[tuple[str, str]] = WALLET_PAIRS,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.notebook = notebook
        self.urls = list(urls)
        self.ids = range(first, first + number)
        self.pairs = pairs
        self.answered = 0
        """Answers so far that were about a transfer, `pending` among them."""
        self.pending = 0
        self.refused = 0
        """Answers so far that no transfer was taken."""
        self.unanswered = 0
        self._answer_s = answer_s
        self._is_enough = False

    def __repr__(self) -> str:
        return (
            f"<Users {self.answered} answers, {self.pending} pending, {self.refused} refused, {self.unanswered} none>"
        )

    async def fund(self) -> None:
        """Give everybody money in each service that transfers leave."""
        gifts = [
            Asked(
                key=f"fund-{user}-{account}",
                source=EXTERNAL,
                target=account,
                user_id=user,
                asset_id=ASSET_ID,
                amount=FUNDS,
            )
            for user in self.ids
            for account in sorted({source for source, _ in self.pairs})
        ]

        async def give(asked: Asked) -> None:
            async with open_client(self.urls[0], self.notebook) as client:
                await client.ask_until_decided(self.notebook.note(asked))

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for asked in gifts:
                    nursery.start_soon(give, asked)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send until :meth:`stop`; then return once every request under way is answered, or taken for lost."""
        async with trio.open_nursery() as nursery:
            for user in self.ids:
                is_everywhere = len(self.urls) > 1 and user % _EVERYWHERE_EVERY == 0
                nursery.start_soon(self._live_everywhere if is_everywhere else self._live, user)
            task_status.started()

    def stop(self) -> None:
        """Let nobody begin anything more."""
        self._is_enough = True

    async def until(self, accept: Callable[["Users"], bool]) -> None:
        """Wait until what was answered is accepted."""
        with trio.move_on_after(PATIENCE_S):
            while not accept(self):  # noqa: ASYNC110  other processes' progress sets no event of ours
                await trio.sleep(_PAUSE_S)
            return
        raise AssertionError(f"no progress within {PATIENCE_S:g} s: {self!r}")

    async def until_answers(self, more: int) -> None:
        """Wait for so many more answers about transfers."""
        enough = self.answered + more
        await self.until(lambda users: users.answered >= enough)

    async def until_decided(self, more: int) -> None:
        """Wait for so many more final answers."""
        enough = self._decided + more
        await self.until(lambda users: users._decided >= enough)

    async def settle(self) -> None:
        """Ask for all that is undecided again, by the same keys, until it is decided; first engine first."""
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for user in self.ids:
                    nursery.start_soon(self._settle_one, user)

    @property
    def _decided(self) -> int:
        return self.answered - self.pending

    async def _live(self, user: int) -> None:
        """Stick to one engine as long as it answers; each transfer is sent once the former was answered."""
        async with AsyncExitStack() as stack:
            clients = await self._connect(stack)
            at = user % len(clients)
            turn = 0
            while not self._is_enough:
                note = self.notebook.note(self._asked(user, turn, in_turn=True))
                if await self._ask(clients[at], note):
                    turn += 1
                elif len(note.answers) < note.sent:
                    if len(clients) > 1 and user % _DIES_EVERY == 2:
                        self._die(user)
                        return
                    at = await self._move_on(clients, at, user)
                else:
                    if user % _GIVES_UP_EVERY == 1 and all(answer.status is None for answer in note.answers):
                        note.is_abandoned = True
                        turn += 1
                    await trio.sleep(_PAUSE_S)

    def _die(self, user: int) -> None:
        for note in self._undecided(user):
            note.is_abandoned = True

    async def _live_everywhere(self, user: int) -> None:
        """Send each request to all engines at once, and go on once one of them has answered."""
        async with AsyncExitStack() as stack:
            clients = await self._connect(stack)
            turn = 0
            while not self._is_enough:
                note = self.notebook.note(self._asked(user, turn, in_turn=False))
                async with trio.open_nursery() as nursery:
                    for client in clients:
                        nursery.start_soon(self._ask, client, note)
                if any(answer.status is not None for answer in note.answers):
                    turn += 1
                else:
                    await trio.sleep(_PAUSE_S)

    async def _connect(self, stack: AsyncExitStack) -> list[Client]:
        return [
            await stack.enter_async_context(open_client(url, self.notebook, answer_s=self._answer_s))
            for url in self.urls
        ]

    async def _ask(self, client: Client, note: Note) -> bool:
        """Send one; True where it was answered about the transfer."""
        try:
            answer = await client.ask(note.asked)
        except NoAnswer:
            self.unanswered += 1
            return False
        if answer.status is None:
            self.refused += 1
            return False
        self.answered += 1
        if note.verdict is None:
            self.pending += 1
        return True

    async def _move_on(self, clients: list[Client], at: int, user: int) -> int:
        """Take what is undecided to the next engine that answers, in order; return which one that is."""
        while not self._is_enough:
            at = (at + 1) % len(clients)
            await trio.sleep(_PAUSE_S)
            if await self._decide(clients[at], user):
                break
        return at

    async def _decide(self, client: Client, user: int) -> bool:
        for note in self._undecided(user):
            while note.verdict is None:
                unanswered = self.unanswered
                if not await self._ask(client, note) or note.verdict is None:
                    if self.unanswered > unanswered or self._is_enough:
                        return False
                    await trio.sleep(_PAUSE_S)
        return True

    async def _settle_one(self, user: int) -> None:
        async with AsyncExitStack() as stack:
            clients = await self._connect(stack)
            for note in self._undecided(user):
                at = 0
                while note.verdict is None:
                    if not await self._ask(clients[at], note):
                        at = (at + 1) % len(clients)
                    await trio.sleep(_PAUSE_S)

    def _undecided(self, user: int) -> list[Note]:
        return [note for note in self.notebook.undecided if note.asked.user_id == user]

    def _asked(self, user: int, turn: int, *, in_turn: bool) -> Asked:
        source, target = self.pairs[(user + turn) % len(self.pairs)]
        is_too_much = (user * 7 + turn) % _TOO_MUCH_EVERY == 0
        return Asked(
            key=f"{user}-{turn}",
            source=source,
            target=target,
            user_id=user,
            asset_id=ASSET_ID,
            amount=TOO_MUCH if is_too_much else (1 + (user * 31 + turn * 17) % 97) * UNIT,
            turn=turn if in_turn else None,
        )


def traces_of_refused(notebook: Notebook, books: Books) -> list[str]:
    """Return the requests that were refused whenever they were sent, and left a trace all the same."""
    return [
        note.asked.key
        for note in notebook
        if note.sent
        and len(note.answers) == note.sent
        and all(answer.status is None for answer in note.answers)
        and (note.asked.req_id in books.rows or note.asked.req_id in books.ledger)
    ]
