"""The second API: transfers in decimal strings, by account types and symbols; a token's user is meant by default."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from transfer_engine.engine.callers import TransferOrder
from transfer_engine.engine.outcomes import Refused, TransferNotFound, TransferOutcome
from transfer_engine.http import user_operations as operations
from transfer_engine.http.bodies import BodyDecoder
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import JSON, About, Headers, Request, Response
from transfer_engine.http.parameters import idempotency_key, parse_request_id
from transfer_engine.http.problems import Flavour, ProblemCode, Rejected
from transfer_engine.http.queries import parse_query
from transfer_engine.http.routes import OnAnswer, Route, awaited
from transfer_engine.http.user_names import UserNames, name_field, parse_asset_amount
from transfer_engine.schema.ids import is_req_id, keyed_req_id
from transfer_engine.schema.money import Asset
from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.user_wire import Success, UserTransferRequest

TRANSFERS_PATH: Final = "/api/v1/user/internal_transfer"

_encode: Final = msgspec.json.Encoder().encode
_TRANSFER: Final = BodyDecoder(UserTransferRequest)
_REPLAYED: Final[Headers] = ((b"idempotent-replayed", b"true"),)


class UserApi:
    """Its endpoints for one transfer; histories and accounts are in groups of their own."""

    def __init__(self, slot: EngineSlot, names: UserNames) -> None:
        self._slot = slot
        self._names = names

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [
            Route(
                "POST",
                TRANSFERS_PATH,
                awaited(self.transfer),
                Scope.WRITE,
                begin=self.transfer,
                body_types=(JSON,),
                flavour=Flavour.USER,
                is_keyed=True,
                operation=operations.TRANSFER,
            ),
            Route(
                "GET",
                TRANSFERS_PATH,
                self.look_up_by_key,
                Scope.READ,
                flavour=Flavour.USER,
                operation=operations.LOOK_UP_BY_KEY,
            ),
            Route(
                "GET",
                TRANSFERS_PATH + "/{request_id}",
                self.look_up,
                Scope.READ,
                flavour=Flavour.USER,
                operation=operations.LOOK_UP,
            ),
        ]

    def transfer(self, request: Request, caller: Caller, _parameters: Sequence[str], on_answer: OnAnswer) -> None:
        """Move an amount between two accounts: 200 with the verdict, 202 while it is under way."""
        key = idempotency_key(request.idempotency_keys)
        body = _TRANSFER.decode(request.body)
        names = self._names
        source = names.service(body.from_account.account_type, "from_account.account_type")
        target = names.service(body.to_account.account_type, "to_account.account_type")
        asset = names.asset(body.from_account.asset, "from_account.asset")
        if body.to_account.asset != asset.symbol:
            names.asset(body.to_account.asset, "to_account.asset", also_disabled=True)
            raise Rejected(
                ProblemCode.ASSET_MISMATCH,
                f"to_account.asset is {body.to_account.asset}: it must be {asset.symbol}, as from_account's",
                field="to_account.asset",
            )
        amount = parse_asset_amount(body.amount, asset)
        user_id, target_user_id = _users(body, caller)

        def tell(answer: TransferOutcome | Exception) -> None:
            if isinstance(answer, TransferOutcome):
                on_answer(self._response(answer, source, target, user_id, target_user_id, asset, amount))
            else:
                on_answer(name_field(answer) if isinstance(answer, Refused) else answer)

        order = TransferOrder(source, target, user_id, asset.asset_id, amount, target_user_id, key, caller.subject)
        self._slot.engine.submit(order, tell)

    def _response(
        self,
        outcome: TransferOutcome,
        source: str,
        target: str,
        user_id: int,
        target_user_id: int,
        asset: Asset,
        amount: int,
    ) -> Response:
        names = self._names
        told = names.outcome(
            outcome,
            names.account(source, user_id, asset.asset_id),
            names.account(target, target_user_id, asset.asset_id),
            amount,
            asset,
        )
        return Response(
            202 if outcome.status is TransferStatus.PENDING else 200,
            _encode(Success(data=told)),
            JSON,
            _REPLAYED if outcome.replayed else (),
            About(outcome.req_id, user_id, outcome.status, outcome.replayed),
        )

    async def look_up(self, _request: Request, caller: Caller, parameters: Sequence[str]) -> Response:
        """Return a transfer by `request_id` or `req_id`; another user's is not found."""
        return await self._told(parse_request_id(parameters[0]), caller)

    async def look_up_by_key(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Return the transfer that the caller gave this key."""
        query = parse_query(request.query, ("idempotency_key",))
        if "idempotency_key" not in query:
            raise Rejected(
                ProblemCode.MISSING_PARAMETER,
                f"idempotency_key is missing: ask for {TRANSFERS_PATH}?idempotency_key=…, /{{request_id}} or /history",
                field="idempotency_key",
            )
        key = idempotency_key((query["idempotency_key"].encode(),), name="idempotency_key")
        return await self._told(keyed_req_id(caller.subject, "transfer", key or ""), caller)

    async def _told(self, req_id: int | None, caller: Caller) -> Response:
        record = await self._slot.engine.get(UUID(int=req_id)) if req_id is not None and is_req_id(req_id) else None
        if record is None or not (caller.owns(record.user_id) or caller.owns(record.target_user_id)):
            raise TransferNotFound
        return Response(200, _encode(Success(data=self._names.transfer(record))))


def _users(body: UserTransferRequest, caller: Caller) -> tuple[int, int]:
    """Return whose money is moved and who gets it; a missing one is the token's user, or else the other one.

    Raises:
        Rejected: nobody is named, or the caller may not move his money.
    """
    source, target = body.from_account.user_id, body.to_account.user_id
    user_id = source if source is not None else caller.user_id if caller.user_id is not None else target
    if user_id is None:
        raise Rejected(
            ProblemCode.MISSING_FIELD,
            "from_account.user_id is missing: without a user's token say whose money is meant",
            field="from_account.user_id",
        )
    target_user_id = target if target is not None else caller.user_id if caller.user_id is not None else user_id
    caller.require_user(user_id, "from_account.user_id")
    caller.require_user(target_user_id, "to_account.user_id")
    return user_id, target_user_id
