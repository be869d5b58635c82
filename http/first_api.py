"""The first API: transfers in minor units, by services and users' numbers."""

from collections.abc import Sequence
from typing import Final

import msgspec

from transfer_engine.engine.callers import TransferOrder
from transfer_engine.engine.outcomes import TransferNotFound, TransferOutcome
from transfer_engine.http import first_operations as operations
from transfer_engine.http.bodies import BodyDecoder
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import JSON, About, Headers, Request, Response
from transfer_engine.http.parameters import idempotency_key, parse_req_id, parse_user_id
from transfer_engine.http.problems import Flavour
from transfer_engine.http.routes import OnAnswer, Route, awaited
from transfer_engine.schema.ids import is_req_id
from transfer_engine.schema.money import Asset
from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.wire import (
    AssetEntry,
    AssetsResponse,
    BalanceEntry,
    BalancesResponse,
    RecordResponse,
    TransferRequest,
    TransferResponse,
)

_encode: Final = msgspec.json.Encoder().encode
_TRANSFER: Final = BodyDecoder(TransferRequest)
_REPLAYED: Final[Headers] = ((b"idempotent-replayed", b"true"),)
_STATUSES: Final = {status: 202 if status is TransferStatus.PENDING else 200 for status in TransferStatus}


class FirstApi:
    """Its endpoints."""

    def __init__(self, slot: EngineSlot, assets: Sequence[Asset]) -> None:
        self._slot = slot
        entries = [
            AssetEntry(asset_id=asset.asset_id, symbol=asset.symbol, decimals=asset.decimals, enabled=asset.enabled)
            for asset in assets
        ]
        self._assets = Response(200, _encode(AssetsResponse(assets=entries)))

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [
            Route(
                "POST",
                "/api/v1/transfer",
                awaited(self.transfer),
                Scope.WRITE,
                begin=self.transfer,
                body_types=(JSON,),
                flavour=Flavour.TRANSFER,
                is_keyed=True,
                operation=operations.TRANSFER,
            ),
            Route(
                "GET",
                "/api/v1/transfer/{req_id}",
                self.look_up,
                Scope.READ,
                flavour=Flavour.LOOKUP,
                operation=operations.LOOK_UP,
            ),
            Route("GET", "/api/v1/balances/{user_id}", self.balances, Scope.READ, operation=operations.BALANCES),
            Route("GET", "/api/v1/assets", self.assets, None, operation=operations.ASSETS),
        ]

    def transfer(self, request: Request, caller: Caller, _parameters: Sequence[str], on_answer: OnAnswer) -> None:
        """Move an amount between two accounts: 200 with the verdict, 202 while it is under way."""
        key = idempotency_key(request.idempotency_keys)
        body = _TRANSFER.decode(request.body)
        user_id = body.user_id
        caller.require_user(user_id, "user_id")

        def tell(answer: TransferOutcome | Exception) -> None:
            if isinstance(answer, Exception):
                on_answer(answer)
            else:
                on_answer(outcome_response(_STATUSES[answer.status], answer, user_id))

        self._slot.engine.submit(
            TransferOrder(body.source, body.target, user_id, body.asset_id, body.amount, None, key, caller.subject),
            tell,
        )

    async def look_up(self, _request: Request, caller: Caller, parameters: Sequence[str]) -> Response:
        """Return what is known of a transfer; another user's is not found."""
        req_id = parse_req_id(parameters[0])
        record = await self._slot.engine.get(req_id) if is_req_id(req_id.int) else None
        if record is None or not (caller.owns(record.user_id) or caller.owns(record.target_user_id)):
            raise TransferNotFound
        return Response(200, _encode(RecordResponse.of(record)))

    async def balances(self, _request: Request, caller: Caller, parameters: Sequence[str]) -> Response:
        """Return a user's accounts."""
        user_id = parse_user_id(parameters[0])
        if not caller.owns(user_id):
            raise TransferNotFound(message="User not found")
        balances = [
            BalanceEntry(
                account=balance.account,
                asset_id=balance.asset_id,
                available=balance.available,
                frozen=balance.frozen,
            )
            for balance in await self._slot.engine.balances(user_id)
        ]
        return Response(200, _encode(BalancesResponse(balances=balances)))

    async def assets(self, _request: Request, _caller: Caller, _parameters: Sequence[str]) -> Response:
        """Return the assets."""
        return self._assets


def outcome_response(status: int, outcome: TransferOutcome, user_id: int) -> Response:
    """Return the first API's answer to a transfer or credit of a user."""
    body = _encode(TransferResponse(req_id=outcome.req_id, status=outcome.status, message=outcome.message))
    about = About(outcome.req_id, user_id, outcome.status, outcome.replayed)
    return Response(status, body, JSON, _REPLAYED if outcome.replayed else (), about)
