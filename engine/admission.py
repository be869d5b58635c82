"""Admission: what is checked before an intent is taken. All of it is synchronous, and a refusal leaves nothing."""

from collections.abc import Callable, Mapping
from typing import NoReturn

from transfer_engine.actors import ActorPool, MailboxFull, PoolClosed
from transfer_engine.engine.contests import KeyContested
from transfer_engine.engine.endings import key_reused
from transfer_engine.engine.leases import Lease
from transfer_engine.engine.open_transfers import OpenTransfer, OpenTransfers
from transfer_engine.engine.outcomes import InvalidTransfer, Overloaded, RefusalCode
from transfer_engine.engine.services.registry import EXTERNAL, Service, ServiceRegistry
from transfer_engine.engine.submitter import Health
from transfer_engine.schema.ids import (
    KEY_LENGTH_MAX,
    CeilingReached,
    SnowflakeGenerator,
    fingerprint,
    issued_req_id,
    keyed_req_id,
)
from transfer_engine.schema.money import AMOUNT_MAX, Asset
from transfer_engine.schema.transfers import Intent

USER_ID_MAX = (1 << 63) - 1
"""What a `bigint` column holds."""


def refuse(code: RefusalCode, field: str, message: str) -> NoReturn:
    """Refuse a parameter by name."""
    raise InvalidTransfer(code, message, field=field)


class Admission:
    """Checks requests and puts accepted ones into their user's mailbox."""

    def __init__(
        self,
        *,
        registry: ServiceRegistry,
        assets: Mapping[int, Asset],
        open_transfers: OpenTransfers,
        open_transfers_most: int,
        pool: ActorPool[int, OpenTransfer],
        identifiers: SnowflakeGenerator,
        backends: Mapping[str, Health],
        lease: Lease,
        clock_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._assets = assets
        self._open = open_transfers
        self._open_most = open_transfers_most
        self._pool = pool
        self._identifiers = identifiers
        self._backends = backends
        self._lease = lease
        self._clock_ms = clock_ms
        self.is_closed = False

    @property
    def closed_because(self) -> str:
        """Why no transfer is taken any more, or an empty string."""
        if self.is_closed:
            return "shutting down"
        return self._lease.not_held_because

    def service(self, name: object, field: str) -> Service:
        """Return the service that a client names; the external account is not a client's to name."""
        if not isinstance(name, str):
            refuse(RefusalCode.INVALID_TYPE, field, f"{field} must be a string, not {type(name).__name__}")
        service = self._registry.find(name)
        if service is None or service.name == EXTERNAL:
            names = ", ".join(self._registry.public_names)
            refuse(RefusalCode.UNKNOWN_SERVICE, field, f"{field} {name[:40]!r} is unknown: use one of {names}")
        return service

    def external(self) -> Service:
        """Return the service that credits come from."""
        return self._registry[EXTERNAL]

    def admit(
        self,
        *,
        scheme: str,
        source: Service,
        target: Service,
        user_id: int,
        target_user_id: int,
        asset_id: int,
        amount: int,
        key: str | None,
        subject: str,
    ) -> tuple[OpenTransfer, bool]:
        """Accept a transfer, or join the one under way with the same key; True where it was joined.

        Raises:
            InvalidTransfer: a parameter is wrong; ``field`` names it.
            KeyReused: the key is under way with another body, which owns it.
            KeyContested: … and it is not known yet whether that one owns it.
            Overloaded: no room, or no backend, now.
        """
        self._check(user_id, target_user_id, asset_id, amount, key)
        if source.account_id(user_id, asset_id) == target.account_id(target_user_id, asset_id):
            refuse(RefusalCode.SAME_ACCOUNT, "to", "from and to are the same account: name two different ones")
        mark = fingerprint(
            source=source.name,
            target=target.name,
            user_id=user_id,
            target_user_id=target_user_id,
            asset_id=asset_id,
            amount=amount,
        )
        req_id = self._name(key, scheme, subject)
        under_way = self._open.find(req_id)
        if under_way is not None:
            if under_way.intent.fingerprint == mark:
                return under_way, True
            raise key_reused() if under_way.owns_key else KeyContested(under_way)
        self._require_room()
        intent = Intent(
            req_id=req_id.to_bytes(16),
            source=source.name,
            target=target.name,
            user_id=user_id,
            target_user_id=target_user_id,
            asset_id=asset_id,
            amount=amount,
            accepted_at=self._clock_ms(),
            fingerprint=mark,
        )
        transfer = OpenTransfer(req_id=req_id, intent=intent, source=source, target=target)
        try:
            self._pool.tell_nowait(user_id, transfer)
        except MailboxFull:
            raise Overloaded(
                RefusalCode.OVERLOADED, f"too many transfers of user {user_id} wait: try again later"
            ) from None
        except PoolClosed:
            raise _shutting_down() from None
        # The point of no return: the transfer is its user's actor's now.
        self._open.add(transfer)
        return transfer, False

    def _check(self, user_id: int, target_user_id: int, asset_id: int, amount: int, key: str | None) -> None:
        """Check what can be wrong with a request by itself, in the order of the codes."""
        if type(amount) is not int:
            refuse(RefusalCode.INVALID_TYPE, "amount", f"amount must be an integer of minor units, not {_type(amount)}")
        if amount <= 0:
            refuse(RefusalCode.AMOUNT_NOT_POSITIVE, "amount", "Amount must be positive")
        if amount > AMOUNT_MAX:
            refuse(RefusalCode.AMOUNT_TOO_LARGE, "amount", f"amount must be at most {AMOUNT_MAX} minor units")
        if type(asset_id) is not int:
            refuse(RefusalCode.INVALID_TYPE, "asset_id", f"asset_id must be an integer, not {_type(asset_id)}")
        asset = self._assets.get(asset_id)
        if asset is None:
            known = ", ".join(str(number) for number in self._assets)
            refuse(RefusalCode.UNKNOWN_ASSET, "asset_id", f"asset_id {asset_id} is unknown: use one of {known}")
        if not asset.enabled:
            refuse(RefusalCode.ASSET_DISABLED, "asset_id", f"asset {asset.symbol} is disabled")
        for field, number in (("user_id", user_id), ("target_user_id", target_user_id)):
            if type(number) is not int:
                refuse(RefusalCode.INVALID_TYPE, field, f"{field} must be an integer, not {_type(number)}")
            if not 1 <= number <= USER_ID_MAX:
                refuse(RefusalCode.INVALID_USER_ID, field, f"{field} must be between 1 and {USER_ID_MAX}")
        if key is not None:
            _check_key(key)

    def _name(self, key: str | None, scheme: str, subject: str) -> int:
        if key is not None:
            try:
                return keyed_req_id(subject, scheme, key)
            except UnicodeEncodeError:
                refuse(RefusalCode.INVALID_TYPE, "idempotency_key", "Idempotency-Key has a lone surrogate in it")
        try:
            return issued_req_id(self._identifiers.issue())
        except CeilingReached as error:
            raise Overloaded(RefusalCode.UNAVAILABLE, f"no identifiers can be issued now: {error}") from None

    def _require_room(self) -> None:
        if self.is_closed:
            raise _shutting_down()
        if not self._lease.is_held:
            raise Overloaded(RefusalCode.UNAVAILABLE, f"{self.closed_because}: try again elsewhere")
        if len(self._open) >= self._open_most:
            raise Overloaded(RefusalCode.OVERLOADED, f"{len(self._open)} transfers are under way: try again later")
        for name, health in self._backends.items():
            if not health.is_good:
                raise Overloaded(RefusalCode.UNAVAILABLE, f"the {name} can't be reached now: try again later")


def _shutting_down() -> Overloaded:
    return Overloaded(RefusalCode.SHUTTING_DOWN, "the engine is shutting down: try again elsewhere, or later")


def _type(value: object) -> str:
    return type(value).__name__


def _check_key(key: object) -> None:
    if type(key) is not str:
        refuse(RefusalCode.INVALID_TYPE, "idempotency_key", f"idempotency_key must be a string, not {_type(key)}")
    if not key:
        refuse(RefusalCode.KEY_EMPTY, "idempotency_key", "Idempotency-Key is empty: leave it out, or name one")
    if len(key) > KEY_LENGTH_MAX:
        refuse(
            RefusalCode.KEY_TOO_LONG,
            "idempotency_key",
            f"Idempotency-Key is longer than {KEY_LENGTH_MAX} characters",
        )
