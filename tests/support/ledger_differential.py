"""Real TigerBeetle, the embedded ledger and the model side by side: every answer of TigerBeetle is the right one."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import tigerbeetle as tb

from support.ledger_events import NUMBER_MAX, EventGenerator
from support.ledger_model import LedgerModel, expires_at
from transfer_engine.engine.ledger.embedded import open_embedded_ledger
from transfer_engine.engine.ledger.late_balances import LateLimits
from transfer_engine.engine.ledger.protocol import Ledger

ID_STRIDE = 1 << 14
"""Each run has this many ids of its own; the generator uses fewer."""
FOR_EVER_S = 100_000
"""A timeout after which no test looks."""
NO_EXPIRY = (0, 0, FOR_EVER_S)
TINY_LATE_LIMITS = LateLimits(accounts_most=5, transfers_most=9, slice_least=1)

_run_numbers = count(1)


def new_id_base(kind: str) -> int:
    """Return where the ids of a run begin that this process has not used before: hypothesis replays its examples."""
    number = next(_run_numbers)
    return {
        "small": number * ID_STRIDE,
        "across 64 bits": (number << 64) - 32,
        "with the top bit": NUMBER_MAX + 1 - number * ID_STRIDE,
    }[kind]


ID_KINDS = ["small", "across 64 bits", "with the top bit"]


@dataclass
class Tally:
    """What was compared so far."""

    runs: int = 0
    batches: int = 0
    events: int = 0
    queries: int = 0
    statuses: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.batches} batches with {self.events} events of {len(self.statuses)} statuses, "
            f"{self.queries} look-ups and queries"
        )


class SideBySide:
    """One run: the same batches to all three, and the same questions afterwards.

    The embedded ledger and the model are given TigerBeetle's own timestamps, so that answers are compared whole.
    """

    def __init__(self, real: Ledger, generate: EventGenerator, tally: Tally) -> None:
        self.real = real
        self.generate = generate
        self.model = generate.model
        self.tally = tally
        self.embedded: Ledger
        self.now_ns = 0
        self.last_timestamp = 0

    def expiries(self) -> list[int]:
        """When each open hold expires (ns), for those that ever do within a test."""
        holds = [self.model.transfers[one] for one, state in self.model.outcome_of_hold.items() if state == "pending"]
        return [expires_at(one) for one in holds if 0 < one.timeout < FOR_EVER_S]

    async def begin(self) -> None:
        """Make the first accounts and give them money."""
        await self.create_accounts(self.generate.first_accounts())
        await self.create_transfers(self.generate.first_money())

    async def submit_some(self) -> None:
        """Send one random batch."""
        draw = self.generate.random.random()
        if draw < 0.15:
            await self.create_accounts(self.generate.batch(self.generate.account))
        elif draw < 0.7:
            await self.create_transfers(self.generate.batch(self.generate.transfer))
        elif draw < 0.72:
            await self.create_transfers(self.generate.near_the_top())
        else:
            await self.create_transfers(self.generate.moves())

    async def create_accounts(self, batch: list[tb.Account]) -> None:
        results = await self.real.create_accounts(batch)
        first = self._begin_at(results, tb.CreateAccountStatus.EXISTS)
        self._compare_results("the model", batch, results, self.model.create_accounts(batch, first))
        answers = await self.embedded.create_accounts(batch)
        self._compare_results("the embedded ledger", batch, results, map(_as_pair, answers))

    async def create_transfers(self, batch: list[tb.Transfer], *, with_model: bool = True) -> None:
        """Without the model, which copies itself for each chain, if there are too many for it."""
        results = await self.real.create_transfers(batch)
        first = self._begin_at(results, tb.CreateTransferStatus.EXISTS)
        if with_model:
            self._compare_results("the model", batch, results, self.model.create_transfers(batch, first))
        answers = await self.embedded.create_transfers(batch)
        self._compare_results("the embedded ledger", batch, results, map(_as_pair, answers))

    def _begin_at(self, results: Sequence[tb.CreateAccountResult | tb.CreateTransferResult], exists: int) -> int:
        """Set the clocks to the timestamp that TigerBeetle gave the first event, and return it."""
        first = self.last_timestamp + 1
        for index, one in enumerate(results):
            if one.status != exists:  # which has the timestamp of the first time
                assert one.timestamp - index >= first, "TigerBeetle's timestamps go backwards"
                first = one.timestamp - index
                break
        self.last_timestamp = first + len(results) - 1
        self.pass_time_until(first)
        self.tally.batches += 1
        self.tally.events += len(results)
        self.tally.statuses.update(f"{type(one).__name__} {one.status.name}" for one in results)
        return first

    def pass_time_until(self, now_ns: int) -> None:
        """Let the other two have this time."""
        self.now_ns = now_ns
        self.model.expire(now_ns)

    def _compare_results(self, other: str, batch: Sequence[object], results: Sequence, answers: Iterable) -> None:
        rights = list(map(_as_pair, results))
        answers = list(answers)
        assert len(rights) == len(batch), f"TigerBeetle gave {len(rights)} answers to {len(batch)} events"
        assert len(answers) == len(batch), f"{other} gave {len(answers)} answers to {len(batch)} events"
        for index, (event, right, answer) in enumerate(zip(batch, rights, answers, strict=True)):
            assert answer == right, (
                f"event {index} of {len(batch)}: TigerBeetle says {right!r}, {other} says {answer!r} to\n{event!r}\n"
                "after\n" + "\n".join(map(repr, batch[:index]))
            )

    async def balances_agree(self) -> bool:
        """Whether TigerBeetle's accounts are already what the model says."""
        expected = [self.model.accounts[one] for one in self.generate.account_ids if one in self.model.accounts]
        return await self.real.lookup_accounts(self.generate.account_ids) == expected

    async def compare_books(self) -> None:
        """Compare all accounts with their balances, and all transfers."""
        account_ids = [0, NUMBER_MAX, *self.generate.account_ids[::-1], self.generate.account_ids[0]]
        expected = await self.real.lookup_accounts(account_ids)
        found = self.model.accounts
        self._compare_found("accounts", "the model", expected, [found[one] for one in account_ids if one in found])
        self._compare_found(
            "accounts", "the embedded ledger", expected, await self.embedded.lookup_accounts(account_ids)
        )
        transfer_ids = [
            0,
            NUMBER_MAX,
            *self.generate.transfer_ids,
            *self.generate.money_ids,
            self.generate.transfer_ids[0],
        ]
        expected = await self.real.lookup_transfers(transfer_ids)
        found = self.model.transfers
        self._compare_found("transfers", "the model", expected, [found[one] for one in transfer_ids if one in found])
        self._compare_found(
            "transfers", "the embedded ledger", expected, await self.embedded.lookup_transfers(transfer_ids)
        )

    async def compare_whole_ledger(self) -> None:
        """Compare all that carries the run's ledger number, page by page, with the embedded ledger alone."""
        for method in ("query_accounts", "query_transfers"):
            after = 0
            while True:
                wanted = query(ledger=self.generate.ledger, timestamp_min=after)
                expected = await getattr(self.real, method)(wanted)
                found = await getattr(self.embedded, method)(wanted)
                self._compare_found(f"{method}({wanted!r})", "the embedded ledger", expected, found)
                if not expected:
                    break
                after = expected[-1].timestamp + 1

    async def compare_queries(self, number: int) -> None:
        """Compare so many random filters of each kind, and the whole of each account."""
        everything = [
            tb.AccountFilter(
                account_id=one,
                user_data_128=0,
                user_data_64=0,
                user_data_32=0,
                code=0,
                timestamp_min=0,
                timestamp_max=0,
                limit=8189,
                flags=tb.AccountFilterFlags.DEBITS | tb.AccountFilterFlags.CREDITS,
            )
            for one in self.model.accounts
        ]
        for wanted in [*everything, *(self.generate.account_filter() for _ in range(number))]:
            for method in ("get_account_transfers", "get_account_balances"):
                await self._compare_query(method, wanted)
        for _ in range(number):
            wanted = self.generate.query_filter([self.generate.ledger, self.generate.ledger + 1])
            for method in ("query_accounts", "query_transfers"):
                await self._compare_query(method, wanted)

    async def _compare_query(self, method: str, wanted: tb.AccountFilter | tb.QueryFilter) -> None:
        expected = await getattr(self.real, method)(wanted)
        question = f"{method}({wanted!r})"
        self._compare_found(question, "the model", expected, getattr(self.model, method)(wanted))
        self._compare_found(question, "the embedded ledger", expected, await getattr(self.embedded, method)(wanted))

    def _compare_found(self, question: str, other: str, expected: list, found: list) -> None:
        self.tally.queries += 1
        assert found == expected, (
            f"{question}: {other} differs.\nTigerBeetle has {[one for one in expected if one not in found]}\n"
            f"instead of {[one for one in found if one not in expected]}\n(in order: {expected}\nand {found})"
        )


def query(*, ledger: int, timestamp_min: int) -> tb.QueryFilter:
    return tb.QueryFilter(
        user_data_128=0,
        user_data_64=0,
        user_data_32=0,
        ledger=ledger,
        code=0,
        timestamp_min=timestamp_min,
        timestamp_max=0,
        limit=8189,
        flags=tb.QueryFilterFlags.NONE,
    )


def _as_pair(result: tb.CreateAccountResult | tb.CreateTransferResult) -> tuple[int, object]:
    return result.timestamp, result.status


@asynccontextmanager
async def side_by_side(
    real: Ledger, path: Path, tally: Tally, *, id_kind: str, timeouts: Sequence[int] = NO_EXPIRY
) -> AsyncIterator[SideBySide]:
    """Open an embedded ledger on an empty file beside the real one, with ids and two ledger numbers of its own."""
    base = new_id_base(id_kind)
    number = next(_run_numbers)
    ledger = 2 * number if id_kind == "small" else 2**32 - 2 * number
    generate = EventGenerator(Random(0), LedgerModel(), base=base, ledger=ledger, timeouts=timeouts)
    run = SideBySide(real, generate, tally)
    # So little memory that it loads, evicts and merges all the time.
    async with open_embedded_ledger(
        path, clock_ns=lambda: run.now_ns, accounts_cached_max=2, recent_ids_max=40, late_limits=TINY_LATE_LIMITS
    ) as embedded:
        run.embedded = embedded
        await run.begin()
        yield run
        tally.runs += 1
