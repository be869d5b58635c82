"""Webhooks, as their readers need them."""

from typing import Final

from transfer_engine.engine.outcomes import RefusalCode
from transfer_engine.http.operations import USER_IN_QUERY, WEBHOOKS, Answer, Code, Operation
from transfer_engine.http.problems import ProblemCode
from transfer_engine.schema.user_wire import Success
from transfer_engine.schema.webhook_wire import Webhook, WebhookRemoved, WebhookRequest, WebhookTest

_WEBHOOK: Final = {
    "user_id": 4001,
    "url": "https://example.com/webhooks",
    "enabled": True,
    "disabled_because": None,
    "created_at": 1767225600000,
    "changed_at": 1767225600000,
    "waiting": 0,
    "last_success_at": None,
    "last_failure_at": None,
    "last_failure": None,
}
_REGISTERED: Final = {**_WEBHOOK, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="}
_NO_USER: Final[tuple[Code, ...]] = (
    ProblemCode.MISSING_PARAMETER,
    ProblemCode.INVALID_USER_ID,
    RefusalCode.NOT_FOUND,
    ProblemCode.WEBHOOKS_DISABLED,
)

REGISTER: Final = Operation(
    name="putWebhook",
    group=WEBHOOKS,
    description="The answer holds the `secret` that messages are signed by when it was made just now: at the first "
    "registration, and with `rotate_secret`; it is never shown again. For a day messages are signed by the former one, "
    "too. Registering again enables an endpoint that was disabled.",
    request=WebhookRequest,
    example={"url": "https://example.com/webhooks"},
    answers=(
        Answer(
            status=200,
            description="It is registered.",
            body=Success[Webhook],
            example={"code": 0, "data": _REGISTERED},
        ),
    ),
    parameters=(USER_IN_QUERY,),
    problems=(*_NO_USER, RefusalCode.OVERLOADED),
)
LOOK_UP: Final = Operation(
    name="getWebhook",
    group=WEBHOOKS,
    answers=(Answer(status=200, description="It.", body=Success[Webhook], example={"code": 0, "data": _WEBHOOK}),),
    parameters=(USER_IN_QUERY,),
    problems=(*_NO_USER, ProblemCode.NO_SUCH_WEBHOOK),
)
REMOVE: Final = Operation(
    name="deleteWebhook",
    group=WEBHOOKS,
    answers=(
        Answer(
            status=200,
            description="There is none now.",
            body=Success[WebhookRemoved],
            example={"code": 0, "data": {"removed": True}},
        ),
    ),
    parameters=(USER_IN_QUERY,),
    problems=(*_NO_USER, RefusalCode.OVERLOADED),
)
ENABLE: Final = Operation(
    name="enableWebhook",
    group=WEBHOOKS,
    answers=(
        Answer(status=200, description="It is enabled.", body=Success[Webhook], example={"code": 0, "data": _WEBHOOK}),
    ),
    parameters=(USER_IN_QUERY,),
    problems=(*_NO_USER, ProblemCode.NO_SUCH_WEBHOOK, RefusalCode.OVERLOADED),
)
TEST: Final = Operation(
    name="testWebhook",
    group=WEBHOOKS,
    answers=(
        Answer(
            status=200,
            description="What came of it.",
            body=Success[WebhookTest],
            example={"code": 0, "data": {"delivered": True, "status": 204, "detail": "it answered 204"}},
        ),
    ),
    parameters=(USER_IN_QUERY,),
    problems=(*_NO_USER, ProblemCode.NO_SUCH_WEBHOOK, RefusalCode.OVERLOADED),
)
