"""How work runs: mailboxes, actors, group commit, recovery on a clock, supervision.

This package knows tasks and channels, not money: what runs, in what order, and what happens when it dies.
"""

from transfer_engine.actors.backoff import Backoff, CrashWindow
from transfer_engine.actors.flush_faults import FlushCrashed, FlushMiscounted, GroupCommitFull
from transfer_engine.actors.group_commit import GroupCommit, GroupCommitStatistics, OnAnswer
from transfer_engine.actors.mailbox import Mailbox, MailboxFull
from transfer_engine.actors.pool import ActorPool, PoolClosed, PoolEscalation
from transfer_engine.actors.pool_statistics import PoolStatistics
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
from transfer_engine.actors.turns import Turn

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
    "OnAnswer",
    "PoolClosed",
    "PoolEscalation",
    "PoolStatistics",
    "Restart",
    "Scanner",
    "ScannerStatistics",
    "Supervisor",
    "SupervisorEscalation",
    "SupervisorStatistics",
    "Turn",
    "bounded_cleanup",
    "drain_within",
]
