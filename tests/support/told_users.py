"""Users with a real endpoint each, on servers that die: in the end each is told of all that his history has."""

import signal
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import trio
from standardwebhooks import Webhook

from support.endpoint_server import EndpointServer, Received, Reply
from transfer_engine.http.demo_server import ServerDied, ServerProcess

USERS = (1, 2, 3)
CONFIG: dict[str, Any] = {
    "scan_interval_ms": 50,
    "stale_after_ms": 100,
    "ceiling_ahead_ms": 1_000,
    "log_format": "json",
    "express": False,
    "webhooks": {
        "enabled": True,
        "allow_private_addresses": True,
        "retry_first_ms": 50,
        "retry_most_ms": 400,
        "timeout_ms": 1_000,
    },
}


class Told:
    """What users were told, verified by their secrets, by servers on one directory, one life after the other."""

    def __init__(self, server: EndpointServer, directory: Path, **config: Any) -> None:
        self.server = server
        self.directory = directory
        self.config = CONFIG | config
        self.numbers = count(1)
        self.answered: list[str] = []
        """Of which transfers clients know the end."""
        self.secrets: dict[int, str] = {}
        self.statuses: dict[tuple[int, str], set[str]] = {}
        self.fails = True
        server.answer = self.answer

    async def answer(self, received: Received) -> Reply:
        await trio.lowlevel.checkpoint()
        if self.fails:
            return Reply(500)
        user_id = int(received.path.removeprefix("/"))
        event = Webhook(self.secrets[user_id]).verify(received.body, received.headers)
        self.statuses.setdefault((user_id, event["data"]["request_id"]), set()).add(event["data"]["status"])
        return Reply(204)

    async def begin(self) -> None:
        """Give users their money and their endpoints."""
        server = await ServerProcess.start(self.directory, self.config)
        try:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
                for user_id in USERS:
                    credit = {"user_id": user_id, "account": "funding", "asset_id": 1, "amount": 10**12}
                    assert (await client.post("/api/v1/admin/credits", json=credit)).status_code == 201
                    answer = await client.put(
                        "/api/v1/user/webhook",
                        params={"user_id": user_id},
                        json={"url": self.server.url(f"/{user_id}")},
                    )
                    self.secrets[user_id] = answer.json()["data"]["secret"]
        finally:
            assert await server.stop() == 0, server.log_tail()

    async def live(self, *, crash_at: str | None = None) -> None:
        """Live until it is killed: after some answers, or at a named point."""
        try:
            server = await ServerProcess.start(self.directory, self.config, crash_at=crash_at)
        except ServerDied:
            return  # in its recovery
        try:
            least = len(self.answered) + 40
            async with (
                httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client,
                trio.open_nursery() as nursery,
            ):
                for user_id in USERS:
                    nursery.start_soon(move, client, user_id, self.numbers, self.answered)
                if crash_at is None:
                    while len(self.answered) < least:  # noqa: ASYNC110  another process's progress
                        await trio.sleep(0.005)
                    server.send(signal.SIGKILL)
            assert await server.wait() == -signal.SIGKILL
        finally:
            await server.kill()

    async def be_told_all(self, *, shards: int = 0) -> None:
        """Restart, with an endpoint that works; so many stopped engines are adopted.

        In the end each user was told of all that his history has, and only so.
        """
        self.fails = False
        server = await ServerProcess.start(self.directory, self.config)
        try:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
                with trio.fail_after(60):
                    while True:
                        statistics = (await client.get("/api/v1/admin/statistics")).json()
                        outbox = statistics["outbox"]
                        is_adopted = statistics["adoption"]["settled"] >= shards
                        if (
                            is_adopted
                            and not statistics["open_transfers"]
                            and not outbox["waiting"]
                            and not outbox["is_full"]
                        ):
                            break
                        await trio.sleep(0.05)
                ended = {}
                for user_id in USERS:
                    ended |= {(user_id, name): {status} for name, status in (await history(client, user_id)).items()}
            assert {name for _, name in ended} >= set(self.answered)
            assert self.statuses == ended
            assert len({name for _, name in ended}) >= 40
        finally:
            assert await server.stop() == 0, server.log_tail()


async def move(client: httpx.AsyncClient, user_id: int, numbers: "count[int]", answered: list[str]) -> None:
    """Ask for transfers, to oneself and to the next user, some too large, until the server is dead."""
    with trio.CancelScope():
        while True:
            number = next(numbers)
            to_user = user_id if number % 3 else user_id % len(USERS) + 1
            body = {
                "from_account": {"account_type": "funding", "asset": "USDT", "user_id": user_id},
                "to_account": {"account_type": "trading", "asset": "USDT", "user_id": to_user},
                "amount": "99999" if number % 10 == 0 else "0.01",
            }
            try:
                answer = await client.post(
                    "/api/v1/user/internal_transfer", json=body, headers={"Idempotency-Key": f"{user_id}-{number}"}
                )
            except httpx.HTTPError:
                return
            if answer.status_code == 200:
                answered.append(answer.json()["data"]["request_id"])


async def history(client: httpx.AsyncClient, user_id: int) -> dict[str, str]:
    """Return how all of a user's transfers have ended, deposits apart."""
    found: dict[str, str] = {}
    cursor = None
    while True:
        parameters = {"user_id": str(user_id), "limit": "100"} | ({"cursor": cursor} if cursor else {})
        answer = await client.get("/api/v1/user/internal_transfer/history", params=parameters)
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        for transfer in data["transfers"]:
            if transfer["from_account"]["account_type"] != "external":
                found[transfer["request_id"]] = transfer["status"]
        cursor = data["next_cursor"]
        if cursor is None:
            return found
