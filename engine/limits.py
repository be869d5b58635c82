"""Limits of assets: what one transfer may move, and all of a user's in a day. Rules and words; no clock, no I/O.

They bind transfers, and not credits. A refusal is for now: the same key may be tried again.
"""

import datetime as dt
from typing import Final

import msgspec

from transfer_engine.engine.outcomes import InvalidTransfer, RefusalCode
from transfer_engine.schema.money import Asset, format_amount

DAY_MS: Final = 86_400_000


class AssetLimits(msgspec.Struct, frozen=True):
    """What one user may move of an asset, in minor units.

    ``daily_most`` and what follows are None where there is no such limit. ``used`` counts what was committed in this
    UTC day, and everything under way; ``resets_at`` (Unix ms) is when the next day begins.
    """

    asset_id: int
    symbol: str
    decimals: int
    enabled: bool
    least: int
    most: int
    daily_most: int | None = None
    used: int | None = None
    left: int | None = None
    resets_at: int | None = None


def day_of(at_ms: int) -> int:
    """Return the UTC day of a time (Unix ms), counted from 1970-01-01."""
    return at_ms // DAY_MS


def refusal_of_asset(asset: Asset, amount: int, *, is_credit: bool) -> InvalidTransfer | None:
    """Return why an asset's own limits refuse an amount, or None."""
    if not asset.enabled:
        return InvalidTransfer(RefusalCode.ASSET_DISABLED, f"asset {asset.symbol} is disabled", field="asset_id")
    if is_credit:
        return None
    if amount < asset.amount_least:
        return InvalidTransfer(
            RefusalCode.AMOUNT_BELOW_MINIMUM,
            f"amount {_told(amount, asset)} is below the minimum of one transfer, {_told(asset.amount_least, asset)} "
            f"({asset.amount_least} minor units)",
            field="amount",
        )
    if amount > asset.amount_most:
        return InvalidTransfer(
            RefusalCode.AMOUNT_ABOVE_MAXIMUM,
            f"amount {_told(amount, asset)} is above the maximum of one transfer, {_told(asset.amount_most, asset)} "
            f"({asset.amount_most} minor units)",
            field="amount",
        )
    return None


def refusal_of_day(asset: Asset, amount: int, *, daily_most: int, used: int, day: int) -> InvalidTransfer:
    """Return the refusal of an amount that does not fit into the user's day any more."""
    resets_at = dt.datetime.fromtimestamp((day + 1) * DAY_MS // 1000, tz=dt.UTC)
    return InvalidTransfer(
        RefusalCode.DAILY_LIMIT_REACHED,
        f"amount {_told(amount, asset)} is more than is left of the daily limit of {_told(daily_most, asset)}: "
        f"{_told(used, asset)} used, {_told(max(0, daily_most - used), asset)} left until "
        f"{resets_at:%Y-%m-%dT%H:%M:%SZ}",
        field="amount",
    )


def limits_of(asset: Asset, *, used: int | None, day: int) -> AssetLimits:
    """Return what a user may move of an asset; ``used`` is None where it has no daily limit."""
    plain = AssetLimits(
        asset_id=asset.asset_id,
        symbol=asset.symbol,
        decimals=asset.decimals,
        enabled=asset.enabled,
        least=asset.amount_least,
        most=asset.amount_most,
    )
    if used is None or asset.daily_most is None:
        return plain
    return msgspec.structs.replace(
        plain,
        daily_most=asset.daily_most,
        used=used,
        left=max(0, asset.daily_most - used),
        resets_at=(day + 1) * DAY_MS,
    )


def _told(amount: int, asset: Asset) -> str:
    return f"{format_amount(amount, asset.decimals)} {asset.symbol}"
