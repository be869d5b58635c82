"""What a run measured, as ``--json`` writes it and ``compare`` reads it. Data alone."""

from typing import Final

import msgspec

from transfer_engine.benchmarks.plan import Door, Fault, Kind, Plan

FORMAT: Final = 1
"""Raised when a reader of former results would go wrong."""


class Machine(msgspec.Struct, frozen=True):
    """Where and with what a run was made."""

    at: str
    """ISO 8601, UTC."""
    cores: int
    cpu: str
    memory_mib: int
    load_before: tuple[float, float, float]
    system: str
    python: str
    """Version, and whether it was built with profile-guided optimization, where that is known."""
    commit: str | None
    """Of the sources, where they are a git checkout; with ``-dirty`` where it has changes."""
    versions: dict[str, str]
    """Of this package, its main libraries, and the servers."""


class Percentiles(msgspec.Struct, frozen=True):
    """Latencies in ms, of an HdrHistogram with three significant digits."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    mean_ms: float
    count: int


class Second(msgspec.Struct, frozen=True):
    """One second of a run."""

    at_s: float
    """From the measured begin."""
    answered: int
    committed: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Flushes(msgspec.Struct, frozen=True):
    """One group commit over the run."""

    name: str
    flushes: int
    entries: float
    """In a flush, on average."""
    transfers: float
    """Transfers a flush."""


class Cpu(msgspec.Struct, frozen=True):
    """µs of CPU for each transfer, by who used it."""

    total_us: float
    """Of the engine's process (in process: the load included)."""
    threads_us: dict[str, float]
    """Of that process, by thread; empty where it is another process whose threads can't be told apart."""
    servers_us: float
    """Of ledger and record servers."""
    load_us: float
    """Of the load generator, where that is a process of its own."""
    machine_us: float
    """Of everything on this machine."""
    stages_us: dict[str, float] = {}
    """Where the engine's own CPU goes, by stage; a sampling profile, where one was taken."""


class Books(msgspec.Struct, frozen=True):
    """Whether the books hold after the run, and how that was looked at."""

    how: str
    findings: tuple[str, ...] = ()

    @property
    def hold(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


class Floor(msgspec.Struct, frozen=True):
    """What the same machine does with less: no engine, no door, no transfer."""

    name: str
    rate: float
    """Things a second."""
    unit: str
    """What the things are: events, rows, transfers, requests, messages."""
    cpu_us: float
    """CPU of each, in µs, of the process that is the floor."""
    things_a_transfer: float = 1.0
    """How many of them one transfer needs."""
    kind: Kind | None = None
    """Of which kind of target this is the floor alone, as a door's; None: of all."""
    door: Door | None = None
    """Of which door alone; None: of both."""


class Marked(msgspec.Struct, frozen=True):
    """A fault that was made, and when its target was back (answered again), if it was."""

    fault: Fault
    back_s: float | None
    """Seconds from the fault to the first committed transfer after it."""


class Result(msgspec.Struct, frozen=True):
    """One run, measured."""

    plan: Plan
    name: str
    offered: float
    """Transfers a second that were asked for (a closed loop: that were sent)."""
    achieved: float
    """Transfers a second that were answered as committed or replayed."""
    seconds: float
    outcomes: dict[str, int]
    """Transfers by outcome, see ``sending``."""
    latencies: Percentiles
    histogram: str
    """All latencies in µs: HdrHistogram's own V2 encoding, base64."""
    late: int
    """Open loop: sent more than 1 ms behind their moment."""
    dropped: int
    """Open loop: due, and never sent, because too many were under way."""
    series: tuple[Second, ...]
    flushes: tuple[Flushes, ...]
    writes_a_transfer: float | None
    """Statements, rows and blobs that the record store was given for each transfer, where it counts them."""
    cpu: Cpu
    rss_mib: float
    """Of the engine's process at the end."""
    loop_lag_ms: Percentiles | None
    """How late a timer of 10 ms was in the engine's process, where that is this process."""
    books: Books
    faults: tuple[Marked, ...] = ()
    refusals: Percentiles | None = None
    """How long refusals took, which are not among the latencies; None where nothing was refused."""


class Sweep(msgspec.Struct, frozen=True):
    """Runs that differ in one thing."""

    over: str
    """What differs: ``rate``, ``users``, ``batch``, ``in-flight``, ``hot-share``, ``overload``."""
    values: tuple[float, ...]
    results: tuple[Result, ...]
    knee: float | None = None
    """Of a sweep over rates: the highest one that was achieved (within 5 %) with a P99 of at most ten times the lowest
    rate's."""


class Recovery(msgspec.Struct, frozen=True):
    """A server that was started on books which a killed engine had left with unfinished transfers.

    All times count from the start of its process, in seconds.
    """

    name: str
    """Ledger + records."""
    unfinished: int
    """Transfers whose intents were durable, and whose ends were not: counted in the books before the start."""
    moved: int
    """Of them, those that the ledger had carried out: only their rows were missing."""
    answering_s: float
    """Until anything at all was answered, though it be that the engine is starting."""
    ready_s: float
    """Until `/ready` said so."""
    first_transfer_s: float
    """Until a transfer of somebody else, asked for again and again from the first moment on, was committed."""
    settled_s: float
    """Until nothing was unfinished."""
    asked: dict[str, int]
    """What those other transfers were answered, see ``sending``."""
    cpu_us: float
    """The server's CPU for each unfinished transfer, its own start included (µs)."""
    servers_us: float
    """CPU of ledger and record servers for each."""
    rss_mib: float
    """The most that the server had resident."""
    lag_ms: Percentiles
    """How long `/health` took, asked every 20 ms from the first answer until all was settled: the loop's lag, as
    clients meet it."""
    open_over_time: tuple[tuple[float, int], ...]
    """When how many transfers were unfinished."""
    books: Books

    @property
    def rate(self) -> float:
        """Unfinished transfers settled in a second, from the start of the process on."""
        return self.unfinished / self.settled_s


class GrowthStep(msgspec.Struct, frozen=True):
    """The same short load on books of one size, and on small ones in the same minute: noise meets both alike."""

    transfers: int
    """In the books when the step began."""
    users: int
    """Whose money the load moved, at random."""
    cpu_us: float
    """CPU for each transfer, of the engine's process (the load included) and of the servers (µs)."""
    small_us: float
    """The same on the small books."""
    rate: float
    """Transfers a second; what the machine does beside counts as well."""
    small_rate: float
    rss_mib: float
    """Of the engine's process, both books' caches included."""
    files_mib: float
    """Of the data directory, where the books are in files."""

    @property
    def ratio(self) -> float:
        """The cost on these books ÷ that on the small ones: flat is 1."""
        return self.cpu_us / self.small_us


class Growth(msgspec.Struct, frozen=True):
    """What a transfer costs while the books grow."""

    name: str
    """Ledger + records."""
    steps: tuple[GrowthStep, ...]
    books: Books


class IdleWebsockets(msgspec.Struct, frozen=True):
    """What websockets that do nothing cost the server."""

    name: str
    connections: int
    is_subscribed: bool
    """Whether each is told of a user's transfers and balances."""
    before_mib: float
    """Resident before them, after some had come and gone."""
    after_mib: float
    cpu_share: float
    """Of one core, while all of them were idle."""
    books: Books

    @property
    def each_kib(self) -> float:
        """Resident memory of each."""
        return (self.after_mib - self.before_mib) * 1024 / self.connections


class Report(msgspec.Struct, frozen=True):
    """All that one command measured."""

    command: str
    """As it was typed, without tokens."""
    machine: Machine
    results: tuple[Result, ...] = ()
    floors: tuple[Floor, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    baselines: tuple[Result, ...] = ()
    """Others under the same load: their plan's name says which."""
    recoveries: tuple[Recovery, ...] = ()
    growths: tuple[Growth, ...] = ()
    idle_websockets: tuple[IdleWebsockets, ...] = ()
    notes: tuple[str, ...] = ()
    format: int = FORMAT
