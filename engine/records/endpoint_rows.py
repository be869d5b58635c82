"""A user's endpoint as both record stores keep it."""

import msgspec

from transfer_engine.engine.records.protocol import RecordsDamaged
from transfer_engine.schema.webhooks import Endpoint, decode_endpoint


def endpoint_of(user_id: int, body: bytes | None) -> Endpoint:
    """Return the endpoint of a stored row.

    Raises:
        RecordsDamaged: the row can't be understood; the message names it.
    """
    try:
        return decode_endpoint(body or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordsDamaged(
            f"the row of user {user_id} in table webhook_endpoints can't be understood ({error}): "
            "have the user register his endpoint again"
        ) from error
