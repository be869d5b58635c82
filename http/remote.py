"""A running engine, as the command line sees it: requests by httpx, errors as one line and an exit code."""

import time
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import click
import httpx
import msgspec

from transfer_engine.schema.money import Asset, InvalidAmount, parse_amount
from transfer_engine.schema.wire import (
    AssetsResponse,
    BalanceEntry,
    BalancesResponse,
    ProblemDetails,
    RecordResponse,
    ResolveResponse,
    TransferResponse,
)

Answer = TypeVar("Answer", bound=msgspec.Struct)

_TIMEOUT_S: Final = 30.0
"""Far beyond the engine's own deadline: it answers ``pending`` long before."""

_PATIENCE_S: Final = 15.0
"""How long an operator's decision waits until the engine lets go of the transfer: longer than a core's time-out."""

_PAUSE_S: Final = 0.05


class Unreachable(click.ClickException):
    """The engine did not answer."""

    exit_code = 3


class RefusedRemotely(click.ClickException):
    """The engine refused; ``is_retryable`` says that the same request may succeed later."""

    def __init__(self, problem: ProblemDetails) -> None:
        super().__init__(f"{problem.detail} ({problem.code})")
        self.is_retryable = problem.retryable


class KnownAsset(Asset, frozen=True):
    """An asset that parses the amounts of its own command line."""

    def minor_units(self, amount: str) -> int:
        """Return an amount in minor units; a wrong one is a usage error."""
        try:
            return parse_amount(amount, self.decimals)
        except InvalidAmount as error:
            decimals = f" ({self.symbol} has {self.decimals})" if "decimals" in str(error) else ""
            raise click.UsageError(f"--{error}{decimals}.") from None


class Remote:
    """One engine; a context manager. Every method raises ClickException with what to print."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # Proxies in the environment are for the world, not for an engine on this machine.
        self._client = httpx.Client(timeout=_TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def assets(self) -> list[KnownAsset]:
        """Return the engine's assets."""
        entries = self._ask("GET", "/api/v1/assets", AssetsResponse).assets
        return [
            KnownAsset(asset_id=entry.asset_id, symbol=entry.symbol, decimals=entry.decimals, enabled=entry.enabled)
            for entry in entries
        ]

    def asset(self, name: str) -> KnownAsset:
        """Return an asset by its symbol or number."""
        assets = self.assets()
        for asset in assets:
            if name.upper() == asset.symbol or name == str(asset.asset_id):
                return asset
        symbols = ", ".join(asset.symbol for asset in assets)
        raise click.UsageError(f"--asset {name!r} is unknown: use one of {symbols}.")

    def submit(self, path: str, body: dict[str, Any], *, key: str) -> TransferResponse:
        """Ask for a transfer or credit under a key; where no answer comes, say how to find out."""
        try:
            return self._ask("POST", path, TransferResponse, body=body, headers={"Idempotency-Key": key})
        except Unreachable as error:
            advice = f"It is not known what became of it: repeat it with --key {key}"
            raise Unreachable(f"{error.message} {advice}") from None

    def record(self, req_id: str) -> RecordResponse:
        """Return what is known of a transfer."""
        return self._ask("GET", f"/api/v1/transfer/{quote(req_id, safe='')}", RecordResponse)

    def balances(self, user_id: int) -> list[BalanceEntry]:
        """Return a user's accounts."""
        return self._ask("GET", f"/api/v1/balances/{user_id}", BalancesResponse).balances

    def resolve(self, req_id: str, action: str) -> ResolveResponse:
        """Carry an operator's decision out; while the engine itself is at the transfer, try again for a while."""
        path = f"/api/v1/admin/transfers/{quote(req_id, safe='')}/resolve"
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._ask("POST", path, ResolveResponse, body={"action": action})
            except RefusedRemotely as refused:
                if not refused.is_retryable or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        *,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        try:
            response = self._client.request(method, self._url + path, json=body, headers=headers)
        except httpx.InvalidURL as error:
            raise click.UsageError(f"--url {self._url!r} is no URL: {error}.") from None
        except httpx.UnsupportedProtocol:
            raise click.UsageError(f"--url {self._url!r} must begin with http:// or https://.") from None
        except (UnicodeEncodeError, httpx.LocalProtocolError):
            raise click.UsageError("--key has characters in it that can't be sent: use printable ASCII.") from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"no answer from {self._url} ({reason}): is the engine running?") from None
        try:
            if response.is_success:
                return msgspec.json.decode(response.content, type=kind)
            problem = msgspec.json.decode(response.content, type=ProblemDetails)
        except msgspec.DecodeError:
            raise Unreachable(
                f"{self._url} answered {response.status_code}, but not like a transfer engine: check --url"
            ) from None
        raise RefusedRemotely(problem)
