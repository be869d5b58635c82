"""Daily sums: what each user has moved of an asset today, right while many transfers are under way.

No durable counter: a sum is what the rows say, plus what is under way. A user's first transfer of an asset that has a
daily limit has it read from his history of today; from then on it is kept in memory:

* *reserved*: every transfer under way counts, from its admission, and to today, whenever it was accepted;
* *settled*: one that was committed counts to the UTC day of its ``created_at``, as its row says it;
* one that failed, was rolled back, refused, or answered from an earlier row gives back what it had reserved.

While a history is being read, transfers of that user end; what ends is noted, and merged by `req_id`. A row in between
that nobody drives here is counted as if it will be committed: another engine may be at it. What another engine takes
meanwhile is not seen: sums are exact where all transfers of a user come to one engine.

Should an engine that was taken for stopped write a last row in the very moment in which it is adopted here, its amount
may count twice for the rest of the day: too much, never too little.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple

import trio

from transfer_engine.engine.limits import DAY_MS, day_of
from transfer_engine.engine.open_transfers import OpenTransfer, OpenTransfers
from transfer_engine.engine.outcomes import Overloaded, RefusalCode
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.services.registry import EXTERNAL
from transfer_engine.schema.money import Asset
from transfer_engine.schema.transfers import TransferRecord, TransferState

PAGE_RECORDS: Final = 500
"""Rows of a history that are read at a time: some 200 KB."""

_EVICTIONS_AT_ONCE: Final = 8
"""Users looked at for one to be forgotten; those with transfers under way are kept, and are bounded by those."""

_NOTHING_MOVED: Final = frozenset({TransferState.FAILED, TransferState.ROLLED_BACK})


class Moved(NamedTuple):
    """An amount that counts to a day."""

    day: int
    asset_id: int
    amount: int


class _Sums:
    """One user's sums. Complete from ``day`` on: later days are there where the ledger's clock is ahead of ours."""

    __slots__ = ("day", "elsewhere", "reserved", "settled", "twice", "under_way")

    def __init__(self, day: int) -> None:
        self.day = day
        self.settled: dict[tuple[int, int], int] = {}
        """By day and asset."""
        self.reserved: dict[int, int] = {}
        """By asset."""
        self.under_way = 0
        """Transfers that count here, and are under way."""
        self.twice: set[int] = set()
        """Those of them whose committed row was counted: they reserve nothing, and settle nothing."""
        self.elsewhere: dict[int, Moved] = {}
        """Rows in between that nobody drives here, counted as settled."""

    def settle(self, moved: Moved) -> None:
        key = moved.day, moved.asset_id
        self.settled[key] = self.settled.get(key, 0) + moved.amount

    def reserve(self, asset_id: int, amount: int) -> None:
        self.reserved[asset_id] = self.reserved.get(asset_id, 0) + amount

    def turn_to(self, day: int) -> None:
        """Forget what was before a day."""
        self.day = day
        self.settled = {key: amount for key, amount in self.settled.items() if key[0] >= day}


class _Loading:
    """A history that is being read for one user."""

    __slots__ = ("done", "ended", "fault", "is_complete", "sums", "under_way_then")

    def __init__(self, day: int) -> None:
        self.sums = _Sums(day)
        self.done = trio.Event()
        self.is_complete = False
        self.fault: Exception | None = None
        self.ended: dict[int, Moved | None] = {}
        """What this engine ended meanwhile: None where nothing moved."""
        self.under_way_then: set[int] = set()
        """Transfers under way whose committed row was read."""


class DailySums:
    """The sums of those users that were asked for lately.

    Args:
        records: whose histories are read.
        open_transfers: tells of every transfer that begins and ends to be under way.
        assets: those with a ``daily_most`` are counted.
        clock_ms: the wall clock (Unix ms), which says what day it is.
        users_most: whose sums are remembered.
        host: runs work in a task of its own, or says that it can't.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        open_transfers: OpenTransfers,
        assets: Iterable[Asset],
        clock_ms: Callable[[], int],
        users_most: int,
        host: Callable[[Callable[[], Awaitable[None]]], bool],
    ) -> None:
        self._records = records
        self._open = open_transfers
        self._most: Mapping[int, int] = {
            asset.asset_id: asset.daily_most for asset in assets if asset.daily_most is not None
        }
        self._clock_ms = clock_ms
        self._users_most = users_most
        self._host = host
        self._users: OrderedDict[int, _Sums] = OrderedDict()
        self._loading: dict[int, _Loading] = {}
        if self._most:
            open_transfers.watch(self._added, self._removed)

    def __repr__(self) -> str:
        return f"<DailySums of {len(self._users)} users, {len(self._loading)} being read>"

    def __len__(self) -> int:
        return len(self._users)

    @property
    def today(self) -> int:
        """The UTC day, by the engine's clock."""
        return day_of(self._clock_ms())

    def used(self, user_id: int, asset_id: int) -> int | None:
        """Return what counts to today; None where it has to be loaded first."""
        sums = self._users.get(user_id)
        if sums is None:
            return None
        today = self.today
        if today != sums.day:
            if today < sums.day:  # the clock was set back over midnight, and that day's rows are not known
                del self._users[user_id]
                return None
            sums.turn_to(today)
        self._users.move_to_end(user_id)
        return sums.settled.get((today, asset_id), 0) + sums.reserved.get(asset_id, 0)

    def perhaps_repeated(self, user_id: int, asset_id: int) -> list[OpenTransfer]:
        """Return what is reserved by transfers that may turn out to have been answered before."""
        sums = self._users.get(user_id)
        return [
            transfer
            for transfer in self._open.of_user(user_id)
            if transfer.is_perhaps_repeated
            and transfer.intent.asset_id == asset_id
            and self._counts(transfer, user_id)
            and sums is not None
            and transfer.req_id not in sums.twice
        ]

    async def load(self, user_id: int) -> None:
        """Have a user's sums read, if they are not there. Who else asks for them waits for the same reading.

        Cancellation gives up waiting; the reading goes on.

        Raises:
            RecordsUnavailable: the record store did not answer.
            Overloaded: the engine is shutting down.
        """
        if user_id in self._users:
            return
        loading = self._loading.get(user_id)
        if loading is None:
            loading = _Loading(self.today)
            self._loading[user_id] = loading
            if not self._host(lambda: self._load(user_id, loading)):
                del self._loading[user_id]
                raise Overloaded(RefusalCode.SHUTTING_DOWN, "the engine is shutting down: try again elsewhere")
        await loading.done.wait()
        if loading.fault is not None:
            raise loading.fault

    async def load_here(self, user_id: int) -> None:
        """As :meth:`load`, for a task that ends with the engine and not before: it does the reading itself.

        Raises:
            RecordsUnavailable: the record store did not answer.
            Overloaded: the engine is shutting down.
        """
        if user_id in self._users:
            return
        loading = self._loading.get(user_id)
        if loading is None:
            loading = self._loading[user_id] = _Loading(self.today)
            await self._load(user_id, loading)
        else:
            await loading.done.wait()
        if loading.fault is not None:
            raise loading.fault

    async def _load(self, user_id: int, loading: _Loading) -> None:
        """Read a user's history of today, newest first."""
        try:
            from_ms = loading.sums.day * DAY_MS
            position: tuple[int, int] | None = None
            while True:
                page = await self._records.history(user_id, limit=PAGE_RECORDS, position=position)
                for record in page.records:
                    self._read(user_id, record, loading)
                position = page.next_position
                if position is None or page.records[-1].created_at < from_ms:
                    break
            self._loaded(user_id, loading)
            loading.is_complete = True
        except Exception as error:  # noqa: BLE001  whoever waits is told
            loading.fault = error
        finally:
            if loading.fault is None and not loading.is_complete:  # cancelled: the engine ends
                loading.fault = Overloaded(RefusalCode.SHUTTING_DOWN, "the engine is shutting down")
            del self._loading[user_id]
            loading.done.set()

    def _read(self, user_id: int, record: TransferRecord, loading: _Loading) -> None:
        req_id = record.req_id.int
        day = day_of(record.created_at)
        if (
            record.user_id != user_id
            or record.asset_id not in self._most
            or record.source == EXTERNAL
            or record.state in _NOTHING_MOVED
            or day < loading.sums.day
            or req_id in loading.ended
        ):
            return
        moved = Moved(day, record.asset_id, record.amount)
        if record.state is TransferState.COMMITTED:
            loading.sums.settle(moved)
            if self._open.find(req_id) is not None:
                loading.under_way_then.add(req_id)
        elif self._open.find(req_id) is None:
            loading.sums.elsewhere[req_id] = moved

    def _loaded(self, user_id: int, loading: _Loading) -> None:
        """Merge what was read with what has ended since, and with what is under way: from now on it is kept up."""
        sums = loading.sums
        for req_id, moved in loading.ended.items():
            sums.elsewhere.pop(req_id, None)
            if moved is not None and req_id not in loading.under_way_then:
                sums.settle(moved)
        for moved in sums.elsewhere.values():
            sums.settle(moved)
        for transfer in self._open.of_user(user_id):
            if self._counts(transfer, user_id):
                if transfer.req_id in loading.under_way_then:
                    sums.under_way += 1
                    sums.twice.add(transfer.req_id)
                else:
                    self._begin(sums, transfer)
        self._forget_some()
        self._users[user_id] = sums

    def _forget_some(self) -> None:
        """Make room for one: forget who was not asked for the longest, unless he has transfers under way."""
        for _ in range(_EVICTIONS_AT_ONCE):
            if len(self._users) < self._users_most:
                return
            user_id, sums = next(iter(self._users.items()))
            if sums.under_way:
                self._users.move_to_end(user_id)
            else:
                del self._users[user_id]

    def _counts(self, transfer: OpenTransfer, user_id: int) -> bool:
        intent = transfer.intent
        return intent.asset_id in self._most and intent.user_id == user_id and intent.source != EXTERNAL

    def _added(self, transfer: OpenTransfer) -> None:
        user_id = transfer.intent.user_id
        sums = self._users.get(user_id)
        if sums is not None and self._counts(transfer, user_id):
            self._begin(sums, transfer)

    def _begin(self, sums: _Sums, transfer: OpenTransfer) -> None:
        counted = sums.elsewhere.pop(transfer.req_id, None)
        if counted is not None:  # from now on it is driven here
            sums.settle(counted._replace(amount=-counted.amount))
        sums.under_way += 1
        sums.reserve(transfer.intent.asset_id, transfer.intent.amount)

    def _removed(self, transfer: OpenTransfer) -> None:
        intent = transfer.intent
        user_id = intent.user_id
        if not self._counts(transfer, user_id):
            return
        moved = None
        if transfer.state is TransferState.COMMITTED:
            moved = Moved(day_of(transfer.created_at), intent.asset_id, intent.amount)
        loading = self._loading.get(user_id)
        if loading is not None and transfer.state.is_terminal:
            loading.ended[transfer.req_id] = moved
        sums = self._users.get(user_id)
        if sums is None:
            return
        sums.under_way -= 1
        if transfer.req_id in sums.twice:
            sums.twice.discard(transfer.req_id)
            return
        sums.reserve(intent.asset_id, -intent.amount)
        if moved is not None and moved.day >= sums.day:
            sums.settle(moved)
