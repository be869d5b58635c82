"""A user's endpoint as both record stores keep it."""

from collections.abc import Iterable

import msgspec

from transfer_engine.engine.records.protocol import EndpointPage, RecordsDamaged
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


def page_of(rows: Iterable[tuple[int, bytes | None]], next_position: int | None) -> EndpointPage:
    """Return a page of stored rows; what can't be understood is named in it."""
    endpoints: list[Endpoint] = []
    damaged: list[str] = []
    for user_id, body in rows:
        try:
            endpoints.append(endpoint_of(user_id, body))
        except RecordsDamaged as error:
            damaged.append(str(error))
    return EndpointPage(endpoints, next_position, damaged)
