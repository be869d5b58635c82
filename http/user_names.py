"""The second API's names for accounts, assets and amounts, and the engine's for the same things: there and back."""

from typing import Final

from transfer_engine.engine.limits import AssetLimits
from transfer_engine.engine.open_transfers import PENDING_MESSAGE
from transfer_engine.engine.outcomes import Balance, InvalidTransfer, RefusalCode, Refused, TransferOutcome
from transfer_engine.engine.services.registry import EXTERNAL
from transfer_engine.engine.settings import Settings
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.schema.ids import request_id
from transfer_engine.schema.money import AmountFault, Asset, InvalidAmount, format_amount, parse_amount
from transfer_engine.schema.transfers import TransferRecord, TransferStatus
from transfer_engine.schema.user_wire import (
    USER_STATUS_OF_STATE,
    UserAccount,
    UserAsset,
    UserAssetLimits,
    UserBalance,
    UserTransfer,
)

_FIELDS_OF_ENGINE: Final = {
    "from": "from_account.account_type",
    "to": "to_account.account_type",
    "user_id": "from_account.user_id",
    "target_user_id": "to_account.user_id",
    "asset_id": "from_account.asset",
    "idempotency_key": "Idempotency-Key",
}


class UserNames:
    """Translates; what a client named wrongly is refused by the field that he gave it in."""

    def __init__(self, settings: Settings) -> None:
        self._services = {
            name: service.name for service in settings.services for name in (service.name, *service.aliases)
        }
        assets = [asset.asset() for asset in settings.assets]
        self._by_symbol = {asset.symbol: asset for asset in assets}
        self._by_id = {asset.asset_id: asset for asset in assets}

    def service(self, name: str, field: str, *, also_external: bool = False) -> str:
        """Return the service's own name.

        Raises:
            InvalidTransfer: there is none of this name (``unknown_service``).
        """
        service = self._services.get(name)
        if service is None and also_external and name == EXTERNAL:
            return EXTERNAL
        if service is None:
            known = ", ".join(self._services)
            raise InvalidTransfer(
                RefusalCode.UNKNOWN_SERVICE, f"{field} {name[:40]!r} is unknown: use one of {known}", field=field
            )
        return service

    def asset(self, symbol: str, field: str, *, also_disabled: bool = False) -> Asset:
        """Return the asset of a symbol.

        Raises:
            InvalidTransfer: there is none (``unknown_asset``), or it is disabled (``asset_disabled``).
        """
        asset = self._by_symbol.get(symbol)
        if asset is None:
            upper = symbol.upper()
            fix = f"write {upper}" if upper in self._by_symbol else f"use one of {', '.join(self._by_symbol)}"
            raise InvalidTransfer(RefusalCode.UNKNOWN_ASSET, f"{field} {symbol[:40]!r} is unknown: {fix}", field=field)
        if not asset.enabled and not also_disabled:
            raise InvalidTransfer(RefusalCode.ASSET_DISABLED, f"{field}: asset {symbol} is disabled", field=field)
        return asset

    def account(self, service: str, user_id: int, asset_id: int) -> UserAccount:
        """Return one side of a transfer as it is told."""
        return UserAccount(account_type=service, user_id=user_id, asset=self._by_id[asset_id].symbol)

    def transfer(self, record: TransferRecord) -> UserTransfer:
        """Return a transfer as it is told."""
        return UserTransfer(
            request_id=request_id(record.req_id.int),
            req_id=record.req_id,
            from_account=self._account(record.source, record.user_id, record.asset_id),
            to_account=self._account(record.target, record.target_user_id, record.asset_id),
            amount=self.amount(record.amount, record.asset_id),
            status=USER_STATUS_OF_STATE[record.state],
            state=record.state,
            error=record.error or None,
            created_at=record.created_at,
            updated_at=record.updated_at,
        )

    def outcome(
        self, outcome: TransferOutcome, source: UserAccount, target: UserAccount, amount: int, asset: Asset
    ) -> UserTransfer:
        """Return what became of a transfer that was just asked for, as it is told."""
        return UserTransfer(
            request_id=request_id(outcome.req_id.int),
            req_id=outcome.req_id,
            from_account=source,
            to_account=target,
            amount=format_amount(amount, asset.decimals),
            status=USER_STATUS_OF_STATE[outcome.state],
            state=outcome.state,
            error=_trouble(outcome),
            created_at=outcome.created_at or None,
            updated_at=outcome.updated_at or None,
        )

    def balance(self, balance: Balance) -> UserBalance:
        """Return an account's money as it is told."""
        return UserBalance(
            account_type=balance.account,
            asset=self._symbol(balance.asset_id),
            available=self.amount(balance.available, balance.asset_id),
            frozen=self.amount(balance.frozen, balance.asset_id),
        )

    def assets(self) -> list[UserAsset]:
        """Return the assets as they are told."""
        return [
            UserAsset(
                asset=asset.symbol,
                asset_id=asset.asset_id,
                decimals=asset.decimals,
                enabled=asset.enabled,
                minimum=format_amount(asset.amount_least, asset.decimals),
                maximum=format_amount(asset.amount_most, asset.decimals),
                daily_maximum=_or_none(asset.daily_most, asset.decimals),
            )
            for asset in self._by_id.values()
        ]

    def limits(self, limits: AssetLimits) -> UserAssetLimits:
        """Return what a user may move of an asset as it is told."""
        decimals = limits.decimals
        return UserAssetLimits(
            asset=limits.symbol,
            enabled=limits.enabled,
            minimum=format_amount(limits.least, decimals),
            maximum=format_amount(limits.most, decimals),
            daily_maximum=_or_none(limits.daily_most, decimals),
            daily_used=_or_none(limits.used, decimals),
            daily_left=_or_none(limits.left, decimals),
            resets_at=limits.resets_at,
        )

    def amount(self, minor_units: int, asset_id: int) -> str:
        """Return an amount with all of its asset's decimals; in minor units where the asset is not known any more."""
        asset = self._by_id.get(asset_id)
        return format_amount(minor_units, asset.decimals if asset is not None else 0)

    def _account(self, service: str, user_id: int, asset_id: int) -> UserAccount:
        return UserAccount(account_type=service, user_id=user_id, asset=self._symbol(asset_id))

    def _symbol(self, asset_id: int) -> str:
        """Return an asset's symbol; its number where it was taken out of the settings since."""
        asset = self._by_id.get(asset_id)
        return asset.symbol if asset is not None else str(asset_id)


def _or_none(minor_units: int | None, decimals: int) -> str | None:
    return None if minor_units is None else format_amount(minor_units, decimals)


def _trouble(outcome: TransferOutcome) -> str | None:
    """Return what a record's ``error`` would say: that a transfer is under way is in its status."""
    message = outcome.message or ""
    if outcome.status is TransferStatus.PENDING:
        message = message.removeprefix(PENDING_MESSAGE).removeprefix(": ")
    return message or None


def parse_asset_amount(text: str, asset: Asset) -> int:
    """Return the minor units that a client's decimal string names.

    Raises:
        InvalidTransfer: zero, or more than fits (``amount_not_positive``, ``amount_too_large``).
        Rejected: no plain decimal number, or too many decimals (``invalid_amount``); it says how to mend it.
    """
    try:
        return parse_amount(text, asset.decimals)
    except InvalidAmount as error:
        fault = error.fault
    if fault is AmountFault.NOT_POSITIVE:
        raise InvalidTransfer(RefusalCode.AMOUNT_NOT_POSITIVE, "Amount must be positive", field="amount")
    if fault is AmountFault.TOO_LARGE:
        raise InvalidTransfer(
            RefusalCode.AMOUNT_TOO_LARGE, f"amount {fault.value}: send less at a time", field="amount"
        )
    if fault is AmountFault.TOO_MANY_DECIMALS:
        detail = f"{text[:40]!r} has too many decimals: {asset.symbol} has {asset.decimals} at most"
    else:
        detail = f"{text[:40]!r} {fault.value}"
    raise Rejected(ProblemCode.INVALID_AMOUNT, f"amount {detail}", field="amount")


def name_field(refused: Refused) -> Refused:
    """Make a refusal of the engine name the second API's field."""
    refused.field = _FIELDS_OF_ENGINE.get(refused.field or "", refused.field)
    return refused
