"""Users' endpoints: registered, looked at, tried, taken away by their users."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from transfer_engine.engine.outcomes import Overloaded, RefusalCode
from transfer_engine.http import webhook_operations as operations
from transfer_engine.http.bodies import BodyDecoder
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import JSON, Request, Response
from transfer_engine.http.problems import Flavour, ProblemCode, Rejected
from transfer_engine.http.queries import asked_user, parse_query
from transfer_engine.http.routes import Route
from transfer_engine.http.webhook_settings import WebhookSettings
from transfer_engine.http.webhook_urls import parse_endpoint_url
from transfer_engine.schema.user_wire import Success
from transfer_engine.schema.webhook_wire import Webhook, WebhookRemoved, WebhookRequest, WebhookTest
from transfer_engine.schema.webhooks import Endpoint

if TYPE_CHECKING:
    from transfer_engine.http.webhooks import Webhooks

PATH: Final = "/api/v1/user/webhook"

_encode: Final = msgspec.json.Encoder().encode
_REQUEST: Final = BodyDecoder(WebhookRequest)


class WebhookApi:
    """Its endpoints. ``running`` is who delivers, once the engine has opened."""

    def __init__(self, slot: EngineSlot, settings: WebhookSettings) -> None:
        self.running: Webhooks | None = None
        self._slot = slot
        self._settings = settings

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [
            Route(
                "PUT",
                PATH,
                self.register,
                Scope.WRITE,
                body_types=(JSON,),
                flavour=Flavour.USER,
                operation=operations.REGISTER,
            ),
            Route("GET", PATH, self.look_up, Scope.READ, flavour=Flavour.USER, operation=operations.LOOK_UP),
            Route("DELETE", PATH, self.remove, Scope.WRITE, flavour=Flavour.USER, operation=operations.REMOVE),
            Route(
                "POST", f"{PATH}/enable", self.enable, Scope.WRITE, flavour=Flavour.USER, operation=operations.ENABLE
            ),
            Route("POST", f"{PATH}/test", self.test, Scope.WRITE, flavour=Flavour.USER, operation=operations.TEST),
        ]

    async def register(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Have a user told at a URL of each of his finished transfers, from now on."""
        webhooks = self._webhooks
        user_id = asked_user(parse_query(request.query, ("user_id",)), caller)
        body = _REQUEST.decode(request.body)
        url = parse_endpoint_url(body.url, allow_private_addresses=self._settings.allow_private_addresses)
        endpoint, has_new_secret = await webhooks.outbox.endpoints.register(
            user_id, str(url), has_new_secret=body.rotate_secret
        )
        told = self._told(endpoint)
        if has_new_secret:
            told = msgspec.structs.replace(told, secret=endpoint.secret)
        return Response(200, _encode(Success(data=told)))

    async def look_up(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Return a user's endpoint, without its secret."""
        endpoint = await self._endpoint(request, caller)
        return Response(200, _encode(Success(data=self._told(endpoint))))

    async def remove(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Tell a user nothing any more; what waits for his endpoint is dropped."""
        webhooks = self._webhooks
        user_id = asked_user(parse_query(request.query, ("user_id",)), caller)
        is_removed = await webhooks.outbox.endpoints.remove(user_id)
        webhooks.forget(user_id)
        return Response(200, _encode(Success(data=WebhookRemoved(removed=is_removed))))

    async def enable(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Tell an endpoint again that was disabled: of what ends from now on."""
        webhooks = self._webhooks
        user_id = asked_user(parse_query(request.query, ("user_id",)), caller)
        endpoint = await webhooks.outbox.endpoints.enable(user_id)
        if endpoint is None:
            raise _none_of(user_id)
        return Response(200, _encode(Success(data=self._told(endpoint))))

    async def test(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Send a test message to a user's endpoint now, and say what came of it."""
        webhooks = self._webhooks
        delivery = await webhooks.test(await self._endpoint(request, caller))
        told = WebhookTest(delivered=delivery.is_delivered, status=delivery.status, detail=delivery.detail)
        return Response(200, _encode(Success(data=told)))

    @property
    def _webhooks(self) -> "Webhooks":
        """Who delivers.

        Raises:
            Rejected: nobody is told here (``webhooks_disabled``).
            Overloaded: the engine is not open yet.
        """
        if not self._settings.enabled:
            raise Rejected(
                ProblemCode.WEBHOOKS_DISABLED, "webhooks are not offered here (webhooks.enabled): ask for the history"
            )
        if self.running is None:
            raise Overloaded(RefusalCode.UNAVAILABLE, self._slot.starting)
        return self.running

    async def _endpoint(self, request: Request, caller: Caller) -> Endpoint:
        webhooks = self._webhooks
        user_id = asked_user(parse_query(request.query, ("user_id",)), caller)
        endpoint = await webhooks.outbox.endpoints.get(user_id)
        if endpoint is None:
            raise _none_of(user_id)
        return endpoint

    def _told(self, endpoint: Endpoint) -> Webhook:
        webhooks = self._webhooks
        attempts = webhooks.attempts(endpoint.user_id)
        return Webhook(
            user_id=endpoint.user_id,
            url=endpoint.url,
            enabled=endpoint.is_enabled,
            disabled_because=endpoint.disabled_because or None,
            created_at=endpoint.created_at,
            changed_at=endpoint.changed_at,
            waiting=webhooks.outbox.queues.of_user(endpoint.user_id),
            last_success_at=attempts.last_success_at,
            last_failure_at=attempts.last_failure_at,
            last_failure=attempts.last_failure,
        )


def _none_of(user_id: int) -> Rejected:
    return Rejected(ProblemCode.NO_SUCH_WEBHOOK, f"user {user_id} has no webhook: register one by PUT {PATH}")
