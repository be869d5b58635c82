"""The submitter: gathers what waits into one `create_transfers`, and asks again until the ledger has answered.

It owns the only way of events to the ledger, first in, first out; look-ups go beside it. A transfer's events are one
unit: never split over two batches, never interleaved. It never concludes anything from a fault: the same batch is sent
again, by the same ids, until an answer comes; callers have their own deadlines.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from tigerbeetle import Account, CreateAccountResult, CreateTransferResult, Transfer

from transfer_engine.actors import Backoff, GroupCommit, GroupCommitStatistics, OnAnswer
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.known_accounts import KnownAccounts
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger, LedgerUnavailable
from transfer_engine.engine.legs import new_account
from transfer_engine.engine.verdicts import ACKNOWLEDGED_ACCOUNT

EVENTS_IN_SHARE_LEAST: Final = 4_096
"""What waits is shared out among the submissions that may start, in parts no smaller than this.

A thousand transfers that go their way together cost a fifth less CPU each than three hundred do, in this process and
in the servers.
"""

Event = TypeVar("Event")
Result = TypeVar("Result")


class Health:
    """Whether a backend answered the last time, and since when it has not."""

    def __init__(self) -> None:
        self.fault = ""

    @property
    def is_good(self) -> bool:
        """Whether the backend is answering."""
        return not self.fault


async def until_answered(
    ask: Callable[[], Awaitable[Result]],
    fault: type[Exception],
    *,
    health: Health,
    alerts: Alerts,
    backoff: Backoff,
    name: str,
) -> Result:
    """Ask until an answer comes; every ``fault`` is followed by a pause and the very same question.

    Cancellation leaves the last question unanswered: its effect is unknown.
    """
    attempt = 0
    while True:
        try:
            answer = await ask()
        except fault as error:
            attempt += 1
            health.fault = str(error) or type(error).__name__
            alerts.critical(f"{name}_unavailable", error=health.fault, attempt=attempt)
            await backoff.sleep(attempt)
        except Exception:
            # A crash is its supervisor's matter. Were the fault left standing, nothing would be let in, ever, to
            # find out that it is over.
            health.fault = ""
            raise
        else:
            health.fault = ""
            return answer


class Submitter:
    """Group commit over the ledger: transfers' events, and the accounts that they need."""

    def __init__(
        self, ledger: Ledger, alerts: Alerts, *, waiting_most: int, known_accounts_most: int, flushes_most: int
    ) -> None:
        self.health = Health()
        self._ledger = ledger
        self._alerts = alerts
        self._backoff = Backoff()
        self._known = KnownAccounts(known_accounts_most)
        self.transfers: GroupCommit[Sequence[Transfer], list[CreateTransferResult]] = GroupCommit(
            "submitter",
            self._flush_transfers,
            weigh=len,
            batch_weight_most=BATCH_EVENTS_MAX,
            batch_weight_least=EVENTS_IN_SHARE_LEAST,
            waiting_weight_most=max(waiting_most, BATCH_EVENTS_MAX),
            flushes_most=flushes_most,
        )
        self.accounts: GroupCommit[Sequence[Account], list[CreateAccountResult]] = GroupCommit(
            "account opener",
            self._flush_accounts,
            weigh=len,
            batch_weight_most=BATCH_EVENTS_MAX,
            waiting_weight_most=max(waiting_most, BATCH_EVENTS_MAX),
        )

    async def submit(self, events: Sequence[Transfer]) -> list[CreateTransferResult]:
        """Return the ledger's answers to ``events``, in order; they are applied as one unit, in order.

        Cancellation while waiting leaves the events on their way: their outcome is found by asking again.
        """
        return await self.transfers.submit(events, admitted=True)

    def submit_nowait(self, events: Sequence[Transfer], on_answer: OnAnswer[list[CreateTransferResult]]) -> None:
        """As :meth:`submit`, the answers being told; see :meth:`transfer_engine.actors.GroupCommit.submit_nowait`."""
        self.transfers.submit_nowait(events, on_answer=on_answer, admitted=True)

    def are_known(self, debit_account_id: int, credit_account_id: int) -> bool:
        """Tell whether both accounts are acknowledged."""
        return debit_account_id in self._known and credit_account_id in self._known

    async def open_accounts(self, account_ids: Sequence[int]) -> list[int]:
        """Make sure that accounts exist as they should; return the ids of those that do not.

        An account that exists with other flags, code or ledger is not ours to use: it is alerted, and its transfers
        stay pending. Cancellation leaves the accounts opened or not; opening them again is harmless.
        """
        missing = [account_id for account_id in dict.fromkeys(account_ids) if account_id not in self._known]
        refused = []
        for start in range(0, len(missing), BATCH_EVENTS_MAX):
            part = missing[start : start + BATCH_EVENTS_MAX]
            results = await self.accounts.submit([new_account(account_id) for account_id in part], admitted=True)
            for account_id, result in zip(part, results, strict=True):
                if result.status in ACKNOWLEDGED_ACCOUNT:
                    self._known.add(account_id)
                else:
                    refused.append(account_id)
                    self._alerts.critical(
                        "account_conflict",
                        account_id=f"{account_id:#x}",
                        status=getattr(result.status, "name", result.status),
                    )
        return refused

    def open_accounts_nowait(self, account_ids: Sequence[int], on_end: Callable[[], None]) -> None:
        """Try to open accounts; ``on_end`` is called once that is over, and :meth:`are_known` tells which are.

        For those that are not, :meth:`open_accounts` says why. ``on_end`` may neither wait nor raise.
        """
        missing = [account_id for account_id in dict.fromkeys(account_ids) if account_id not in self._known]

        def opened(results: list[CreateAccountResult] | None, _: Exception | None) -> None:
            for account_id, result in zip(missing, results or (), strict=results is not None):
                if result.status in ACKNOWLEDGED_ACCOUNT:
                    self._known.add(account_id)
            on_end()

        if not 1 <= len(missing) <= BATCH_EVENTS_MAX:
            on_end()
        else:
            self.accounts.submit_nowait(
                [new_account(account_id) for account_id in missing], on_answer=opened, admitted=True
            )

    async def lookup_accounts(self, account_ids: Sequence[int]) -> list[Account]:
        """Return the accounts that exist, once the ledger has answered. Cancellation leaves nothing behind."""
        return await self._until_answered(lambda: self._ledger.lookup_accounts(account_ids))

    async def lookup_transfers(self, transfer_ids: Sequence[int]) -> list[Transfer]:
        """Return the transfers that exist, once the ledger has answered. Cancellation leaves nothing behind."""
        return await self._until_answered(lambda: self._ledger.lookup_transfers(transfer_ids))

    def statistics(self) -> tuple[GroupCommitStatistics, GroupCommitStatistics]:
        """Return the statistics of the transfers' and of the accounts' group commit."""
        return self.transfers.statistics(), self.accounts.statistics()

    async def _flush_transfers(self, units: list[Sequence[Transfer]]) -> list[list[CreateTransferResult]]:
        events = [event for unit in units for event in unit] if len(units) > 1 else units[0]
        results = await self._until_answered(lambda: self._ledger.create_transfers(events))
        return _split(results, units)

    async def _flush_accounts(self, units: list[Sequence[Account]]) -> list[list[CreateAccountResult]]:
        accounts = [account for unit in units for account in unit]
        results = await self._until_answered(lambda: self._ledger.create_accounts(accounts))
        return _split(results, units)

    async def _until_answered(self, ask: Callable[[], Awaitable[list[Result]]]) -> list[Result]:
        return await until_answered(
            ask, LedgerUnavailable, health=self.health, alerts=self._alerts, backoff=self._backoff, name="ledger"
        )


def _split(results: list[Result], units: Sequence[Sequence[Event]]) -> list[list[Result]]:
    """Give every unit its own results, by their positions in the batch."""
    expected = sum(len(unit) for unit in units)
    if len(results) != expected:
        raise RuntimeError(f"the ledger answered {len(results)} results to {expected} events")
    parts = []
    start = 0
    for unit in units:
        parts.append(results[start : start + len(unit)])
        start += len(unit)
    return parts
