"""The second API's accounts: what a user holds and may move, and the assets there are."""

from collections.abc import Sequence
from typing import Final

import msgspec

from transfer_engine.http import user_operations as operations
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.gate import Gate
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.problems import Flavour
from transfer_engine.http.queries import asked_user, parse_query
from transfer_engine.http.routes import Route
from transfer_engine.http.user_api import TRANSFERS_PATH
from transfer_engine.http.user_names import UserNames
from transfer_engine.schema.user_wire import Success, UserAssets, UserBalances, UserLimits, UserRateLimit

_encode: Final = msgspec.json.Encoder().encode


class UserAccountsApi:
    """Its endpoints."""

    def __init__(self, slot: EngineSlot, names: UserNames, gate: Gate) -> None:
        self._slot = slot
        self._names = names
        self._gate = gate
        self._assets = Response(200, _encode(Success(data=UserAssets(assets=names.assets()))))

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [
            Route(
                "GET",
                "/api/v1/user/balances",
                self.balances,
                Scope.READ,
                flavour=Flavour.USER,
                operation=operations.BALANCES,
            ),
            Route(
                "GET",
                "/api/v1/user/limits",
                self.limits,
                Scope.READ,
                flavour=Flavour.USER,
                operation=operations.LIMITS,
            ),
            Route(
                "GET",
                TRANSFERS_PATH + "/limits",
                self.limits,
                Scope.READ,
                flavour=Flavour.USER,
                operation=operations.TRANSFER_LIMITS,
            ),
            Route(
                "GET",
                "/api/v1/user/assets",
                self.assets,
                Scope.READ,
                flavour=Flavour.USER,
                operation=operations.ASSETS,
            ),
        ]

    async def balances(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Return a user's accounts."""
        user_id = asked_user(parse_query(request.query, ("user_id",)), caller)
        balances = [self._names.balance(balance) for balance in await self._slot.engine.balances(user_id)]
        return Response(200, _encode(Success(data=UserBalances(user_id=user_id, balances=balances))))

    async def limits(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Return what a user may move of each asset, now."""
        user_id = asked_user(parse_query(request.query, ("user_id",)), caller)
        limits = [self._names.limits(limits) for limits in await self._slot.engine.limits(user_id)]
        told = UserLimits(user_id=user_id, limits=limits, rate_limit=self._rate_limit(caller))
        return Response(200, _encode(Success(data=told)))

    def _rate_limit(self, caller: Caller) -> UserRateLimit | None:
        limits = self._gate.rate_limits
        state = limits.of_user(caller) if limits is not None else None
        return None if state is None else UserRateLimit(*state)

    async def assets(self, request: Request, _caller: Caller, _parameters: Sequence[str]) -> Response:
        """Return the assets."""
        parse_query(request.query, ())
        return self._assets
