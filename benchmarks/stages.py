"""Stages of a transfer: which module's CPU belongs to which stage. A table and the reading of stacks by it; no process.

A sample belongs to the innermost frame that the table knows. What the standard library or a C library does is its
caller's; trio's own work is trio's, wherever it was called from.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

LOAD: Final = "load"
DOOR: Final = "door: parsing, answers"
ADMISSION: Final = "admission"
ACTOR: Final = "actor"
COORDINATOR: Final = "coordinator"
GROUP_COMMIT: Final = "group commit"
JOURNAL: Final = "journal encoding"
CLIENT: Final = "submitter, ledger client"
LEDGER: Final = "embedded ledger"
RECORDS: Final = "records"
THREADS: Final = "hand-over to threads"
STREAMS: Final = "streams, outbox"
BACKGROUND: Final = "background"
TRIO: Final = "trio"
COLLECTOR: Final = "garbage collector"
NATIVE: Final = "native threads"
"""Threads that run no Python: those of the TigerBeetle client, and of event loops in C."""
OTHER: Final = "other"

MODULES: Final[Mapping[str, Sequence[str]]] = {
    LOAD: ("benchmarks/*",),
    DOOR: ("http/*", "schema/wire", "schema/batch_wire", "schema/user_wire", "schema/webhook_wire", "schema/money"),
    ADMISSION: (
        "engine/admission", "engine/callers", "engine/congestion", "engine/contests", "engine/daily_sums",
        "engine/deadlines", "engine/engine", "engine/limits", "engine/lines", "engine/outcomes", "schema/ids",
    ),
    ACTOR: (
        "actors/actor", "actors/mailbox", "actors/pool", "actors/pool_statistics", "actors/spare_tasks", "actors/turns",
    ),
    COORDINATOR: (
        "engine/completion", "engine/coordinator", "engine/core_calls", "engine/drives", "engine/endings",
        "engine/legs", "engine/open_transfers", "engine/services/*", "engine/state_machine", "engine/trips",
        "engine/verdicts",
    ),
    GROUP_COMMIT: ("actors/batches", "actors/flush_faults", "actors/group_commit"),
    JOURNAL: ("engine/journal", "engine/waves", "schema/transfers"),
    CLIENT: (
        "engine/known_accounts", "engine/submitter", "engine/ledger/packing", "engine/ledger/protocol",
        "engine/ledger/tigerbeetle_*", "engine/ledger/wire",
    ),
    LEDGER: (
        "engine/ledger/__init__", "engine/ledger/account_rules", "engine/ledger/balance_rows",
        "engine/ledger/batch", "engine/ledger/book", "engine/ledger/late_balances",
        "engine/ledger/checkpoints", "engine/ledger/columns", "engine/ledger/embedded", "engine/ledger/flags",
        "engine/bulk_statements", "engine/id_tree", "engine/recent_entries", "engine/ledger/moves",
        "engine/ledger/paging", "engine/ledger/queries", "engine/ledger/recent_ids", "engine/ledger/refusals",
        "engine/ledger/sqlite_file", "engine/ledger/storage", "engine/ledger/transfer_rules", "engine/ledger/writer",
    ),
    RECORDS: ("engine/recorder", "engine/records/*"),
    THREADS: ("engine/writer_thread",),
    STREAMS: (
        "engine/endpoints", "engine/outbox", "engine/outbox_*", "engine/stream_*", "engine/streams",
        "engine/user_streams", "schema/webhooks",
    ),
    BACKGROUND: (
        "engine/backlog", "actors/__init__", "actors/backoff", "actors/scanner", "actors/shutdown", "actors/supervisor",
        "engine/__init__", "engine/adoption", "engine/alerts", "engine/assembly", "engine/audit", "engine/backends",
        "engine/balances", "engine/comparison", "engine/crash_points", "engine/former_lives", "engine/garbage",
        "engine/heartbeat", "engine/history", "engine/leases", "engine/lives", "engine/parts", "engine/patience",
        "engine/readiness", "engine/rebuilding", "engine/rebuilt_rows", "engine/reconciler", "engine/reconciliation",
        "engine/recovery", "engine/resolution", "engine/settings", "engine/wiring", "schema/__init__",
    ),
}  # fmt: skip
"""Modules by their path in the package, without ``.py``; a star stands for any."""

LIBRARIES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("trio", "outcome", "sortedcontainers", "attr"), TRIO),
    **dict.fromkeys(
        ("h11", "h2", "hypercorn", "quart", "quart_trio", "trio_websocket", "werkzeug", "wsproto", "jwt"), DOOR
    ),
    **dict.fromkeys(("hdrh", "click"), LOAD),
    "cassandra": RECORDS,
    "tigerbeetle": CLIENT,
}
"""Other packages; those that are not named belong to their callers."""

_OURS: Final = re.compile(r"transfer_engine/((?:benchmarks|http|engine|actors|schema)/[\w/]+)\.py:\d+\)$")
_PACKAGE: Final = re.compile(r"(?:site|dist)-packages/(\w+)[/.]")
_THREAD: Final = re.compile(r"thread \((\d+)\)")


def stages_of_module(module: str) -> list[str]:
    """Return the stages that claim a module (``engine/ledger/packing``): exactly one, in a table that is in order."""
    return [stage for stage, patterns in MODULES.items() if any(fnmatchcase(module, pattern) for pattern in patterns)]


@lru_cache(maxsize=10_000)
def stage_of_frame(frame: str) -> str | None:
    """Return the stage of one frame, ``function (path:line)``; None where it is its caller's."""
    ours = _OURS.search(frame)
    if ours is not None:
        return next(iter(stages_of_module(ours[1])), OTHER)
    package = _PACKAGE.search(frame)
    return LIBRARIES.get(package[1]) if package is not None else None


def stage_of_stack(frames: Sequence[str]) -> str:
    """Return the stage of a sample, from its frames, the innermost last."""
    return next((stage for frame in reversed(frames) if (stage := stage_of_frame(frame)) is not None), OTHER)


def count_samples(lines: Iterable[str]) -> dict[int, Counter[str]]:
    """Count the samples of each thread by stage.

    Args:
        lines: py-spy's raw format with threads: ``thread (1234): name;frame;frame 17``, 17 being the samples.
    """
    threads: dict[int, Counter[str]] = {}
    for line in lines:
        stack, _, count = line.rpartition(" ")
        thread = _THREAD.match(stack)
        if thread is not None and count.isdigit():
            samples = threads.setdefault(int(thread[1]), Counter())
            samples[stage_of_stack(stack.split(";")[1:])] += int(count)
    return threads


def share_out(samples: Mapping[int, Counter[str]], cpu_s: Mapping[int, float]) -> dict[str, float]:
    """Return each stage's share of a process's CPU, the largest first; they add up to 1, or there are none.

    A thread's CPU is shared out as its samples are: on a busy machine one that waits for a core is sampled as well.

    Args:
        samples: of each thread, by stage.
        cpu_s: each thread's CPU seconds, as far as it is known.
    """
    used: defaultdict[str, float] = defaultdict(float)
    for thread in samples.keys() | cpu_s.keys():
        by_stage = samples.get(thread, Counter({NATIVE: 1}))
        total = by_stage.total()
        for stage, count in by_stage.items():
            used[stage] += cpu_s.get(thread, 0.0) * count / total
    whole = sum(used.values())
    return {stage: used[stage] / whole for stage in sorted(used, key=lambda stage: -used[stage]) if used[stage]}
