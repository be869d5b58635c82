"""What travels for webhooks: the bodies of the endpoints that users register by, and of the messages that they get."""

from typing import Annotated, Literal

import msgspec

from transfer_engine.schema.user_wire import UserTransfer

EndpointUrlText = Annotated[str, msgspec.Meta(description='a URL in a string, like "https://example.com/webhooks"')]
RotateFlag = Annotated[bool, msgspec.Meta(description="true or false")]


class WebhookRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`PUT /api/v1/user/webhook`: where to be told; with ``rotate_secret`` messages get another secret."""

    url: EndpointUrlText
    rotate_secret: RotateFlag = False


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's endpoint. Times are Unix ms, null where there is none.

    ``secret`` is there when it was made just now, and never again. ``waiting`` and what follows is as the asked engine
    knows it, since it started: ``waiting`` messages were not delivered yet.
    """

    user_id: int
    url: str
    enabled: bool
    disabled_because: str | None
    created_at: int
    changed_at: int
    waiting: int
    last_success_at: int | None
    last_failure_at: int | None
    last_failure: str | None
    secret: str | msgspec.UnsetType = msgspec.UNSET


class WebhookRemoved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`DELETE /api/v1/user/webhook`: whether there was one."""

    removed: bool


class WebhookTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/user/webhook/test`: what came of the message; ``status`` is null where there was no answer."""

    delivered: bool
    status: int | None
    detail: str


class FinishedTransfer(UserTransfer, frozen=True, forbid_unknown_fields=True, gc=False):
    """A finished transfer as its users are told of it: the second API's view, and the amount in minor units."""

    asset_id: int
    amount_minor: int


class WebhookEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a message; ``timestamp`` is when it happened (ISO 8601, UTC)."""

    type: Literal["transfer.finished", "webhook.test"]
    timestamp: str
    data: FinishedTransfer | dict[str, int]
