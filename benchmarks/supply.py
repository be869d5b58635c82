"""Transfers of the engine's own shapes, ready-made, for what is measured without an engine.

What they leave in the books is no transfer of any engine: their users, identifiers and shards are beyond any load's.
"""

import time
from typing import Final
from uuid import UUID

import msgspec
from tigerbeetle import Transfer

from transfer_engine.engine.legs import LedgerBody, account_id
from transfer_engine.engine.records.protocol import BUCKET_MS, JournalBlob
from transfer_engine.engine.settings import DEFAULT_SERVICES, EXTERNAL_CODE
from transfer_engine.schema.ids import NODE_MAX, POSTS, SnowflakeGenerator, issued_req_id
from transfer_engine.schema.transfers import Intent, TransferRecord, TransferState, body_fingerprint, encode_intents

ASSET_ID: Final = 1
INTENTS_IN_BLOB: Final = 100
_USERS: Final = range(1 << 40, (1 << 40) + 1_000)
"""Beyond the users of any load."""
_FUNDS: Final = 10**15
_AHEAD_MS: Final = 3_600_000
_FUNDING: Final = DEFAULT_SERVICES[0]
_TRADING: Final = DEFAULT_SERVICES[1]


class Supply:
    """Makes transfers of users of its own: their ledger events, intents and rows. Identifiers are of the last node."""

    def __init__(self) -> None:
        self._identifiers = SnowflakeGenerator(node=NODE_MAX, clock_ms=_now_ms, after_ms=_now_ms())
        self._identifiers.raise_ceiling(_now_ms() + _AHEAD_MS)
        self._made = 0
        self._blobs = time.time_ns()
        self.accounts = [
            account_id(user_id, ASSET_ID, code) for user_id in _USERS for code in (_FUNDING.code, _TRADING.code)
        ]

    def funding(self) -> list[Transfer]:
        """Return the events that give every user enough."""
        return [
            Transfer(
                id=self._req_id() | 1,
                debit_account_id=account_id(0, ASSET_ID, EXTERNAL_CODE),
                credit_account_id=account_id(user_id, ASSET_ID, _FUNDING.code),
                amount=_FUNDS,
                ledger=ASSET_ID,
                code=1,
            )
            for user_id in _USERS
        ]

    def group(self, transfers: int) -> "Group":
        """Return so many transfers, ready to be written."""
        intents, records, events = [], [], []
        for _ in range(transfers):
            record, intent = self._one()
            body = LedgerBody(
                req_id=record.req_id.int,
                debit_account_id=account_id(record.user_id, ASSET_ID, _FUNDING.code),
                credit_account_id=account_id(record.user_id, ASSET_ID, _TRADING.code),
                asset_id=ASSET_ID,
                amount=1,
                fingerprint=record.fingerprint,
            )
            records.append(record)
            intents.append(intent)
            events += [body.hold(), body.post(POSTS[0])]
        blobs = []
        for start in range(0, transfers, INTENTS_IN_BLOB):
            self._blobs += 1
            body_bytes = encode_intents(intents[start : start + INTENTS_IN_BLOB])
            bucket = self._identifiers.logical_ms // BUCKET_MS
            blobs.append(JournalBlob(shard=NODE_MAX, bucket=bucket, sequence=self._blobs, body=body_bytes))
        return Group(events=events, blobs=blobs, records=records)

    def groups(self, transfers: int, size: int) -> "list[Group]":
        """Return so many transfers in groups of one size."""
        return [self.group(size) for _ in range(max(transfers // size, 1))]

    def _req_id(self) -> int:
        return issued_req_id(self._identifiers.issue())

    def _one(self) -> tuple[TransferRecord, Intent]:
        user_id = _USERS[self._made % len(_USERS)]
        self._made += 1
        now_ms = _now_ms()
        req_id = self._req_id()
        intent = Intent(
            req_id=req_id.to_bytes(16),
            source=_FUNDING.name,
            target=_TRADING.name,
            user_id=user_id,
            target_user_id=user_id,
            asset_id=ASSET_ID,
            amount=1,
            accepted_at=now_ms,
            fingerprint=0,
        )
        mark = body_fingerprint(intent)
        record = TransferRecord(
            req_id=UUID(int=req_id),
            source=_FUNDING.name,
            target=_TRADING.name,
            user_id=user_id,
            target_user_id=user_id,
            asset_id=ASSET_ID,
            amount=1,
            state=TransferState.COMMITTED,
            created_at=now_ms,
            updated_at=now_ms,
            error="",
            retry_count=0,
            fingerprint=mark,
        )
        return record, msgspec.structs.replace(intent, fingerprint=mark)


class Group(msgspec.Struct, frozen=True):
    """Some transfers as they are written: two events, a place in a blob and a row each."""

    events: list[Transfer]
    blobs: list[JournalBlob]
    records: list[TransferRecord]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
