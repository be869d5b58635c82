"""Rebuilding: compares all books with all records, and writes the last rows that are missing.

It is safe beside running engines, and may be run again at any time. What is younger than a margin is not looked at.
What a journal still has an intent of is left to the engines: they may have to ask a core yet, and a terminal row would
tell their recovery not to. What says something else than the ledger is reported, never overwritten. Rows go the way of
all rows: a lower version never replaces a higher one.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, ParamSpec, TypeVar
from uuid import UUID

import msgspec

from transfer_engine.actors import Backoff
from transfer_engine.engine.comparison import Case, Comparison
from transfer_engine.engine.ledger.paging import account_pages
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger, LedgerUnavailable
from transfer_engine.engine.legs import owner_of
from transfer_engine.engine.rebuilt_rows import rebuild
from transfer_engine.engine.reconciliation import Difference, Mismatch, Rules
from transfer_engine.engine.records.paging import PAGE_RECORDS_MOST
from transfer_engine.engine.records.protocol import RecordsDamaged, RecordStore, RecordsUnavailable
from transfer_engine.schema.transfers import TransferRecord, decode_intents

USERS_TRIED_MOST: Final = 100_000
"""Users that are tried for a transfer between cores, whose accounts are everybody's: some 0.3 s each such transfer."""

ATTEMPTS_MOST: Final = 10
"""Of one question to a backend that does not answer: for up to a minute. Then the run ends, and may be run again."""

_ROWS_IN_WRITE_MOST: Final = 500
_NS_IN_MS: Final = 1_000_000
_MENDABLE: Final = frozenset({Difference.MISSING_ROW, Difference.UNFINISHED_ROW})
_END_OF_TIME_MS: Final = (1 << 63) - 1

Asked = ParamSpec("Asked")
Result = TypeVar("Result")


class Progress(msgspec.Struct, frozen=True):
    """How far a run has got: what it reads, and the part of it that is done (0 to 1), None where nobody can know."""

    what: str
    done: float | None


class RebuildReport(msgspec.Struct, frozen=True):
    """What was looked at, what was found, and what stays. Differences are counted by their name."""

    is_written: bool
    """Whether rows were written; else it was a dry run."""
    ledger_transfers: int
    compared: int
    """Transfers that ended in the ledger and were held against their rows."""
    rows: int
    """Rows that were held against the ledger."""
    unfinished: int
    """Intents in the journals without a last row: the next start of their engine, or its adopter, ends them.

    Refused transfers whose row is missing are among them: a refusal leaves nothing in the ledger, so nobody can tell
    one from a transfer that was never sent, until it is sent again.
    """
    open_holds: int
    """Holds that stand for such an intent."""
    rebuilt: int
    """Rows that were written, or in a dry run would be."""
    uncertain: int
    """Of these: voided ones of which the ledger does not say whether they were failed or rolled back."""
    found: dict[str, int]
    left: dict[str, int]
    """What is left of ``found``: in a dry run everything."""
    examples: dict[str, list[Mismatch]]
    """The first ones that are left, by difference."""

    @property
    def agrees(self) -> bool:
        """Whether books and records agree now."""
        return not self.left


async def rebuild_records(
    ledger: Ledger,
    records: RecordStore,
    rules: Rules,
    *,
    now_ms: int,
    margin_ms: int | None,
    write: bool,
    examples_most: int = 10,
    progress: Callable[[Progress], None] = lambda _: None,
) -> RebuildReport:
    """Compare everything, and with ``write`` write the last rows that are missing.

    Cancellation leaves some rows written and others not: run it again.

    Args:
        ledger: the books.
        records: the rows and journals.
        rules: services and assets.
        now_ms: the wall clock, Unix ms.
        margin_ms: what the ledger did later than so long ago is not looked at; None where no engine can be running.
        write: False for a dry run.
        examples_most: differences of each kind that are kept word for word.
        progress: told how far it is, now and then.

    Raises:
        LedgerUnavailable, RecordsUnavailable: a backend did not answer, asked again and again.
        RecordsDamaged: a blob of a journal can't be understood.
    """
    work = _Rebuilding(ledger, records, rules, write=write, examples_most=examples_most, progress=progress)
    await work.read_intents()
    await work.follow_ledger(now_ms, margin_ms)
    await work.follow_rows()
    return work.report()


class _Rebuilding:
    def __init__(
        self,
        ledger: Ledger,
        records: RecordStore,
        rules: Rules,
        *,
        write: bool,
        examples_most: int,
        progress: Callable[[Progress], None],
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._comparison = Comparison(ledger, records, rules)
        self._write = write
        self._examples_most = examples_most
        self._progress = progress
        self._backoff = Backoff(first_ms=1_000)
        self._unsettled: set[int] = set()
        self._users: list[int] | None = None
        self._found: Counter[Difference] = Counter()
        self._left: Counter[Difference] = Counter()
        self._examples: dict[str, list[Mismatch]] = {}
        self._ledger_transfers = self._compared = self._rows = 0
        self._open_holds = self._rebuilt = self._uncertain = 0

    async def read_intents(self) -> None:
        """Read which transfers are an engine's matter still: journaled, without a last row.

        First of all: whatever the ledger did before the margin had its intent in a journal by now, or is settled.
        """
        self._progress(Progress("journals", None))
        for claim in await self._patiently(self._records.claims):
            await self._patiently(self._read_shard, claim.node)

    async def _read_shard(self, shard: int) -> None:
        mark = await self._records.low_water_mark(shard)
        async with aclosing(self._records.read_journal(shard, from_bucket=mark)) as blobs:
            async for blob in blobs:
                try:
                    intents = decode_intents(blob.body)
                except msgspec.MsgspecError as error:
                    raise RecordsDamaged(
                        f"journal blob (shard {blob.shard}, bucket {blob.bucket}, sequence {blob.sequence}) "
                        f"is damaged: {error}"
                    ) from error
                req_ids = [int.from_bytes(intent.req_id) for intent in intents]
                rows, _ = await self._comparison.find_rows(req_ids)
                self._unsettled |= {
                    req_id for req_id in req_ids if req_id not in rows or not rows[req_id].state.is_terminal
                }

    async def follow_ledger(self, now_ms: int, margin_ms: int | None) -> None:
        """Compare every transfer of the ledger, up to the margin, with its row."""
        until_ms = _END_OF_TIME_MS if margin_ms is None else now_ms - margin_ms
        to_ns = 0 if margin_ms is None else until_ms * _NS_IN_MS
        from_ns = first_ns = 0
        read, compare = self._comparison.ledger_page, self._comparison.compare_page
        while page := await self._patiently(read, from_ns=from_ns, to_ns=to_ns, limit=BATCH_EVENTS_MAX):
            first_ns = first_ns or page[0].timestamp
            from_ns = page[-1].timestamp + 1
            self._ledger_transfers += len(page)
            report = await self._patiently(compare, page, until_ms=until_ms)
            self._compared += report.compared
            for mismatch in report.certain:
                self._note(mismatch)
            await self._treat(report.cases, until_ms)
            span_ns = max(now_ms * _NS_IN_MS, from_ns) - first_ns
            self._progress(Progress("ledger", (from_ns - first_ns) / span_ns))

    async def follow_rows(self) -> None:
        """Find the rows that say more than the ledger."""
        position: int | None = None
        while True:
            try:
                page = await self._patiently(self._comparison.row_page, position, limit=PAGE_RECORDS_MOST)
            except RecordsDamaged as error:
                what = f"the rows behind the {self._rows:,}th in the store's order can't be read: {error}"
                self._note(Mismatch(Difference.UNREADABLE_ROW, UUID(int=0), what))
                return
            for mismatch in await self._patiently(self._comparison.compare_rows, page.records):
                self._note(mismatch)
            self._rows += len(page.records)
            position = page.next_position
            self._progress(Progress("records", None))
            if position is None:
                return

    def report(self) -> RebuildReport:
        """Return what came out."""
        return RebuildReport(
            is_written=self._write,
            ledger_transfers=self._ledger_transfers,
            compared=self._compared,
            rows=self._rows,
            unfinished=len(self._unsettled),
            open_holds=self._open_holds,
            rebuilt=self._rebuilt,
            uncertain=self._uncertain,
            found=_by_name(self._found),
            left=_by_name(self._left),
            examples={kind.value: self._examples[kind] for kind in Difference if kind in self._examples},
        )

    async def _treat(self, cases: Sequence[Case], until_ms: int) -> None:
        to_write: dict[int, tuple[TransferRecord, list[Mismatch]]] = {}
        for case in cases:
            req_id = case.legs.req_id
            is_engines = req_id in self._unsettled
            mendable = [mismatch for mismatch in case.mismatches if mismatch.difference in _MENDABLE]
            for mismatch in case.mismatches:
                if mismatch not in mendable:
                    self._note(mismatch)
            if case.is_open and is_engines:
                self._open_holds += 1
            elif case.is_open and not case.mismatches:
                what = "its hold is open, and no journal has its intent: no engine will end it"
                self._note(Mismatch(Difference.STRANDED_HOLD, UUID(int=req_id), what))
            elif mendable and not is_engines:
                made = rebuild(case.legs, case.row, self._comparison.rules, await self._known_users(case))
                if isinstance(made, str):
                    for mismatch in mendable:
                        self._note(msgspec.structs.replace(mismatch, what=f"{mismatch.what}; no rebuilding: {made}"))
                else:
                    self._uncertain += not made.is_state_certain
                    to_write[req_id] = made.row, mendable
        await self._mend(to_write, until_ms)

    async def _mend(self, to_write: dict[int, tuple[TransferRecord, list[Mismatch]]], until_ms: int) -> None:
        """Write rows and look whether they are there now; in a dry run only count them."""
        self._rebuilt += len(to_write)
        if not self._write:
            for _, mismatches in to_write.values():
                for mismatch in mismatches:
                    self._note(mismatch)
            return
        rows = [row for row, _ in to_write.values()]
        for start in range(0, len(rows), _ROWS_IN_WRITE_MOST):
            part = rows[start : start + _ROWS_IN_WRITE_MOST]
            await self._patiently(self._records.write, [], part)
            req_ids = [row.req_id.int for row in part]
            for case in await self._patiently(self._comparison.compare_again, req_ids, until_ms=until_ms):
                for mismatch in case.mismatches:
                    self._left[mismatch.difference] += 1
                    self._keep(mismatch)
        self._found.update(mismatch.difference for _, found in to_write.values() for mismatch in found)

    async def _known_users(self, case: Case) -> Sequence[int]:
        """Return whom the ledger has accounts of, where that is needed to know whose transfer it was."""
        sides = self._comparison.rules.sides(case.legs.hold) if case.legs.hold is not None else None
        if sides is None or (sides[1] and sides[3]):
            return ()
        if self._users is None:
            users: dict[int, None] = {}
            async with aclosing(account_pages(self._ledger)) as pages:
                async for page in pages:
                    users |= {user_id: None for account in page if (user_id := owner_of(account.id)[0])}
                    if len(users) >= USERS_TRIED_MOST:
                        break
            self._users = list(users)[:USERS_TRIED_MOST]
        return self._users

    def _note(self, mismatch: Mismatch) -> None:
        """Count a difference that stays."""
        self._found[mismatch.difference] += 1
        self._left[mismatch.difference] += 1
        self._keep(mismatch)

    def _keep(self, mismatch: Mismatch) -> None:
        kept = self._examples.setdefault(mismatch.difference, [])
        if len(kept) < self._examples_most:
            kept.append(mismatch)

    async def _patiently(
        self, ask: Callable[Asked, Awaitable[Result]], *arguments: Asked.args, **options: Asked.kwargs
    ) -> Result:
        """Ask again where a backend does not answer; all questions, and the writes, change nothing when repeated."""
        for attempt in range(1, ATTEMPTS_MOST):
            try:
                return await ask(*arguments, **options)
            except (LedgerUnavailable, RecordsUnavailable):
                await self._backoff.sleep(attempt)
        return await ask(*arguments, **options)


def _by_name(counts: Counter[Difference]) -> dict[str, int]:
    return {kind.value: counts[kind] for kind in Difference if counts[kind]}
