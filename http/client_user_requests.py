"""The second API's calls: decimal strings, symbols, histories; the token's own user is meant by default."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, Final, Self
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec
import trio

from transfer_engine.http.client_requests import Requests, segment
from transfer_engine.http.client_transport import Answer
from transfer_engine.http.client_user_results import (
    BalancesData,
    Envelope,
    InternalTransfer,
    Limits,
    PageData,
    UserBalance,
)
from transfer_engine.schema.user_wire import UserStatus

TRANSFERS_PATH: Final = "/api/v1/user/internal_transfer"

WINDOW_MS: Final = 7 * 24 * 3_600_000
"""The longest time that one history of the server spans; longer ones are asked for piece by piece."""

PAGE_MOST: Final = 100


class UserRequests(Requests):
    """Its calls; they are methods of :class:`~transfer_engine.http.client.Client`."""

    async def internal_transfer(
        self,
        *,
        source: str,
        target: str,
        asset: str,
        amount: str | Decimal,
        user_id: int | None = None,
        to_user_id: int | None = None,
        key: str | None = None,
        wait: bool = False,
        deadline_s: float | None = None,
    ) -> InternalTransfer:
        """Move an exact decimal amount, such as ``"100.5"``, between two accounts; errors as ``transfer``'s.

        Cancellation leaves the transfer as it is: not begun, under way or done. Ask again by the same key.

        Args:
            source: the account type that holds the money, such as ``funding``.
            target: the account type that gets it, such as ``spot``.
            asset: its symbol, such as ``USDT``.
            amount: with at most the asset's decimals.
            user_id: whose money; the token's own user by default.
            to_user_id: who gets it; the same by default.
            key: the caller's own name of it; made where it is left out, and then in the answer.
            wait: whether a transfer under way is waited for; at the deadline it is returned as it is.
            deadline_s: of all attempts together, in seconds.
        """
        body = {
            "from_account": _account(source, asset, user_id),
            "to_account": _account(target, asset, to_user_id),
            "amount": amount if isinstance(amount, str) else format(amount, "f"),
        }
        return await self._move(
            TRANSFERS_PATH, body, self._internal_transfer, _is_final, key=key, wait=wait, deadline_s=deadline_s
        )

    async def get_internal_transfer(
        self, request_id: str | UUID, *, deadline_s: float | None = None
    ) -> InternalTransfer:
        """Return a transfer by its ``request_id`` or ``req_id``. Cancellation leaves nothing behind.

        Raises:
            NotFound: there is none, or it is another user's.
            NoAnswer: the server did not answer.
        """
        path = f"{TRANSFERS_PATH}/{segment(request_id)}"
        return (await self._read(path, Envelope[InternalTransfer], deadline_s)).data

    async def get_by_key(self, key: str, *, deadline_s: float | None = None) -> InternalTransfer:
        """Return the transfer to which this token's subject gave a key. Cancellation leaves nothing behind.

        Raises:
            NotFound: there is none; one that is asked for by this key now, elsewhere, may still come to be.
            NoAnswer: the server did not answer.
        """
        path = f"{TRANSFERS_PATH}?idempotency_key={quote(key, safe='')}"
        return msgspec.structs.replace((await self._read(path, Envelope[InternalTransfer], deadline_s)).data, key=key)

    async def user_balances(self, user_id: int | None = None, *, deadline_s: float | None = None) -> list[UserBalance]:
        """Return a user's accounts in decimal strings. Cancellation leaves nothing behind; raises as ``balances``."""
        query = "" if user_id is None else f"?user_id={user_id}"
        return (await self._read(f"/api/v1/user/balances{query}", Envelope[BalancesData], deadline_s)).data.balances

    async def limits(self, user_id: int | None = None, *, deadline_s: float | None = None) -> Limits:
        """Return what a user may move of each asset, now, and how often this token may ask.

        Cancellation leaves nothing behind; raises as ``balances``.
        """
        query = "" if user_id is None else f"?user_id={user_id}"
        return (await self._read(f"/api/v1/user/limits{query}", Envelope[Limits], deadline_s)).data

    def history(
        self,
        *,
        user_id: int | None = None,
        asset: str | None = None,
        source: str | None = None,
        target: str | None = None,
        statuses: Sequence[UserStatus | str] = (),
        start_ms: int | None = None,
        end_ms: int | None = None,
        page: int = PAGE_MOST,
        deadline_s: float | None = None,
    ) -> "History":
        """Iterate over a user's transfers, newest first, page by page; complete while others are made.

        ``async for transfer in client.history(): …``

        Args:
            user_id: whose; the token's own user by default.
            asset: only those of this symbol.
            source: only those from this account type.
            target: only those to this account type.
            statuses: only those that are one of these.
            start_ms: the oldest, Unix ms; by default 7 days before the newest.
            end_ms: the newest, Unix ms; by default now.
            page: transfers in one answer, at most 100.
            deadline_s: of each page, in seconds.
        """
        filters = {
            "user_id": user_id,
            "asset": asset,
            "from": source,
            "to": target,
            "status": ",".join(statuses) or None,
            "limit": page,
        }

        async def ask(window: dict[str, Any]) -> PageData:
            asked = {name: value for name, value in (filters | window).items() if value is not None}
            path = f"{TRANSFERS_PATH}/history?{urlencode(asked)}"
            return (await self._read(path, Envelope[PageData], deadline_s)).data

        return History(ask, start_ms, end_ms)

    def _internal_transfer(self, answer: Answer, key: str) -> InternalTransfer:
        told = self._decode(answer, Envelope[InternalTransfer]).data
        return msgspec.structs.replace(told, key=key, is_replay=answer.is_replay)


class History:
    """An async iterator of transfers, newest first; for one task. It remembers one page."""

    def __init__(
        self, ask: Callable[[dict[str, Any]], Awaitable[PageData]], start_ms: int | None, end_ms: int | None
    ) -> None:
        self._ask = ask
        self._start_ms = start_ms
        self._end_ms = int(time.time() * 1_000) if start_ms is not None and end_ms is None else end_ms
        self._waiting: deque[InternalTransfer] = deque()
        self._cursor: str | None = None
        self._is_over = False

    def __repr__(self) -> str:
        return f"<History {'at its end' if self._is_over else 'goes on'}, {len(self._waiting)} at hand>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> InternalTransfer:
        """Return the next transfer. Cancellation loses none.

        Raises:
            Refused: a filter is wrong; it is named.
            NoAnswer: the server did not answer; the same page may be asked for again.
        """
        if self._waiting:
            await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._is_over:
                raise StopAsyncIteration
            await self._next_page()
        return self._waiting.popleft()

    async def _next_page(self) -> None:
        start_ms, end_ms = self._start_ms, self._end_ms
        if start_ms is not None and end_ms is not None:
            start_ms = max(start_ms, end_ms - WINDOW_MS)
        window = {"start_time": start_ms, "end_time": end_ms, "cursor": self._cursor}
        page = await self._ask(window)
        self._waiting.extend(page.transfers)
        self._cursor = page.next_cursor
        if self._cursor is None:
            self._is_over = self._start_ms is None or start_ms is None or start_ms <= self._start_ms
            self._end_ms = start_ms - 1 if start_ms is not None else None


def _account(account_type: str, asset: str, user_id: int | None) -> dict[str, Any]:
    account: dict[str, Any] = {"account_type": account_type, "asset": asset}
    return account if user_id is None else account | {"user_id": user_id}


def _is_final(transfer: InternalTransfer) -> bool:
    return transfer.is_final
