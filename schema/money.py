"""Money is an integer in minor units. Decimal strings exist at the edges only, and are exact or refused."""

import enum
import re
from typing import Final

import msgspec

AMOUNT_MAX: Final = (1 << 63) - 1
"""The largest amount of one transfer, in minor units: what a `bigint` column holds."""

DECIMALS_MAX: Final = 18
"""The most decimals an asset may have: one unit of it still fits an amount."""

_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?", re.ASCII)


class Asset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An asset that users hold: its number is also its ledger in TigerBeetle."""

    asset_id: int
    symbol: str
    decimals: int
    enabled: bool = True
    amount_least: int = 1
    """Of one transfer, in minor units, as all amounts here."""
    amount_most: int = AMOUNT_MAX
    daily_most: int | None = None
    """Of all transfers of one user in a UTC day together; None for any."""

    def __post_init__(self) -> None:
        if not 1 <= self.asset_id <= 0xFFFF_FFFE:
            raise ValueError(f"asset_id is {self.asset_id}: it must be between 1 and 2^32 - 2")
        if not 0 <= self.decimals <= DECIMALS_MAX:
            raise ValueError(f"decimals of {self.symbol} is {self.decimals}: it must be 0 to {DECIMALS_MAX}")
        if not 1 <= self.amount_least <= self.amount_most <= AMOUNT_MAX:
            raise ValueError(
                f"amount_least and amount_most of {self.symbol} are {self.amount_least} and {self.amount_most}: they "
                f"must be 1 to {AMOUNT_MAX}, and the least not above the most"
            )
        if self.daily_most is not None and self.daily_most < self.amount_least:
            raise ValueError(
                f"daily_most of {self.symbol} is {self.daily_most}: no transfer of amount_least, {self.amount_least}, "
                "would ever fit in"
            )


class AmountFault(enum.Enum):
    """Why a decimal string is no amount, in the order in which it is checked."""

    MALFORMED = "is not a plain decimal number like 100 or 0.5: no sign, exponent, blank or leading zero"
    TOO_MANY_DECIMALS = "has more decimals than the asset"
    NOT_POSITIVE = "must be positive"
    TOO_LARGE = "is larger than 2^63 - 1 minor units"


class InvalidAmount(ValueError):
    """A decimal string that is not an amount of the asset; ``fault`` says why."""

    def __init__(self, text: str, fault: AmountFault) -> None:
        super().__init__(f"amount {text[:40]!r} {fault.value}")
        self.fault = fault


def parse_amount(text: str, decimals: int) -> int:
    """Return the minor units that a decimal string names, exactly.

    Raises:
        InvalidAmount: signs, exponents, blanks, non-ASCII digits, leading zeros, too many decimals, zero, too large.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidAmount(text, AmountFault.MALFORMED)
    whole, fraction = match[1], match[2] or ""
    if len(fraction) > decimals:
        raise InvalidAmount(text, AmountFault.TOO_MANY_DECIMALS)
    if len(whole) > 19:  # more digits than AMOUNT_MAX has; also bounds the work of int()
        raise InvalidAmount(text, AmountFault.TOO_LARGE)
    minor_units = int(whole + fraction.ljust(decimals, "0"))
    if minor_units == 0:
        raise InvalidAmount(text, AmountFault.NOT_POSITIVE)
    if minor_units > AMOUNT_MAX:
        raise InvalidAmount(text, AmountFault.TOO_LARGE)
    return minor_units


def format_amount(minor_units: int, decimals: int) -> str:
    """Return the exact decimal string of an amount or balance, with all of the asset's decimals."""
    sign, digits = ("-", -minor_units) if minor_units < 0 else ("", minor_units)
    if decimals == 0:
        return f"{sign}{digits}"
    whole, fraction = divmod(digits, 10**decimals)
    return f"{sign}{whole}.{fraction:0{decimals}d}"
