"""How work runs: mailboxes, actors, group commit, recovery on a clock, supervision.

This package knows tasks and channels, not money: what runs, in what order, and what happens when it dies.
"""

from transfer_engine.actors.backoff import Backoff, CrashWindow
from transfer_engine.actors.group_commit import (
    FlushCrashed,
    FlushMiscounted,
    GroupCommit,
    GroupCommitFull,
    GroupCommitStatistics,
)
from transfer_engine.actors.mailbox import Mailbox, MailboxFull
from transfer_engine.actors.pool import ActorPool, PoolClosed, PoolEscalation, PoolStatistics
from transfer_engine.actors.scanner import Scanner, ScannerStatistics
from transfer_engine.actors.shutdown import bounded_cleanup, drain_within
from transfer_engine.actors.supervisor import (
    ChildSpec,
    ChildState,
    ChildStatistics,
    Restart,
    Supervisor,
    SupervisorEscalation,
    SupervisorStatistics,
)

__all__ = [
    "ActorPool",
    "Backoff",
    "ChildSpec",
    "ChildState",
    "ChildStatistics",
    "CrashWindow",
    "FlushCrashed",
    "FlushMiscounted",
    "GroupCommit",
    "GroupCommitFull",
    "GroupCommitStatistics",
    "Mailbox",
    "MailboxFull",
    "PoolClosed",
    "PoolEscalation",
    "PoolStatistics",
    "Restart",
    "Scanner",
    "ScannerStatistics",
    "Supervisor",
    "SupervisorEscalation",
    "SupervisorStatistics",
    "bounded_cleanup",
    "drain_within",
]
