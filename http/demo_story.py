"""The story that the demo tells, step by step. Every step says what it expects and fails if it is told otherwise."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from transfer_engine.engine.outcomes import RefusalCode
from transfer_engine.engine.services.registry import EXTERNAL
from transfer_engine.http.demo_client import Client, NotHealed, open_client
from transfer_engine.http.demo_load import MATCHING, SERVICES, VAULT, Load
from transfer_engine.http.demo_notes import Answer, Asked, Note, Notebook
from transfer_engine.http.demo_server import ServerProcess
from transfer_engine.schema.transfers import TransferState, TransferStatus

CONFIG: Final[dict[str, Any]] = {
    "services": list(SERVICES),
    "deadline_ms": 1_000,
    "service_timeout_ms": 500,
    "scan_interval_ms": 250,
    "stale_after_ms": 500,
    "log_format": "json",
}
"""Short times, so that nobody has to wait for the scanner: by default it looks every 5 s for what is 30 s old."""

USER: Final = 4_001
_USDT: Final = 1
_UNIT: Final = 100_000_000
_SLOW_MS: Final = 60_000
_CORE_LATENCY_MS: Final = 40
"""What the cores take for a call in the storm: so that many transfers stand between their hold and their end."""

_TRANSFERS_EACH: Final = 4
_LEFT: Final = 40
"""Characters of a line's left part: a line has at most 80."""

_COLOURS: Final = {
    TransferStatus.COMMITTED: "green",
    TransferStatus.PENDING: "yellow",
    TransferStatus.FAILED: "red",
    TransferStatus.ROLLED_BACK: "magenta",
}


class StoryBroken(Exception):
    """Something was not as it should be; the message says what."""


class Story:
    """Tells the story on a console, with one server process at a time on one directory."""

    def __init__(self, console: Console, directory: Path, *, transfers: int) -> None:
        self.notebook = Notebook()
        self.figures: dict[str, Any] = {}
        """The last server's statistics, from before it was stopped."""
        self.server: ServerProcess | None = None
        self.load = Load(
            self.notebook,
            users=max(1, transfers // _TRANSFERS_EACH),
            transfers_each=_TRANSFERS_EACH,
            first_user=10_001,
        )
        self._console = console
        self.directory = directory
        self._chapters = 0

    async def tell(self) -> None:
        """Tell all of it; the server has stopped then. Cancellation leaves a server running: end it.

        Raises:
            StoryBroken, ServerDied, NoAnswer, NotHealed, trio.TooSlowError, httpx.HTTPError: it went wrong.
        """
        self._chapter("A server of its own")
        server = await self._start()
        async with open_client(server.url, self.notebook) as client:
            await self._both_directions(client)
            await self._refusal(client)
            await self._same_key(client)
            await self._slow_service(client)
            await self._refusing_core(client)
        await self._storm(server)
        server = await self._recovery()
        await self._resubmission(server)
        await self._stop(server)

    def _chapter(self, title: str) -> None:
        self._chapters += 1
        self._console.print(f"\n[bold]{self._chapters}  {title}[/bold]")

    def _say(self, what: str, told: str = "", colour: str = "") -> None:
        """Print one line: what was done on the left, what came of it on the right."""
        line = Text(f"   {what:<{_LEFT}} " if told else f"   {what}")
        line.append(told, style=colour)
        self._console.print(line, soft_wrap=True)

    def _told(self, what: str, answer: Answer, detail: str = "") -> None:
        colour = _COLOURS.get(answer.status, "") if answer.status is not None else "red"
        told = answer.status or f"{answer.http_status} {answer.code}"
        self._say(what, f"{told}{f': {answer.message}' if answer.message and not detail else detail}", colour)

    async def _start(self) -> ServerProcess:
        began = time.perf_counter()
        self.server = await ServerProcess.start(self.directory, CONFIG)
        self._say(f"transfer-engine serve, pid {self.server.pid}", f"ready after {time.perf_counter() - began:.1f} s")
        return self.server

    async def _ask(
        self, client: Client, source: str, target: str, units: int, key: str, *, expect: TransferStatus | None
    ) -> Answer:
        asked = Asked(key=key, source=source, target=target, user_id=USER, asset_id=_USDT, amount=units * _UNIT)
        answer = await client.ask(asked)
        if answer.status is not expect:
            raise StoryBroken(f"{key}: {answer} instead of {expect}")
        return answer

    async def _both_directions(self, client: Client) -> None:
        self._chapter("Both directions")
        for source, target, units in (
            (EXTERNAL, "funding", 1_000),
            ("funding", "trading", 250),
            ("trading", "funding", 100),
        ):
            answer = await self._ask(
                client, source, target, units, f"{source}-{target}", expect=TransferStatus.COMMITTED
            )
            self._told(f"{_money(units)} {source} → {target}", answer, f" in {answer.took_ms:.0f} ms")
        await self._expect_balances(client, funding=850, trading=150)

    async def _refusal(self, client: Client) -> None:
        self._chapter("A refusal")
        answer = await self._ask(client, "trading", "funding", 9_999, "too-much", expect=TransferStatus.FAILED)
        self._told(f"{_money(9_999)} trading → funding", answer)
        await self._expect_balances(client, funding=850, trading=150)

    async def _same_key(self, client: Client) -> None:
        self._chapter("A key that comes again")
        first = await self._ask(client, "funding", "trading", 50, "order-17", expect=TransferStatus.COMMITTED)
        self._told(f"{_money(50)} funding → trading, key order-17", first)
        again = await self._ask(client, "funding", "trading", 50, "order-17", expect=TransferStatus.COMMITTED)
        if not again.is_replay:
            raise StoryBroken(f"order-17 was taken twice: {again}")
        self._told("the same again", again, ", replayed: nothing moved")
        other = await self._ask(client, "funding", "trading", 60, "order-17", expect=None)
        if other.code != RefusalCode.KEY_REUSED:
            raise StoryBroken(f"order-17 with another amount: {other}")
        self._told("the same key with another amount", other, ": nothing moved")
        await self._expect_balances(client, funding=800, trading=200)

    async def _slow_service(self, client: Client) -> None:
        self._chapter("A slow service")
        await client.behave(MATCHING, ops=["deposit"], latency_ms=_SLOW_MS)
        self._say(f"{MATCHING} (a core) is told to take {_SLOW_MS // 1000} s a call")
        answer = await self._ask(client, "funding", MATCHING, 40, "slow", expect=TransferStatus.PENDING)
        record = await client.record(self._asked("slow"))
        self._told(
            f"{_money(40)} funding → {MATCHING}", answer, f" after {answer.took_ms / 1000:.1f} s, {record.state.value}"
        )
        answer = await self._ask(client, "funding", "trading", 10, "behind-slow", expect=TransferStatus.COMMITTED)
        self._told(f"{_money(10)} funding → trading, behind it", answer, f" in {answer.took_ms:.0f} ms: nobody waits")
        await client.behave(MATCHING)
        began = time.perf_counter()
        while record.state is not TransferState.COMMITTED:
            if time.perf_counter() - began > 30:
                raise StoryBroken(f"the scanner has not committed it: {record}")
            await trio.sleep(0.05)
            record = await client.record(self._asked("slow"))
        told = f"committed by the scanner, replay {record.retry_count}"
        self._say(f"{MATCHING} is well again", told, _COLOURS[TransferStatus.COMMITTED])
        await self._ask(client, "funding", MATCHING, 40, "slow", expect=TransferStatus.COMMITTED)

    async def _refusing_core(self, client: Client) -> None:
        self._chapter("A core that refuses")
        await client.behave(VAULT, ops=["deposit"], refuse="closed for today")
        answer = await self._ask(client, MATCHING, VAULT, 15, "refused", expect=TransferStatus.ROLLED_BACK)
        self._told(f"{_money(15)} {MATCHING} → {VAULT}", answer)
        await client.behave(VAULT)
        await self._expect_balances(client, funding=750, trading=210, matching=40)

    async def _storm(self, server: ServerProcess) -> None:
        load = self.load
        self._chapter(f"kill -9 in the middle of {load.size:,} transfers of {len(load.users)} users")
        with self._progress("money for the users", load.credits) as advance:
            await load.fund(server.url, funded=advance)
        async with open_client(server.url, self.notebook) as client:
            for core in (MATCHING, VAULT):
                await client.behave(core, latency_ms=_CORE_LATENCY_MS)
        under_way = 0
        answers = 0

        def answered(_: Note) -> None:
            nonlocal answers, under_way
            answers += 1
            advance()
            if answers == load.size // 2:
                under_way = load.waiting
                server.send(signal.SIGKILL)

        with self._progress("wallets and cores, all pairs", load.size) as advance:
            await load.run(server.url, answered=answered)
            returncode = await server.wait()
        if returncode != -signal.SIGKILL:
            raise StoryBroken(f"the server ended with {returncode} by itself")
        self._say(f"kill -9 {server.pid} after {answers:,} answers", f"{under_way:,} requests under way", "red")

    async def _recovery(self) -> ServerProcess:
        self._chapter("Recovery")
        server = await self._start()
        began = time.perf_counter()
        async with open_client(server.url, self.notebook) as client:
            figures = await client.healed()
        self._say(
            f"{figures['recovered']:,} unfinished transfers were found",
            f"all ended within {time.perf_counter() - began:.1f} s",
            "green",
        )
        return server

    async def _resubmission(self, server: ServerProcess) -> None:
        load = self.load
        unanswered = [note for note in load.notes if note.is_unanswered]
        begun = len(load.notes)
        with self._progress("unanswered ones again, then the rest", load.size) as advance:
            for note in load.notes:
                if note.verdict is not None:
                    advance()
            await load.run(server.url, answered=lambda _: advance())
        await load.settle(server.url)
        if undecided := self.notebook.undecided:
            raise NotHealed(f"{len(undecided)} transfers have no final answer: {undecided[0]}")
        replayed = sum(note.answers[0].is_replay for note in unanswered)
        self._say(
            f"{len(unanswered):,} sent again by the same keys",
            f"{replayed:,} had happened, {len(unanswered) - replayed:,} happened now",
        )
        verdicts = [note.verdict for note in load.notes]
        told = ", ".join(f"{verdicts.count(status):,} {status}" for status in _COLOURS if status in verdicts)
        self._say(f"{load.size - begun:,} more sent; {told}")

    async def _stop(self, server: ServerProcess) -> None:
        async with open_client(server.url, self.notebook) as client:
            self.figures = await client.healed()
        returncode = await server.stop()
        if returncode != 0:
            raise StoryBroken(f"the server ended with {returncode} at SIGTERM")

    def _asked(self, key: str) -> Asked:
        return next(note.asked for note in self.notebook if note.asked.key == key)

    async def _expect_balances(self, client: Client, **units: int) -> None:
        balances = await client.balances(USER)
        expected = {(account, _USDT): amount * _UNIT for account, amount in units.items()}
        if {place: amount for place, amount in balances.items() if amount} != expected:
            raise StoryBroken(f"user {USER} has {balances}, and should have {expected}")
        told = ", ".join(f"{account} {amount}" for account, amount in units.items())
        self._say(f"user {USER} has {told} USDT")

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        columns = (TextColumn(f"   {{task.description:<{_LEFT - 1}}}"), BarColumn(bar_width=20), MofNCompleteColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda: progress.advance(task)


def _money(units: int) -> str:
    return f"{units:,} USDT"
