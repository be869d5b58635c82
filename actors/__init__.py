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

__all__ = [
    "ActorPool",
    "Backoff",
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
]
