"""Users' endpoints: who is to be told of his finished transfers, and where.

All of them are in memory, so that a transfer's end costs one look-up. The store has them for good; every engine reads
them again from time to time, and so learns what users told another one.
"""

import secrets
from base64 import b64encode
from collections.abc import Callable
from typing import Final

import msgspec

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.outcomes import Overloaded, RefusalCode
from transfer_engine.engine.patience import Patience
from transfer_engine.engine.records.protocol import EndpointPage, RecordsDamaged, RecordStore, RecordsUnavailable
from transfer_engine.schema.webhooks import GENERATION_BITS, Endpoint

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  how a secret begins
SECRET_BYTES: Final = 32

FORMER_SECRET_MS: Final = 86_400_000
"""After a new secret was made messages are signed by the one before, too, for so long: a day to change it over."""

PAGE: Final = 1_000
"""Endpoints read at once: about 300 KB."""

_ATTEMPTS: Final = 3
"""At a change that another request was faster with."""


def new_secret() -> str:
    """Return a secret that nobody has, as Standard Webhooks write it."""
    return SECRET_PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


class Endpoints:
    """All users' endpoints.

    Args:
        store: where they lie.
        alerts: told of faults.
        clock_ms: the wall clock (Unix ms).
        most: endpoints that may be registered.
    """

    def __init__(self, store: RecordStore, alerts: Alerts, clock_ms: Callable[[], int], *, most: int) -> None:
        self.enabled: dict[int, Endpoint] = {}
        """Those that are told, by user; only to be read."""
        self.on_change: Callable[[int], None] = lambda _user_id: None
        """Called with each user whose endpoint is another one now."""
        self._store = store
        self._alerts = alerts
        self._clock_ms = clock_ms
        self._most = most
        self._known: dict[int, Endpoint] = {}
        """Also those that were taken away, whose versions go on."""
        self._registered = 0
        self._damaged: set[str] = set()
        """What was alerted: rows that can't be understood."""

    def __repr__(self) -> str:
        return f"<Endpoints {len(self.enabled)} enabled of {len(self._known)} known>"

    @property
    def disabled(self) -> int:
        """How many are registered and disabled."""
        return self._registered - len(self.enabled)

    async def load(self, patience: Patience) -> None:
        """Read all endpoints before the first transfer ends. Cancellation leaves some of them unknown."""
        position: int | None = None
        while True:
            page = await patience.ask(
                lambda: self._store.scan_endpoints(position=position, limit=PAGE)  # noqa: B023  asked at once
            )
            self._learn_all(page)
            position = page.next_position
            if position is None:
                return

    async def refresh(self) -> None:
        """Read all endpoints again; a store that does not answer is an alert. Cancellation leaves some as they were."""
        try:
            await self.read_again()
        except RecordsUnavailable as error:
            self._alerts.warn("endpoints_not_read", error=str(error))

    async def read_again(self) -> None:
        """Read all endpoints again. Cancellation leaves some as they were.

        Raises:
            RecordsUnavailable: the store did not answer; some are as they were.
        """
        position: int | None = None
        while True:
            page = await self._store.scan_endpoints(position=position, limit=PAGE)
            self._learn_all(page)
            position = page.next_position
            if position is None:
                return

    async def get(self, user_id: int) -> Endpoint | None:
        """Return a user's endpoint as the store has it, or None where he has none.

        Raises:
            RecordsUnavailable: the store did not answer.
            RecordsDamaged: the row can't be understood.
        """
        endpoint = await self._store.get_endpoint(user_id)
        if endpoint is not None:
            self._learn(endpoint)
        return endpoint if endpoint is not None and endpoint.is_registered else None

    async def register(self, user_id: int, url: str, *, has_new_secret: bool = False) -> tuple[Endpoint, bool]:
        """Have a user told at ``url`` from now on; return his endpoint, and whether its secret is a new one.

        An endpoint that was disabled is enabled. Cancellation leaves the change on its way.

        Raises:
            RecordsUnavailable: it may be registered; ask again.
            Overloaded: there are too many endpoints, or other requests changed it all the time.
        """
        made = False

        def change(former: Endpoint | None) -> Endpoint:
            nonlocal made
            now_ms = self._clock_ms()
            if former is None or not former.is_registered:
                if self._registered >= self._most:
                    raise Overloaded(RefusalCode.OVERLOADED, f"there are {self._most} endpoints, and no room for more")
                made = True
                return Endpoint(
                    user_id=user_id,
                    version=(former or Endpoint(user_id=user_id, version=0)).version_by_user,
                    url=url,
                    secret=new_secret(),
                    created_at=now_ms,
                    changed_at=now_ms,
                )
            made = has_new_secret
            changed = msgspec.structs.replace(
                former, version=former.version_by_user, url=url, disabled_because="", changed_at=now_ms
            )
            if made:
                changed = msgspec.structs.replace(
                    changed,
                    secret=new_secret(),
                    former_secret=former.secret,
                    former_until=now_ms + FORMER_SECRET_MS,
                )
            return changed

        endpoint = await self._change(user_id, change)
        if endpoint is None:
            raise RuntimeError("a registration always makes an endpoint")
        return endpoint, made

    async def remove(self, user_id: int) -> bool:
        """Tell a user nothing any more; return whether he had an endpoint. Errors as :meth:`register`."""

        def change(former: Endpoint | None) -> Endpoint | None:
            if former is None or not former.is_registered:
                return None
            return Endpoint(user_id=user_id, version=former.version_by_user, changed_at=self._clock_ms())

        return await self._change(user_id, change) is not None

    async def enable(self, user_id: int) -> Endpoint | None:
        """Tell a user again whose endpoint was disabled; None where he has none. Errors as :meth:`register`."""

        def change(former: Endpoint | None) -> Endpoint | None:
            if former is None or not former.is_registered:
                return None
            return msgspec.structs.replace(
                former, version=former.version_by_user, disabled_because="", changed_at=self._clock_ms()
            )

        return await self._change(user_id, change)

    async def disable(self, endpoint: Endpoint, because: str) -> None:
        """Tell an endpoint nothing any more, unless its user has changed it meanwhile.

        Cancellation leaves it enabled or disabled.

        Raises:
            RecordsUnavailable: it may be disabled; ask again.
        """
        disabled = msgspec.structs.replace(
            endpoint, version=endpoint.version_by_engine, disabled_because=because, changed_at=self._clock_ms()
        )
        await self._store.put_endpoint(disabled)
        stored = await self._store.get_endpoint(endpoint.user_id)
        self._learn(disabled if stored is None else stored)

    async def _change(self, user_id: int, change: Callable[[Endpoint | None], Endpoint | None]) -> Endpoint | None:
        """Write what a user wants, and read it back: another engine may have been faster under the same version."""
        for _ in range(_ATTEMPTS):
            try:
                former = await self._store.get_endpoint(user_id)
            except RecordsDamaged:  # whose version nobody knows: it is a small number, and this one is above it
                former = Endpoint(user_id=user_id, version=self._clock_ms() << GENERATION_BITS)
            changed = change(former)
            if changed is None:
                return None
            await self._store.put_endpoint(changed)
            stored = await self._store.get_endpoint(user_id)
            if stored is not None:
                self._learn(stored)
            if stored == changed:
                return changed
        raise Overloaded(RefusalCode.OVERLOADED, "the endpoint was changed at the same time: try again")

    def _learn_all(self, page: EndpointPage) -> None:
        for endpoint in page.endpoints:
            self._learn(endpoint)
        for message in page.damaged:
            if message not in self._damaged:
                self._damaged.add(message)
                self._alerts.critical("endpoint_damaged", error=message)

    def _learn(self, endpoint: Endpoint) -> None:
        user_id = endpoint.user_id
        known = self._known.get(user_id)
        if known is not None and endpoint.version <= known.version:
            return
        self._known[user_id] = endpoint
        self._registered += endpoint.is_registered - (known is not None and known.is_registered)
        if endpoint.is_enabled:
            self.enabled[user_id] = endpoint
        else:
            self.enabled.pop(user_id, None)
        self.on_change(user_id)
