"""The second API's history: a user's transfers, newest first, filtered, page by page while rows arrive."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from transfer_engine.engine.history import place_of
from transfer_engine.http import user_operations as operations
from transfer_engine.http.cursors import Cursor, decode_cursor, encode_cursor
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.problems import Flavour, Rejected
from transfer_engine.http.queries import asked_user, invalid_parameter, parse_query
from transfer_engine.http.routes import Route
from transfer_engine.http.user_api import TRANSFERS_PATH
from transfer_engine.http.user_names import UserNames
from transfer_engine.schema.transfers import TransferRecord
from transfer_engine.schema.user_wire import USER_STATUS_OF_STATE, Success, UserStatus, UserTransferPage

WINDOW_MS_MOST: Final = 7 * 24 * 3_600_000
"""The longest time between ``start_time`` and ``end_time``."""

LIMIT_MOST: Final = 100
LIMIT_OTHERWISE: Final = 20

SCANNED_MOST: Final = 1_000
"""Rows that one request may look at: where filters leave few of them a page is short, and its cursor goes on."""

_SCANNED_AT_ONCE: Final = 200
_SECONDS_MOST: Final = 100_000_000_000
"""A time below this (1973, in ms) is one in seconds."""

_NAMES: Final = ("asset", "from", "to", "status", "start_time", "end_time", "limit", "cursor", "user_id")
_FILTERS: Final = ("asset", "from", "to", "status", "start_time", "end_time")
_STATUSES: Final = {status.value: status for status in UserStatus}
_TIME: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_COUNT: Final = re.compile(r"[0-9]{1,3}", re.ASCII)

_encode: Final = msgspec.json.Encoder().encode


class _Filter(msgspec.Struct, frozen=True):
    """What is listed; None lets all through."""

    asset_id: int | None
    source: str | None
    target: str | None
    statuses: frozenset[UserStatus] | None

    @property
    def lets_all_through(self) -> bool:
        return self.asset_id is None and self.source is None and self.target is None and self.statuses is None

    def passes(self, record: TransferRecord) -> bool:
        return (
            (self.asset_id is None or record.asset_id == self.asset_id)
            and (self.source is None or record.source == self.source)
            and (self.target is None or record.target == self.target)
            and (self.statuses is None or USER_STATUS_OF_STATE[record.state] in self.statuses)
        )


class UserHistoryApi:
    """Its endpoint."""

    def __init__(
        self, slot: EngineSlot, names: UserNames, clock_ms: Callable[[], int] = lambda: int(time.time() * 1_000)
    ) -> None:
        self._slot = slot
        self._names = names
        self._clock_ms = clock_ms

    def routes(self) -> list[Route]:
        """Return the endpoint."""
        return [
            Route(
                "GET",
                TRANSFERS_PATH + "/history",
                self.history,
                Scope.READ,
                flavour=Flavour.USER,
                operation=operations.HISTORY,
            )
        ]

    async def history(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Return a page of a user's transfers."""
        query = parse_query(request.query, _NAMES)
        user_id = asked_user(query, caller)
        wanted = self._filter(query)
        limit = _limit(query)
        oldest_ms, newest_ms = _window(query, self._clock_ms())
        scope = _scope(query, user_id)
        if "cursor" in query:
            cursor = decode_cursor(query["cursor"], scope)
            oldest_ms = cursor.oldest_ms
            below: tuple[int, int] | None = (cursor.created_at, cursor.req_id)
        else:
            below = None if newest_ms is None else (newest_ms + 1, 0)
        listed, below = await self._walk(user_id, wanted, limit, below, oldest_ms)
        page = UserTransferPage(
            transfers=[self._names.transfer(record) for record in listed],
            next_cursor=None if below is None else encode_cursor(Cursor(*below, oldest_ms), scope),
        )
        return Response(200, _encode(Success(data=page)))

    async def _walk(
        self, user_id: int, wanted: _Filter, limit: int, below: tuple[int, int] | None, oldest_ms: int
    ) -> tuple[list[TransferRecord], tuple[int, int] | None]:
        """Return the next records that are wanted, and the place below which to go on; None at the end."""
        engine = self._slot.engine
        at_once = limit if wanted.lets_all_through else _SCANNED_AT_ONCE
        listed: list[TransferRecord] = []
        scanned = 0
        while True:
            page = await engine.history(user_id, limit=at_once, position=below)
            for index, record in enumerate(page.records):
                if record.created_at < oldest_ms:
                    return listed, None
                below = place_of(record)
                if wanted.passes(record):
                    listed.append(record)
                    if len(listed) == limit:
                        is_last = index + 1 == len(page.records) and page.next_position is None
                        return listed, None if is_last else below
            if page.next_position is None:
                return listed, None
            below = page.next_position
            scanned += len(page.records)
            if scanned >= SCANNED_MOST:
                return listed, below

    def _filter(self, query: Mapping[str, str]) -> _Filter:
        names = self._names
        statuses = None
        if "status" in query:
            words = query["status"].split(",")
            unknown = [word for word in words if word not in _STATUSES]
            if unknown:
                known = ", ".join(_STATUSES)
                raise invalid_parameter("status", f"{unknown[0][:40]!r} is unknown: use some of {known}, with commas")
            statuses = frozenset(_STATUSES[word] for word in words)
        return _Filter(
            asset_id=names.asset(query["asset"], "asset", also_disabled=True).asset_id if "asset" in query else None,
            source=names.service(query["from"], "from", also_external=True) if "from" in query else None,
            target=names.service(query["to"], "to") if "to" in query else None,
            statuses=statuses,
        )


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(LIMIT_OTHERWISE))
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= LIMIT_MOST:
        raise invalid_parameter("limit", f"must be a number from 1 to {LIMIT_MOST}")
    return int(text)


def _window(query: Mapping[str, str], now_ms: int) -> tuple[int, int | None]:
    """Return the oldest and the newest time (Unix ms) that are listed; None: up to now.

    One that is missing lies a window from the other; without both it is the window that ends now.

    Raises:
        Rejected: a time is none, or the window is too long, or ends before it begins.
    """
    start, end = _time(query, "start_time"), _time(query, "end_time")
    if start is None:
        return max((now_ms if end is None else end) - WINDOW_MS_MOST, 0), end
    if end is None:
        return start, start + WINDOW_MS_MOST
    if end < start:
        raise invalid_parameter("end_time", "is before start_time: swap them")
    if end - start > WINDOW_MS_MOST:
        raise _too_long(end - start)
    return start, end


def _too_long(window_ms: int) -> Rejected:
    days = window_ms / 86_400_000
    return invalid_parameter(
        "start_time", f"is {days:.3g} days before end_time: ask for 7 days ({WINDOW_MS_MOST} ms) at most at a time"
    )


def _time(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not _TIME.fullmatch(text):
        raise invalid_parameter(name, "must be a time in Unix milliseconds, like 1767225600000")
    if int(text) < _SECONDS_MOST:
        raise invalid_parameter(name, "is in seconds, or long past: it must be in Unix milliseconds")
    return int(text)


def _scope(query: Mapping[str, str], user_id: int) -> bytes:
    """Return what a cursor is good for: the user, and the filters word for word."""
    return msgspec.json.encode([user_id, *(query.get(name) for name in _FILTERS)])
