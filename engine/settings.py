"""Every limit and interval of the engine in one place, with its unit and its reason."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from transfer_engine.schema.ids import NODE_MAX
from transfer_engine.schema.money import DECIMALS_MAX, Asset

EXTERNAL_CODE = 1
"""The account code of an asset's external account: where credits come from."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class AssetSettings(_Frozen):
    """An asset that may be transferred."""

    asset_id: Annotated[int, Field(ge=1, le=0xFFFF_FFFE)]
    """Also its ledger number in TigerBeetle."""
    symbol: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Z0-9]+$")]
    decimals: Annotated[int, Field(ge=0, le=DECIMALS_MAX)]
    enabled: bool = True

    def asset(self) -> Asset:
        """Return the asset as the schema knows it."""
        return Asset(asset_id=self.asset_id, symbol=self.symbol, decimals=self.decimals, enabled=self.enabled)


class ServiceSettings(_Frozen):
    """A service of the registry. ``code`` is its account code in the ledger: never reuse one."""

    name: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")]
    code: Annotated[int, Field(gt=EXTERNAL_CODE, le=0xFFFF)]
    kind: Literal["wallet", "simulated_core", "core"] = "wallet"
    """``core``: the embedder hands the object over, by name; ``simulated_core``: for demonstrations and tests."""
    freezes: bool = True
    """For simulated cores: whether a withdraw freezes until its commit."""
    aliases: tuple[str, ...] = ()
    """Other names for the same service, accepted at the doors."""


DEFAULT_ASSETS = (
    AssetSettings(asset_id=1, symbol="USDT", decimals=8),
    AssetSettings(asset_id=2, symbol="BTC", decimals=8),
    AssetSettings(asset_id=3, symbol="ETH", decimals=8),
)
DEFAULT_SERVICES = (
    ServiceSettings(name="funding", code=2),
    ServiceSettings(name="trading", code=3, aliases=("spot",)),
)


class Settings(_Frozen):
    """What an engine needs to run; every field has a default that works on a fresh machine."""

    data_dir: Path = Path("transfer-engine-data")
    """Where the embedded ledger and records live; made if it does not exist, locked while the engine runs."""
    node: Annotated[int, Field(ge=0, le=NODE_MAX)] = 0
    """This engine's number among its peers: part of every identifier that it issues."""
    assets: tuple[AssetSettings, ...] = DEFAULT_ASSETS
    services: tuple[ServiceSettings, ...] = DEFAULT_SERVICES

    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] = 2_000
    """After this a caller is answered ``pending``; the work goes on."""
    service_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 1_000
    """How long one call of a core may hold up the user's queue before it counts as pending."""
    shutdown_ms: Annotated[int, Field(ge=0, le=600_000)] = 10_000
    """How long a graceful stop waits for what is under way; the rest is recovered at the next start."""

    mailbox_capacity: Annotated[int, Field(ge=1, le=1_000_000)] = 1_024
    """Transfers that may wait for one user; more are refused as overload."""
    open_transfers_most: Annotated[int, Field(ge=1, le=10_000_000)] = 65_536
    """Transfers under way in the engine; about 2 KiB of memory each; more are refused as overload."""
    user_batch_most: Annotated[int, Field(ge=1, le=2_000)] = 512
    """Transfers of one user in one submission: a hot user's throughput against the others' latency."""
    idle_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 30_000
    """A user's actor that had nothing to do for this long is gone."""
    known_accounts_most: Annotated[int, Field(ge=1, le=10_000_000)] = 65_536
    """Accounts remembered as acknowledged; one that was forgotten is acknowledged again."""
    poison_crashes_most: Annotated[int, Field(ge=1, le=100)] = 3
    """A message that crashes its handler so often is set aside."""

    scan_interval_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 5_000
    """How often the scanner looks for unfinished transfers."""
    stale_after_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 30_000
    """An unfinished transfer is replayed when nothing happened to it for this long."""
    replay_gap_ms: Annotated[int, Field(ge=0, le=60_000)] = 10
    """Pause between two replays that call a core, so that a core that comes back is not trampled."""
    alert_retries: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """A transfer that was replayed so often raises an alert, and again after as many more."""
    pending_warning_ms: Annotated[int, Field(ge=1)] = 1_800_000
    """A transfer pending for longer raises a warning."""
    pending_critical_ms: Annotated[int, Field(ge=1)] = 7_200_000
    """A transfer pending for longer is critical."""
    ceiling_ahead_ms: Annotated[int, Field(ge=1_000, le=600_000)] = 10_000
    """How far ahead of the clock identifiers are promised; a crash skips at most as much."""

    crash_at: Annotated[str | None, Field(pattern=r"^[a-z_]+(@[1-9][0-9]*)?$")] = None
    """For tests of recovery: the process kills itself (SIGKILL) at this named point, at its n-th passing."""

    @field_validator("assets")
    @classmethod
    def _assets_differ(cls, assets: tuple[AssetSettings, ...]) -> tuple[AssetSettings, ...]:
        for values in ([asset.asset_id for asset in assets], [asset.symbol for asset in assets]):
            if len(set(values)) != len(values):
                raise ValueError("asset_id and symbol must differ between assets")
        return assets

    @model_validator(mode="after")
    def _services_differ(self) -> Self:
        names = [name for service in self.services for name in (service.name, *service.aliases)]
        codes = [service.code for service in self.services]
        if len(set(names)) != len(names) or len(set(codes)) != len(codes):
            raise ValueError("services: names, aliases and codes must differ")
        if "external" in names:
            raise ValueError("services: 'external' is the name of the assets' external accounts")
        if not names:
            raise ValueError("services: name at least one")
        return self
