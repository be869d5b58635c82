"""An engine that leaves transfers unfinished: run as a process of its own, and killed by whoever started it.

It is a real engine on the books that it is given. Its intents become durable as always; then its ledger answers a share
of the transfers and is silent to the others, and its record store takes no rows. So a part of them has moved and has no
row, and the rest was never asked for: what `kill -9` leaves at its worst.
"""

import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from tigerbeetle import CreateTransferResult, Transfer

from transfer_engine.benchmarks.plan import AMOUNT, ASSET_ID, FUNDS
from transfer_engine.engine import Engine, Settings, TransferOrder, tune_garbage_collection
from transfer_engine.engine.assembly import engine_on
from transfer_engine.engine.backends import open_backends
from transfer_engine.engine.former_lives import Alone, LifeFile
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.records.protocol import JournalBlob, RecordStore
from transfer_engine.schema.transfers import TransferRecord, decode_intents

IS_LEFT: Final = "left"
"""What the process says, as a line, once it can be killed."""

_BATCH_MOST: Final = 2_000
"""Transfers of one user: what an actor takes at a time, at most; what it does not take has no intent yet."""
_FUNDED_AT_A_TIME: Final = 1_000
_DEADLINE_MS: Final = 600_000
_LOOK_S: Final = 0.05


class Leave(msgspec.Struct, frozen=True):
    """What is to be left behind, and where. ``settings`` are an engine's, as JSON."""

    settings: str
    transfers: int
    users: int
    moved: float
    """The share that the ledger carries out."""

    @property
    def everyone(self) -> range:
        """The users whose transfers they are: enough of them that each one's fit one batch."""
        return range(1, 1 + max(self.users, -(-self.transfers // _BATCH_MOST)))

    @property
    def bystander(self) -> int:
        """A user who has money, and nothing unfinished."""
        return self.everyone.stop


class SilentLedger:
    """A ledger that stops answering after some transfers; what it answers and does until then is the real one's."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.events_left: int | None = None
        """Events that are still taken; None: all."""
        self.in_flight = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def create_transfers(self, transfers: Sequence[Transfer]) -> list[CreateTransferResult]:
        """Answer, or never: what is taken of a request is carried out, the rest never comes."""
        taken = transfers if self.events_left is None else transfers[: self.events_left]
        if self.events_left is not None:
            self.events_left -= len(taken)
        results = []
        if taken:
            self.in_flight += 1
            results = await self._ledger.create_transfers(taken)
            self.in_flight -= 1
        if len(taken) < len(transfers):
            await trio.sleep_forever()
        return results


class RowlessRecords:
    """A record store that takes no rows any more, once it is told to; it counts the intents that are durable."""

    def __init__(self, records: RecordStore) -> None:
        self._records = records
        self.takes_rows = True
        self.intents = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def read_journal(self, shard: int, *, from_bucket: int) -> AsyncGenerator[JournalBlob, None]:
        """Read it."""
        return self._records.read_journal(shard, from_bucket=from_bucket)

    async def write(self, blobs: Sequence[JournalBlob], records: Sequence[TransferRecord]) -> None:
        """Write, or never."""
        if records and not self.takes_rows:
            await trio.sleep_forever()
        await self._records.write(blobs, records)
        self.intents += sum(len(decode_intents(blob.body)) for blob in blobs)


async def leave_unfinished(leave: Leave) -> None:
    """Run the engine until all is left as it should be, say so, and wait to be killed."""
    given = Settings.model_validate_json(leave.settings)
    settings = given.model_copy(
        update={
            "deadline_ms": _DEADLINE_MS,
            "open_transfers_most": 2 * leave.transfers + given.open_transfers_most,
            "waiting_least": 2 * leave.transfers + given.waiting_least,
            "mailbox_capacity": _BATCH_MOST,
            "user_batch_most": _BATCH_MOST,
            "reconcile": False,
        }
    )
    former_lives = Alone() if settings.records == "sqlite" else LifeFile(settings.data_dir)
    async with open_backends(settings) as (registry, real_ledger, real_records):
        ledger, records = SilentLedger(real_ledger), RowlessRecords(real_records)
        async with engine_on(settings, registry, ledger, records, former_lives=former_lives) as engine:
            await _fund(engine, [*leave.everyone, leave.bystander])
            records.takes_rows, records.intents = False, 0
            ledger.events_left = 2 * int(leave.moved * leave.transfers)  # a hold and a post each
            await _begin(engine, leave)
            while records.intents < leave.transfers or ledger.events_left > 0 or ledger.in_flight:  # noqa: ASYNC110
                await trio.sleep(_LOOK_S)
            print(IS_LEFT, flush=True)
            await trio.sleep_forever()


async def _fund(engine: Engine, users: Sequence[int]) -> None:
    async def credit(user_id: int) -> None:
        await engine.credit(user_id=user_id, account="funding", asset_id=ASSET_ID, amount=FUNDS)

    for start in range(0, len(users), _FUNDED_AT_A_TIME):
        async with trio.open_nursery() as nursery:
            for user_id in users[start : start + _FUNDED_AT_A_TIME]:
                nursery.start_soon(credit, user_id)


async def _begin(engine: Engine, leave: Leave) -> None:
    """Submit each user's transfers at one go, so that his actor finds all of them when it runs."""
    everyone = leave.everyone
    for place, user_id in enumerate(everyone):
        for number in range(place, leave.transfers, len(everyone)):
            order = TransferOrder(
                source="funding",
                target="trading",
                user_id=user_id,
                asset_id=ASSET_ID,
                amount=AMOUNT,
                idempotency_key=f"left-{number}",
            )
            engine.submit(order, _never_answered)
        await trio.lowlevel.checkpoint()


def _never_answered(answer: object) -> None:
    raise RuntimeError(f"a transfer that was to be left unfinished was answered: {answer!r}")


if __name__ == "__main__":
    tune_garbage_collection()
    trio.run(leave_unfinished, msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Leave))
