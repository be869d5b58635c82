"""What a run is to do: which target, which load, for how long. Data alone; results are read with their plans."""

from typing import Final, Literal

import msgspec

Kind = Literal["engine", "http", "websocket"]
Door = Literal["main", "express"]
Pick = Literal["uniform", "zipf", "hot"]
Arrivals = Literal["poisson", "even"]
Generator = Literal["python", "wrk"]
LedgerName = Literal["embedded", "tigerbeetle"]
RecordsName = Literal["sqlite", "cassandra"]

ASSET_ID: Final = 1
AMOUNT: Final = 1_000_000
"""0.01 USDT, in minor units: the least that the default settings let through."""
FUNDS: Final = 10**14
"""What each user has in each account at first: more than any run moves."""
REFUSED_AMOUNT: Final = 10**15
"""More than a user ever has, and the most that the default settings let through: the ledger refuses it."""
SLOW_CORE: Final = "slow_core"
"""The simulated core that a share of the traffic touches; a target has it where ``Traffic.slow`` is above 0."""
SLOW_CORE_CODE: Final = 900


class Backends(msgspec.Struct, frozen=True, omit_defaults=False):
    """Where the money and the rows are."""

    ledger: LedgerName = "embedded"
    records: RecordsName = "sqlite"

    @property
    def name(self) -> str:
        """Both, as the tables say them."""
        return f"{self.ledger} + {self.records}"


class Target(msgspec.Struct, frozen=True):
    """What is asked, and how.

    ``batch`` is the number of transfers in one request or frame (1: no batch); ``connections`` is of no account to the
    engine in process. With ``url`` the server is one that runs already; it is neither started, nor funded beyond what
    its API allows, nor stopped.
    """

    kind: Kind = "engine"
    door: Door = "express"
    batch: int = 1
    connections: int = 32
    url: str | None = None
    has_token: bool = False
    """Whether requests prove themselves by a token. The token itself is never part of a plan."""
    has_limits: bool = False
    """Whether rate limits and daily sums are counted, without ever being reached."""
    has_access_log: bool = False
    generator: Generator = "python"
    """Who sends: the suite's own callers, or wrk (closed loops of plain single transfers over HTTP)."""
    backends: Backends = Backends()


class Traffic(msgspec.Struct, frozen=True):
    """Whose money moves, and what share of the requests is out of the ordinary. Shares are between 0 and 1."""

    users: int = 1_000
    pick: Pick = "uniform"
    zipf_exponent: float = 1.1
    hot_share: float = 0.0
    """The share of transfers that are one user's, whatever the others' pick is; ``hot`` as the pick is a share of 1."""
    both_directions: bool = True
    """Every other transfer of a user goes back."""
    is_keyed: bool = True
    """Whether each transfer is named by a key of the client's own."""
    replays: float = 0.0
    """Share of the requests that repeat an earlier one, key and body."""
    refusals: float = 0.0
    """Share of the requests that ask for more than the account holds."""
    slow: float = 0.0
    """Share of the transfers that touch a slow service (a simulated core that takes ``slow_ms``)."""
    slow_ms: int = 100
    seed: int = 1


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """So many transfers under way; each caller sends its next one when it is answered."""

    in_flight: int = 2_000


class Open(msgspec.Struct, frozen=True, tag="open"):
    """So many transfers a second, whatever the answers do; latencies count from the intended moment."""

    rate: float
    arrivals: Arrivals = "poisson"
    in_flight_most: int = 10_000
    """What comes due beyond this is dropped, and counted as dropped."""


class Length(msgspec.Struct, frozen=True):
    """How long: ``seconds``, or until ``transfers`` were sent if that is given.

    The warm-up comes first and counts for nothing.
    """

    seconds: float = 5.0
    transfers: int | None = None
    warm_up_s: float = 1.0


class Fault(msgspec.Struct, frozen=True):
    """What is done to the target amid the load, ``at_s`` after its (measured) begin."""

    at_s: float
    what: Literal["kill-server", "pause-server", "kill-ledger", "pause-ledger", "kill-records", "pause-records"]
    for_s: float = 1.0
    """How long it is away: paused, or dead until it is started again."""


class Plan(msgspec.Struct, frozen=True):
    """One run."""

    target: Target = Target()
    traffic: Traffic = Traffic()
    loop: Closed | Open = Closed()
    length: Length = Length()
    faults: tuple[Fault, ...] = ()
    name: str = ""
    """What tables call it; made from the rest where it is empty (see ``plan_name``)."""


def plan_name(plan: Plan) -> str:
    """Return what tables call a run."""
    if plan.name:
        return plan.name
    target = plan.target
    parts: list[str] = ["engine"] if target.kind == "engine" else [target.kind, target.door]
    if target.batch > 1:
        parts.append(f"batches of {target.batch}")
    if target.kind != "engine":
        parts.append(f"{target.connections} connections")
    parts.append(target.backends.name if target.url is None else target.url)
    traffic = plan.traffic
    parts.append("one hot user" if traffic.pick == "hot" else f"{traffic.users:,} users")
    if isinstance(plan.loop, Open):
        parts.append(f"{plan.loop.rate:,.0f}/s")
    if target.generator == "wrk":
        parts.append("by wrk")
    return ", ".join(parts)
