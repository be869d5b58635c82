"""The services that transfers may name: wallets in our ledger, cores outside of it, and the external account."""

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from transfer_engine.engine.legs import account_id
from transfer_engine.engine.services.protocol import Core

EXTERNAL: Final = "external"
"""The name of the assets' external accounts: where credits come from. No door lets a client name it."""


class ServiceKind(enum.Enum):
    """Where a service's money lies."""

    WALLET = "wallet"
    CORE = "core"
    EXTERNAL = "external"


class Service:
    """A service as the coordinator sees it: its accounts in the ledger and, for a core, whom to call."""

    __slots__ = ("code", "core", "kind", "name")

    def __init__(self, name: str, code: int, kind: ServiceKind, core: Core | None = None) -> None:
        if (kind is ServiceKind.CORE) is not (core is not None):
            raise ValueError(f"service {name!r}: a core, and only a core, comes with an object to call")
        self.name = name
        self.code = code
        self.kind = kind
        self.core = core

    def __repr__(self) -> str:
        return f"<Service {self.name} {self.kind.value} code={self.code}>"

    @property
    def core_to_call(self) -> Core:
        """The core's object, where the service is one."""
        if self.core is None:
            raise TypeError(f"{self!r} is no core: there is nobody to call")
        return self.core

    def account_id(self, user_id: int, asset_id: int) -> int:
        """Return the ledger account that holds this user's money here: a wallet's own, or the omnibus one."""
        return account_id(user_id if self.kind is ServiceKind.WALLET else 0, asset_id, self.code)


class ServiceRegistry:
    """Services by name, alias and account code; fixed once the engine runs."""

    def __init__(self, services: Iterable[Service], aliases: Mapping[str, str]) -> None:
        self._by_name = {service.name: service for service in services}
        self._by_code = {service.code: service for service in self._by_name.values()}
        self._aliases = dict(aliases)

    def __iter__(self) -> Iterator[Service]:
        return iter(self._by_name.values())

    def find(self, name: str) -> Service | None:
        """Return a service by its name or alias."""
        return self._by_name.get(name) or self._by_name.get(self._aliases.get(name, ""))

    def by_code(self, code: int) -> Service | None:
        """Return a service by its account code."""
        return self._by_code.get(code)

    def __getitem__(self, name: str) -> Service:
        return self._by_name[name]

    @property
    def wallets(self) -> list[Service]:
        """The services whose accounts are users' own."""
        return [service for service in self._by_name.values() if service.kind is ServiceKind.WALLET]

    @property
    def cores(self) -> dict[str, Core]:
        """The cores by name."""
        return {service.name: service.core for service in self._by_name.values() if service.core is not None}

    @property
    def public_names(self) -> list[str]:
        """The names that a client may use."""
        return [service.name for service in self._by_name.values() if service.kind is not ServiceKind.EXTERNAL]
