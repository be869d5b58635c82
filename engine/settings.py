"""Every limit and interval of the engine in one place, with its unit and its reason."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from transfer_engine.engine.ledger.tigerbeetle_addresses import parse_addresses
from transfer_engine.engine.stream_settings import StreamSettings
from transfer_engine.schema.ids import NODE_MAX
from transfer_engine.schema.money import AMOUNT_MAX, DECIMALS_MAX, Asset

EXTERNAL_CODE = 1
"""The account code of an asset's external account: where credits come from."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class AssetSettings(_Frozen):
    """An asset that may be transferred."""

    asset_id: Annotated[int, Field(ge=1, le=0x7FFF_FFFF)]
    """Also its ledger number in TigerBeetle; an ``int`` in the record store."""
    symbol: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Z0-9]+$")]
    decimals: Annotated[int, Field(ge=0, le=DECIMALS_MAX)]
    enabled: bool = True
    amount_least: Annotated[int, Field(ge=1, le=AMOUNT_MAX)] = 1
    """The least that one transfer may move, in minor units; credits may be less, and more than ``amount_most``."""
    amount_most: Annotated[int, Field(ge=1, le=AMOUNT_MAX)] = AMOUNT_MAX
    """The most that one transfer may move, in minor units."""
    daily_most: Annotated[int, Field(ge=1, le=1 << 100)] | None = None
    """The most that all transfers from one user's accounts may move in a UTC day together, in minor units."""

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        self.asset()
        return self

    def asset(self) -> Asset:
        """Return the asset as the schema knows it."""
        return Asset(
            asset_id=self.asset_id,
            symbol=self.symbol,
            decimals=self.decimals,
            enabled=self.enabled,
            amount_least=self.amount_least,
            amount_most=self.amount_most,
            daily_most=self.daily_most,
        )


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


class TigerBeetleSettings(_Frozen):
    """How to reach a TigerBeetle cluster."""

    cluster_id: Annotated[int, Field(ge=0, le=(1 << 128) - 1)] = 0
    """As the replicas were formatted. A wrong one is never answered."""
    addresses: Annotated[tuple[str, ...], Field(min_length=1, max_length=6)] = ("127.0.0.1:3000",)
    """Every replica, in the order of the replicas' own `--addresses`: ``host:port``."""
    concurrency: Annotated[int, Field(ge=1, le=1_024)] = 32
    """Requests that may wait within the client; more wait before it."""
    flushes_most: Annotated[int, Field(ge=1, le=32)] = 2
    """Submissions of transfers under way at a time: while one is applied the next is on its way."""
    timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 5_000
    """After this an unanswered request counts as unknown and is asked again."""

    @field_validator("addresses")
    @classmethod
    def _addresses_are_some(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        parse_addresses(addresses)
        return addresses


class TlsSettings(_Frozen):
    """How connections to the record store are encrypted."""

    ca_file: Path
    """PEM: who signs the servers' certificates."""
    certificate_file: Path | None = None
    """PEM: our own certificate, where servers ask for one; with ``key_file``."""
    key_file: Path | None = None
    check_hostname: bool = True
    """Whether a server's certificate must name the contact point that it was reached by."""


class CassandraSettings(_Frozen):
    """How to reach a Cassandra or ScyllaDB cluster."""

    contact_points: Annotated[tuple[str, ...], Field(min_length=1)] = ("127.0.0.1:9042",)
    """``host`` or ``host:port`` of some nodes; the others are found through them."""
    keyspace: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")] = "trading"
    local_data_centre: str | None = None
    """Whose nodes are asked; None takes that of the first contact point that answers."""
    replication_factor: Annotated[int, Field(ge=1, le=16)] = 3
    """In each data centre, when ``transfer-engine schema apply`` makes the keyspace."""
    consistency: Literal["LOCAL_QUORUM", "QUORUM", "EACH_QUORUM", "ALL"] = "LOCAL_QUORUM"
    """Of every write and read of transfers, intents and history."""
    username: str | None = None
    password_file: Path | None = None
    """A file with the password alone; needed with ``username``."""
    tls: TlsSettings | None = None
    """None: unencrypted."""
    concurrency: Annotated[int, Field(ge=1, le=2_048)] = 32
    """Statements in flight at a time; more wait."""
    flushes_most: Annotated[int, Field(ge=1, le=64)] = 4
    """Group commits of rows that are under way at a time; of intents it is one."""
    connect_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 5_000
    timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 2_000
    """After this an unanswered statement counts as unknown and is sent again: above the servers' own time-outs."""


DEFAULT_ASSETS = (
    AssetSettings(asset_id=1, symbol="USDT", decimals=8, amount_least=1_000_000, amount_most=10**15),
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
    ledger: Literal["embedded", "tigerbeetle"] = "embedded"
    """Where the money is: a file in ``data_dir``, or a cluster."""
    tigerbeetle: TigerBeetleSettings = TigerBeetleSettings()
    records: Literal["sqlite", "cassandra"] = "sqlite"
    """Where transfers are written down: a file in ``data_dir``, or a cluster."""
    cassandra: CassandraSettings = CassandraSettings()
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
    waiting_least: Annotated[int, Field(ge=1, le=10_000_000)] = 2_048
    """Transfers that may wait to be carried out whatever they would wait for; further ones are refused as overload if
    they would wait for more than a third of ``deadline_ms``. About what one group commit takes: with less in hand the
    backends would have pauses."""
    user_batch_most: Annotated[int, Field(ge=1, le=2_000)] = 512
    """Transfers of one user in one submission: a hot user's throughput against the others' latency."""
    idle_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 30_000
    """A user's actor that had nothing to do for this long is gone."""
    known_accounts_most: Annotated[int, Field(ge=1, le=10_000_000)] = 524_288
    """Accounts remembered as acknowledged, about 100 bytes of memory each; one that was forgotten is acknowledged
    again."""
    limited_users_most: Annotated[int, Field(ge=1, le=10_000_000)] = 65_536
    """Users whose sums of the day are remembered, for assets that have a ``daily_most``, about 1 KiB of memory each; a
    sum that was forgotten is read from the user's history again."""
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

    heartbeat_ms: Annotated[int, Field(ge=10, le=60_000)] = 2_500
    """How often this engine proves that it lives, and promises identifiers further ahead."""
    lease_ms: Annotated[int, Field(ge=100, le=600_000)] = 10_000
    """Without a successful heartbeat for so long, by its own monotonic clock, the engine asks nothing of anyone; after
    somewhat longer, by their clocks, others take its unfinished transfers over."""
    adoption_recheck_ms: Annotated[int, Field(ge=100, le=86_400_000)] = 60_000
    """An adopted shard is read once more after this: what an engine sent before it stopped may arrive late."""

    streams: StreamSettings = StreamSettings()
    """What is told to those who subscribe to a user."""

    reconcile: bool = True
    """Whether this engine compares books and records all the time; of many on one cluster one or two are enough."""
    reconcile_interval_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 500
    """Pause between two turns of that comparison."""
    reconcile_page: Annotated[int, Field(ge=4, le=8_000)] = 500
    """Ledger transfers and rows that one turn reads at most, half of them of the present: each costs 10 to 18 µs of
    CPU, so a turn holds the loop up for some 3 ms at a time, and a second costs 0.7 % of a core, 1.4 % under load."""
    reconcile_margin_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 30_000
    """What the ledger did later than so long ago is not compared yet: its row may still be on its way, also from an
    engine that takes another one's transfers over."""

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
    def _lease_outlives_heartbeats(self) -> Self:
        if self.lease_ms < 3 * self.heartbeat_ms:
            raise ValueError(f"lease_ms is {self.lease_ms}: it must be at least 3 times heartbeat_ms")
        return self

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
