"""Transfers under way that no engine has: for tests of one part."""

from support.engines import World, now_ms
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.schema.ids import keyed_req_id
from transfer_engine.schema.transfers import Intent


def transfer_of(world: World, key: str, amount: int) -> OpenTransfer:
    """Return a transfer under way by a client's key, of which nothing is known yet."""
    registry = world.registry({})
    req_id = keyed_req_id("1", "transfer", key)
    intent = Intent(
        req_id=req_id.to_bytes(16),
        source="funding",
        target="trading",
        user_id=1,
        target_user_id=1,
        asset_id=1,
        amount=amount,
        accepted_at=now_ms(),
        fingerprint=5,
    )
    return OpenTransfer(req_id=req_id, intent=intent, source=registry["funding"], target=registry["trading"])
