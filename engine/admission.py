"""Admission: what is checked before an intent is taken. All of it is synchronous, and a refusal leaves nothing.

What can't be decided at once gets a place in its user's line, see :mod:`transfer_engine.engine.lines`: the user's sum
of today has to be read, or the first answer to a key whose request a limit refuses.
"""

from collections.abc import Callable, Mapping
from typing import NoReturn

import trio

from transfer_engine.actors import ActorPool, MailboxFull, PoolClosed
from transfer_engine.engine.backlog import Backlog
from transfer_engine.engine.congestion import Congestion
from transfer_engine.engine.contests import KeyContested
from transfer_engine.engine.daily_sums import DailySums
from transfer_engine.engine.endings import key_reused
from transfer_engine.engine.leases import Lease
from transfer_engine.engine.limits import AssetLimits, limits_of, refusal_of_asset, refusal_of_day
from transfer_engine.engine.lines import Lines, PerhapsAnswered, PerhapsRepeated, Place, SumUnknown, Wanted
from transfer_engine.engine.open_transfers import OpenTransfer, OpenTransfers
from transfer_engine.engine.outcomes import InvalidTransfer, Overloaded, RefusalCode, TransferOutcome
from transfer_engine.engine.records.protocol import RecordsUnavailable
from transfer_engine.engine.services.registry import EXTERNAL, Service, ServiceKind, ServiceRegistry
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
from transfer_engine.schema.transfers import STATUS_OF_STATE, Intent, TransferRecord

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
        congestion: Congestion,
        backlog: Backlog,
        pool: ActorPool[int, OpenTransfer],
        identifiers: SnowflakeGenerator,
        backends: Mapping[str, Health],
        lease: Lease,
        clock_ms: Callable[[], int],
        sums: DailySums,
        lines: Lines,
    ) -> None:
        self._registry = registry
        self._assets = assets
        self._open = open_transfers
        self._open_most = open_transfers_most
        self._congestion = congestion
        self._backlog = backlog
        self._pool = pool
        self._identifiers = identifiers
        self._backends = backends
        self._lease = lease
        self._clock_ms = clock_ms
        self._sums = sums
        self._lines = lines
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
            InLine: it has a place in its user's line, and is admitted, or refused, when it is its turn.
            Overloaded: no room, or no backend, now.
        """
        self._check(user_id, target_user_id, asset_id, amount, key)
        if source.code == target.code and (
            source.account_id(user_id, asset_id) == target.account_id(target_user_id, asset_id)
        ):
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
        return self._take(Wanted(req_id, intent, source, target, key is not None), None)

    def _take(self, wanted: Wanted, place: Place | None) -> tuple[OpenTransfer, bool]:
        """Take a transfer, or join the one under way; ``place`` is at the head of its user's line, if it has one.

        Raises:
            InvalidTransfer, KeyReused, KeyContested, Overloaded, InLine: see :meth:`admit`.
            SumUnknown, PerhapsAnswered, PerhapsRepeated: only from the head of a line.
        """
        intent = wanted.intent
        under_way = self._open.find(wanted.req_id)
        if under_way is not None:
            if under_way.intent.fingerprint == intent.fingerprint:
                self._backlog.release(intent.user_id)
                return under_way, True
            raise key_reused() if under_way.owns_key else KeyContested(under_way)
        self._require_room()
        if place is None:
            if self._lines.of_user and intent.user_id in self._lines.of_user:
                raise self._lines.join(wanted, self._take_in_turn)
            try:
                self._require_limits(wanted, None)
            except (SumUnknown, PerhapsAnswered, PerhapsRepeated):
                raise self._lines.join(wanted, self._take_in_turn) from None
        elif place.record is None:
            self._require_limits(wanted, place)
        elif place.record.fingerprint != intent.fingerprint:
            raise key_reused()
        elif place.record.state.is_terminal:
            return _answered(wanted, place.record), True
        # A row in between was admitted once: no limit stops what is under way.
        transfer = OpenTransfer(req_id=wanted.req_id, intent=intent, source=wanted.source, target=wanted.target)
        self._backlog.release(intent.user_id)  # what he left unfinished comes first
        try:
            self._pool.tell_nowait(intent.user_id, transfer)
        except MailboxFull:
            raise Overloaded(
                RefusalCode.OVERLOADED, f"too many transfers of user {intent.user_id} wait: try again later"
            ) from None
        except PoolClosed:
            raise _shutting_down() from None
        # The point of no return: the transfer is its user's actor's now.
        self._open.add(transfer)
        return transfer, False

    async def limits(self, user_id: int, *, within_ms: int) -> list[AssetLimits]:
        """Return what a user may move of each asset, now.

        Raises:
            InvalidTransfer: there can't be such a user.
            RecordsUnavailable: what he has moved today could not be read in time.
        """
        if type(user_id) is not int or not 1 <= user_id <= USER_ID_MAX:
            refuse(RefusalCode.INVALID_USER_ID, "user_id", f"user_id must be between 1 and {USER_ID_MAX}")
        used: dict[int, int | None] = {}
        with trio.move_on_after(within_ms / 1000):
            while None in (used := self._used(user_id)).values():
                await self._sums.load(user_id)
        if None in used.values():
            raise RecordsUnavailable("what the user has moved today could not be read in time")
        day = self._sums.today
        return [limits_of(asset, used=used.get(asset.asset_id), day=day) for asset in self._assets.values()]

    def _used(self, user_id: int) -> dict[int, int | None]:
        """Return what counts to today, of the assets that have a daily limit."""
        return {
            asset.asset_id: self._sums.used(user_id, asset.asset_id)
            for asset in self._assets.values()
            if asset.daily_most is not None
        }

    def _take_in_turn(self, place: Place) -> tuple[OpenTransfer, bool]:
        return self._take(place.wanted, place)

    def _require_limits(self, wanted: Wanted, place: Place | None) -> None:
        """Refuse what the limits forbid; where there may be a first answer, only once it was looked for."""
        intent = wanted.intent
        asset = self._assets[intent.asset_id]
        amount = intent.amount
        is_credit = wanted.source.kind is ServiceKind.EXTERNAL
        refusal: InvalidTransfer | None = None
        if not asset.enabled or ((amount < asset.amount_least or amount > asset.amount_most) and not is_credit):
            refusal = refusal_of_asset(asset, amount, is_credit=is_credit)
        elif asset.daily_most is not None and not is_credit:
            used = self._sums.used(intent.user_id, intent.asset_id)
            if used is None:
                raise SumUnknown
            if used + amount > asset.daily_most:
                repeated = self._sums.perhaps_repeated(intent.user_id, intent.asset_id)
                if used - sum(other.intent.amount for other in repeated) + amount <= asset.daily_most:
                    raise PerhapsRepeated(repeated[0])
                refusal = refusal_of_day(asset, amount, daily_most=asset.daily_most, used=used, day=self._sums.today)
        if refusal is not None:
            if wanted.is_keyed and (place is None or not place.is_looked_up):
                raise PerhapsAnswered
            raise refusal

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
        under_way = len(self._open) - len(self._backlog)
        if under_way >= self._open_most:
            raise Overloaded(RefusalCode.OVERLOADED, f"{under_way} transfers are under way: try again later")
        congestion = self._congestion
        if under_way > congestion.waiting_most and congestion.is_too_much:
            raise Overloaded(
                RefusalCode.OVERLOADED,
                f"{congestion.waiting} transfers wait, and about {congestion.rate:.0f} a second are carried out: "
                "try again later",
            )
        for name, health in self._backends.items():
            if health.fault:
                raise Overloaded(RefusalCode.UNAVAILABLE, f"the {name} can't be reached now: try again later")


def _answered(wanted: Wanted, record: TransferRecord) -> OpenTransfer:
    """Return a transfer that is not under way, and whose answer is the one that was given before."""
    transfer = OpenTransfer(req_id=wanted.req_id, intent=wanted.intent, source=wanted.source, target=wanted.target)
    transfer.reply(
        TransferOutcome(
            req_id=transfer.uuid,
            status=STATUS_OF_STATE[record.state],
            state=record.state,
            message=record.error or None,
            replayed=True,
            created_at=record.created_at,
            updated_at=record.updated_at,
        )
    )
    return transfer


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
