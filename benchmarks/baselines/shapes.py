"""What all baselines take and answer: the first API's transfer, as its clients send it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final, Literal, Protocol

from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel, Field

Account = Literal["funding", "trading"]
ACCOUNTS: Final[tuple[Account, Account]] = ("funding", "trading")
ASSET_ID: Final = 1

Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)]

_TELEMETRY_OFF: Final[TelemetryConfig] = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI's own spans and metrics, with nobody to send them to, would cost up to 12 % of its CPU."""


class TransferBody(BaseModel):
    """One transfer; the amount is in minor units."""

    source: Annotated[Account, Field(alias="from")]
    target: Annotated[Account, Field(alias="to")]
    user_id: Annotated[int, Field(ge=1, lt=1 << 63)]
    asset_id: Annotated[int, Field(ge=1, le=0x7FFF_FFFF)]
    amount: Annotated[int, Field(gt=0, lt=1 << 63)]


class Opening(BaseModel):
    """What a baseline begins with: so many users, from 1 on, with so much of asset 1 in each of their accounts."""

    users: int
    funds: int


class Balance(BaseModel):
    """What one account has."""

    user_id: int
    account: Account
    balance: int


class Store(Protocol):
    """Where a baseline keeps the money."""

    async def open(self, opening: Opening) -> None:
        """Connect, make what is needed, and give the users their money; everything that was there before is gone."""
        ...

    async def transfer(self, body: TransferBody, key: str | None) -> JSONResponse:
        """Carry out one transfer and answer."""
        ...

    async def balances(self) -> list[Balance]:
        """Return what every account has, for the check after a run."""
        ...

    async def servers(self) -> list[int]:
        """Return the processes behind it that run on this machine, so that their CPU can be measured."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


def committed(req_id: str) -> JSONResponse:
    """Answer a transfer that was carried out. A response that is ready spares FastAPI its own serialization."""
    return JSONResponse({"req_id": req_id, "status": "committed", "message": None})


def replayed(req_id: str) -> JSONResponse:
    """Answer a key whose transfer was carried out before."""
    headers = {"Idempotent-Replayed": "true"}
    return JSONResponse({"req_id": req_id, "status": "committed", "message": None}, headers=headers)


def failed(req_id: str, message: str) -> JSONResponse:
    """Answer a transfer that was refused for want of money."""
    return JSONResponse({"req_id": req_id, "status": "failed", "message": message})


def misused() -> JSONResponse:
    """Answer a key that was used for another transfer."""
    body = {"req_id": "", "status": "failed", "message": "Idempotency-Key was used for another transfer"}
    return JSONResponse(body, 422)


def make_app(store: Store, opening: Opening) -> FastAPI:
    """Return the endpoint over a store."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await store.open(opening)
        yield
        await store.close()

    app = FastAPI(lifespan=lifespan, telemetry=_TELEMETRY_OFF)

    @app.post("/api/v1/transfer")
    async def transfer(body: TransferBody, key: Key = None) -> JSONResponse:
        return await store.transfer(body, key)

    @app.get("/balances")
    async def balances() -> list[Balance]:
        return await store.balances()

    @app.get("/servers")
    async def servers() -> list[int]:
        return await store.servers()

    return app
