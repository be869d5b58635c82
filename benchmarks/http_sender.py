"""Orders over HTTP/1.1: one kept-alive connection a caller, one request at a time on it, single transfers or batches.

As light as Python allows, because it shares the machine with the server: heads are formatted once, bodies are written
without a dictionary, and time-outs are kept by one task for all callers.
"""

import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from transfer_engine.benchmarks.http_wire import Address, Answer, Unreadable, Wire, connect, read_answer
from transfer_engine.benchmarks.outcomes import (
    CUT,
    TIMED_OUT,
    UNREACHABLE,
    UNREADABLE,
    Told,
    outcome_of,
    outcome_of_http,
)
from transfer_engine.benchmarks.plan import ASSET_ID
from transfer_engine.benchmarks.sending import Order
from transfer_engine.benchmarks.side_tasks import side_tasks
from transfer_engine.schema.wire import TransferItem

ANSWER_S: Final = 30.0
"""An answer that takes longer is a fault: the engine's own deadline is far below."""
REACHED_S: Final = 30.0
"""So long a caller tries to connect, before and after a fault, until it says that nobody is there."""
_PAUSE_S: Final = 0.05
_WATCH_S: Final = 0.25

_decode: Final = msgspec.json.Decoder(Told).decode
_encode: Final = msgspec.json.Encoder().encode
_REPLAYED: Final = b"\r\nidempotent-replayed: true"


class _Batch(msgspec.Struct, frozen=True, gc=False):
    transfers: list[TransferItem]


class _Results(msgspec.Struct, frozen=True, gc=False):
    results: list[Told]


_decode_results: Final = msgspec.json.Decoder(_Results).decode


class HttpCaller:
    """One connection; made again after a fault."""

    def __init__(self, sender: "HttpSender") -> None:
        self._sender = sender
        self._wire: Wire | None = None
        self.asked_at = 0.0
        """When the request under way was sent, by ``perf_counter``; 0 where none is."""
        self._is_late = False

    async def send(self, orders: Sequence[Order]) -> Sequence[str]:
        """Send orders in one request; return what became of each.

        Cancellation closes the connection: outcomes are unknown then.
        """
        sender = self._sender
        is_batch = sender.batch > 1
        request = sender.batch_request(orders) if is_batch else sender.single_request(orders[0])
        answer = await self.ask(request)
        if isinstance(answer, str):
            return [answer] * len(orders)
        try:
            if not is_batch:
                return (outcome_of_http(answer.status, _decode(answer.body), is_replayed=_REPLAYED in answer.head),)
            if answer.status == 200:
                results = _decode_results(answer.body).results
                outcomes = [outcome_of(told) for told in results]
                return outcomes if len(outcomes) == len(orders) else [UNREADABLE] * len(orders)
            return [outcome_of_http(answer.status, _decode(answer.body))] * len(orders)
        except msgspec.MsgspecError:
            outcome = UNREADABLE if answer.status < 300 else outcome_of_http(answer.status, Told())
            return [outcome] * len(orders)

    async def ask(self, request: bytes) -> Answer | str:
        """Send one request, and return its answer or, by its outcome's name, why there is none."""
        wire = self._wire
        if wire is None:
            wire = await self._connect()
            if wire is None:
                return UNREACHABLE
        self.asked_at = time.perf_counter()
        try:
            await wire.send(request)
            answer = await read_answer(wire)
        except OSError:
            self.close()
            return TIMED_OUT if self._is_late else CUT
        except Unreadable:
            self.close()
            return UNREADABLE
        except trio.Cancelled:
            self.close()
            raise
        finally:
            self.asked_at = 0.0
        if answer.is_last:
            self.close()
        return answer

    def give_up(self) -> None:
        """Let the request under way end as timed out."""
        if self._wire is not None:
            self._is_late = True
            self._wire.cut()

    def close(self) -> None:
        """Close the connection, if there is one; the next request makes another."""
        if self._wire is not None:
            self._wire.cut()
            self._wire = None

    async def _connect(self) -> Wire | None:
        """Connect, again and again while nobody is there, as after a fault; None: nobody came."""
        self._is_late = False
        with trio.move_on_after(self._sender.reached_s):
            while True:
                try:
                    self._wire = await connect(self._sender.address, self._sender.trusted)
                except OSError:
                    await trio.sleep(_PAUSE_S)
                else:
                    return self._wire
        return None


class HttpSender:
    """A door that is up.

    Args:
        address: of the door.
        batch: transfers in a request; 1: no batch.
        connections: how many callers there may be; None: any number.
        token: what requests prove themselves by; None: nothing.
        answer_s: after so long without an answer a request is a fault.
        reached_s: for so long a caller tries to connect.
        trusted: whose certificates are trusted; None: those that the system trusts.
    """

    def __init__(
        self,
        address: Address,
        *,
        batch: int = 1,
        connections: int | None = None,
        token: str | None = None,
        answer_s: float = ANSWER_S,
        reached_s: float = REACHED_S,
        trusted: ssl.SSLContext | None = None,
    ) -> None:
        self.callers_most = connections
        self.address = address
        self.batch = batch
        self.reached_s = reached_s
        self.trusted = trusted
        self._answer_s = answer_s
        self._callers: set[HttpCaller] = set()
        self._headers = f"Host: {address.authority}\r\nContent-Type: application/json\r\n" + (
            f"Authorization: Bearer {token}\r\n" if token is not None else ""
        )
        self._single_head = f"POST {address.path}/api/v1/transfer HTTP/1.1\r\n{self._headers}"
        self._batch_head = f"POST {address.path}/api/v1/transfers/batch HTTP/1.1\r\n{self._headers}Content-Length: "

    @asynccontextmanager
    async def caller(self, index: int) -> AsyncIterator[HttpCaller]:
        """Open a connection; leaving closes it.

        Raises:
            OSError: the server can't be reached.
        """
        caller = HttpCaller(self)
        self._callers.add(caller)
        try:
            yield caller
        finally:
            self._callers.discard(caller)
            caller.close()

    def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
        """Return any request of the API as bytes; ``headers`` are lines that end with CRLF."""
        return (
            f"{method} {self.address.path}{path} HTTP/1.1\r\n{self._headers}{headers}"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def single_request(self, order: Order) -> bytes:
        """Return one transfer's request."""
        body = (
            f'{{"from":"{order.source}","to":"{order.target}","user_id":{order.user_id},'
            f'"asset_id":{ASSET_ID},"amount":{order.amount}}}'
        )
        key = f"Idempotency-Key: {order.key}\r\n" if order.key is not None else ""
        return f"{self._single_head}{key}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def batch_request(self, orders: Sequence[Order]) -> bytes:
        """Return a batch's request."""
        body = _encode(_Batch([item_of(order) for order in orders]))
        return f"{self._batch_head}{len(body)}\r\n\r\n".encode() + body

    async def watch(self) -> None:
        """Let requests time out, until cancelled."""
        while True:
            await trio.sleep(_WATCH_S)
            latest = time.perf_counter() - self._answer_s
            for caller in self._callers:
                if 0.0 < caller.asked_at < latest:
                    caller.give_up()


def item_of(order: Order) -> TransferItem:
    """Return an order as batches and websockets carry it."""
    return TransferItem(
        source=order.source,
        target=order.target,
        asset_id=ASSET_ID,
        amount=order.amount,
        user_id=order.user_id,
        idempotency_key=order.key,
    )


@asynccontextmanager
async def http_sender(
    address: Address,
    *,
    batch: int = 1,
    connections: int | None = None,
    token: str | None = None,
    answer_s: float = ANSWER_S,
    reached_s: float = REACHED_S,
    trusted: ssl.SSLContext | None = None,
) -> AsyncIterator[HttpSender]:
    """Yield a sender, see :class:`HttpSender`; its time-outs are kept while the context lasts."""
    sender = HttpSender(
        address,
        batch=batch,
        connections=connections,
        token=token,
        answer_s=answer_s,
        reached_s=reached_s,
        trusted=trusted,
    )
    async with side_tasks(sender.watch):
        yield sender
