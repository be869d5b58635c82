"""What a benchmark asks of a server beside transfers: credits, balances, figures."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import trio

from transfer_engine.benchmarks.http_sender import HttpCaller, HttpSender, http_sender
from transfer_engine.benchmarks.http_wire import Address, Answer
from transfer_engine.benchmarks.plan import ASSET_ID
from transfer_engine.benchmarks.side_tasks import many

_CONNECTIONS: Final = 128
_TRIES: Final = 100
_PAUSE_S: Final = 0.1
_encode: Final = msgspec.json.Encoder().encode


class NotAllowed(RuntimeError):
    """The token may not do it, or there is none."""


class DoorApi:
    """Asks one server, over a few connections."""

    def __init__(self, sender: HttpSender) -> None:
        self._sender = sender

    async def statistics(self) -> Mapping[str, object] | None:
        """Return the engine's figures; None where it does not say, or to nobody with this token."""
        async with self._sender.caller(0) as caller:
            answer = await caller.ask(self._sender.request("GET", "/api/v1/admin/statistics"))
        if isinstance(answer, str) or answer.status != 200:
            return None
        figures = msgspec.json.decode(answer.body)
        return figures if isinstance(figures, dict) else None

    async def behave(self, core: str, behaviour: Mapping[str, object]) -> None:
        """Tell a simulated core how to misbehave.

        Raises:
            NotAllowed: it needs the scope ``admin``.
            RuntimeError: there is no such core.
        """
        path = f"/api/v1/admin/simulated-cores/{core}/behaviour"
        async with self._sender.caller(0) as caller:
            await _insist(caller, self._sender.request("PUT", path, _encode(behaviour)), f"slow down {core}", 200)

    async def credit(self, users: range, accounts: tuple[str, ...], amount: int, run: str) -> None:
        """Credit accounts of users, by keys that begin with ``run``.

        Raises:
            NotAllowed: it needs the scope ``admin``.
            RuntimeError: a credit was refused.
        """

        def requests() -> Iterator[bytes]:
            for user_id in users:
                for account in accounts:
                    body = {"user_id": user_id, "account": account, "asset_id": ASSET_ID, "amount": amount}
                    key = f"Idempotency-Key: {run}{user_id}-{account}\r\n"
                    yield self._sender.request("POST", "/api/v1/admin/credits", _encode(body), key)

        left = requests()

        async def work() -> None:
            async with self._sender.caller(0) as caller:
                for request in left:
                    await _insist(caller, request, "credit the users", 201, 200)

        await many(_CONNECTIONS, work)

    async def balances(self, users: range) -> dict[tuple[int, str], tuple[int, int]]:
        """Return what users have in the asset: (available, frozen), by user and account.

        Raises:
            NotAllowed: the token may not look.
            RuntimeError: there was no answer.
        """
        found: dict[tuple[int, str], tuple[int, int]] = {}
        left = iter(users)

        async def work() -> None:
            async with self._sender.caller(0) as caller:
                for user_id in left:
                    request = self._sender.request("GET", f"/api/v1/balances/{user_id}")
                    answer = await _insist(caller, request, "look at balances", 200)
                    for entry in msgspec.json.decode(answer.body)["balances"]:
                        if entry["asset_id"] == ASSET_ID:
                            found[user_id, entry["account"]] = (entry["available"], entry["frozen"])

        await many(_CONNECTIONS, work)
        return found


@asynccontextmanager
async def door_api(address: Address, token: str | None, *, reached_s: float = 30.0) -> AsyncIterator[DoorApi]:
    """Yield what asks the server at ``address``."""
    async with http_sender(address, token=token, reached_s=reached_s) as sender:
        yield DoorApi(sender)


async def _insist(caller: HttpCaller, request: bytes, what: str, *statuses: int) -> Answer:
    """Ask until there is an answer, and one of the statuses."""
    said = ""
    for _ in range(_TRIES):
        answer = await caller.ask(request)
        if isinstance(answer, str):
            said = answer
        elif answer.status in statuses and not (answer.status == 200 and b'"status":"failed"' in answer.body):
            return answer
        elif answer.status in {401, 403}:
            raise NotAllowed(f"the server does not let us {what}: {_detail(answer)}")
        elif answer.status < 500 and answer.status not in {202, 429}:
            raise RuntimeError(f"could not {what}: {_detail(answer)}")
        else:
            said = _detail(answer)
        await trio.sleep(_PAUSE_S)
    raise RuntimeError(f"could not {what}: {said}")


def _detail(answer: Answer) -> str:
    """Return what an answer says, in a line."""
    try:
        body: Any = msgspec.json.decode(answer.body)
        text = body.get("detail") or body.get("message") or body.get("code")
    except (msgspec.MsgspecError, AttributeError):
        text = None
    return f"{answer.status} {text or answer.body[:200].decode(errors='replace')}"
