# ruff: noqa: C901, PLR0911, PLR0912  # one long list of checks in order is the point
"""A second opinion on TigerBeetle's rules: slow, plain, and sharing no code with the embedded ledger.

Everything is a dictionary of the client's own dataclasses. A chain of linked events is undone by going back to a copy
of everything. Checks stand one below the other in TigerBeetle's order of precedence.
"""

import copy
from dataclasses import replace

import tigerbeetle as tb
from tigerbeetle import CreateAccountStatus as AccountStatus
from tigerbeetle import CreateTransferStatus as Status

NUMBER_MAX = 2**128 - 1
BURNING = {
    Status.DEBIT_ACCOUNT_NOT_FOUND,
    Status.CREDIT_ACCOUNT_NOT_FOUND,
    Status.PENDING_TRANSFER_NOT_FOUND,
    Status.EXCEEDS_CREDITS,
    Status.EXCEEDS_DEBITS,
    Status.DEBIT_ACCOUNT_ALREADY_CLOSED,
    Status.CREDIT_ACCOUNT_ALREADY_CLOSED,
}


class LedgerModel:
    """What a ledger must answer, and what it must then contain."""

    def __init__(self) -> None:
        self.accounts: dict[int, tb.Account] = {}
        self.transfers: dict[int, tb.Transfer] = {}
        self.outcome_of_hold: dict[int, str] = {}
        self.burnt: set[int] = set()
        self.history: dict[int, list[tb.AccountBalance]] = {}

    # Batches

    def create_accounts(self, events: list[tb.Account], timestamp_first: int) -> list[tuple[int, AccountStatus]]:
        return self._batch(events, timestamp_first, self._create_account, AccountStatus)

    def create_transfers(self, events: list[tb.Transfer], timestamp_first: int) -> list[tuple[int, Status]]:
        return self._batch(events, timestamp_first, self._create_transfer, Status)

    def _batch(self, events, timestamp_first, create, statuses):
        """Each event's (timestamp, status)."""
        answers = []
        chain_first = None
        before_chain = None
        failed_at = None
        for index, event in enumerate(events):
            timestamp = timestamp_first + index
            linked = has(event, tb.TransferFlags.LINKED)
            last = index == len(events) - 1
            if linked and chain_first is None:
                chain_first = index
                before_chain = self._copy_books()
                failed_at = None
            if linked and last:
                answer = (timestamp, statuses.LINKED_EVENT_CHAIN_OPEN)
            elif chain_first is not None and failed_at is not None:
                answer = (timestamp, statuses.LINKED_EVENT_FAILED)
            elif has(event, type(event.flags).IMPORTED):
                answer = (timestamp, statuses.IMPORTED_EVENT_NOT_EXPECTED)
            elif event.timestamp != 0:
                answer = (timestamp, statuses.TIMESTAMP_MUST_BE_ZERO)
            else:
                answer = create(event, timestamp)
            answers.append(answer)
            if chain_first is None:
                continue
            if answer[1] != statuses.CREATED and failed_at is None:
                failed_at = index
                self._restore_books(before_chain)
                for earlier in range(chain_first, index):
                    answers[earlier] = (timestamp_first + earlier, statuses.LINKED_EVENT_FAILED)
            if not linked or last:
                chain_first = None
                failed_at = None
        return answers

    def _copy_books(self):
        return copy.deepcopy((self.accounts, self.transfers, self.outcome_of_hold, self.history))

    def _restore_books(self, books) -> None:
        self.accounts, self.transfers, self.outcome_of_hold, self.history = books

    def expire(self, now_ns: int) -> None:
        """Give back all holds whose time is over."""
        for hold_id, outcome in list(self.outcome_of_hold.items()):
            hold = self.transfers[hold_id]
            if outcome == "pending" and hold.timeout and expires_at(hold) <= now_ns:
                self._release(hold)
                self._reopen(hold)
                self.outcome_of_hold[hold_id] = "expired"

    # Accounts

    def _create_account(self, event: tb.Account, timestamp: int) -> tuple[int, AccountStatus]:
        status = self._account_status(event)
        if status == AccountStatus.EXISTS:
            return self.accounts[event.id].timestamp, status
        if status == AccountStatus.CREATED:
            self.accounts[event.id] = replace(event, flags=tb.AccountFlags(int(event.flags)), timestamp=timestamp)
            self.history[event.id] = []
        return timestamp, status

    def _account_status(self, event: tb.Account) -> AccountStatus:
        if int(event.flags) >= 64:
            return AccountStatus.RESERVED_FLAG
        if event.id == 0:
            return AccountStatus.ID_MUST_NOT_BE_ZERO
        if event.id == NUMBER_MAX:
            return AccountStatus.ID_MUST_NOT_BE_INT_MAX
        if event.id in self.accounts:
            there = self.accounts[event.id]
            for field in ("flags", "user_data_128", "user_data_64", "user_data_32", "ledger", "code"):
                if getattr(event, field) != getattr(there, field):
                    return AccountStatus[f"EXISTS_WITH_DIFFERENT_{field.upper()}"]
            return AccountStatus.EXISTS
        if has(event, tb.AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS) and has(
            event, tb.AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS
        ):
            return AccountStatus.FLAGS_ARE_MUTUALLY_EXCLUSIVE
        for field in ("debits_pending", "debits_posted", "credits_pending", "credits_posted"):
            if getattr(event, field) != 0:
                return AccountStatus[f"{field.upper()}_MUST_BE_ZERO"]
        if event.ledger == 0:
            return AccountStatus.LEDGER_MUST_NOT_BE_ZERO
        if event.code == 0:
            return AccountStatus.CODE_MUST_NOT_BE_ZERO
        return AccountStatus.CREATED

    # Transfers

    def _create_transfer(self, event: tb.Transfer, timestamp: int) -> tuple[int, Status]:
        if int(event.flags) >= 512:
            return timestamp, Status.RESERVED_FLAG
        if event.id == 0:
            return timestamp, Status.ID_MUST_NOT_BE_ZERO
        if event.id == NUMBER_MAX:
            return timestamp, Status.ID_MUST_NOT_BE_INT_MAX
        if event.id in self.transfers:
            status = self._exists(event, self.transfers[event.id])
            if status == Status.EXISTS:
                return self.transfers[event.id].timestamp, status
            return timestamp, status
        if event.id in self.burnt:
            return timestamp, Status.ID_ALREADY_FAILED
        status = self._settle(event, timestamp) if settles(event) else self._move(event, timestamp)
        if status in BURNING:
            self.burnt.add(event.id)
        return timestamp, status

    def _exists(self, event: tb.Transfer, there: tb.Transfer) -> Status:
        for field in ("flags", "pending_id", "timeout"):
            if getattr(event, field) != getattr(there, field):
                return Status[f"EXISTS_WITH_DIFFERENT_{field.upper()}"]
        expected = event
        if settles(event):
            expected = self._as_the_hold_says(event, self.transfers[event.pending_id])
        elif has(event, tb.TransferFlags.BALANCING_DEBIT) or has(event, tb.TransferFlags.BALANCING_CREDIT):
            expected = replace(event, amount=min(event.amount, there.amount))
        for field in (
            "debit_account_id",
            "credit_account_id",
            "amount",
            "user_data_128",
            "user_data_64",
            "user_data_32",
            "ledger",
            "code",
        ):
            if getattr(expected, field) != getattr(there, field):
                return Status[f"EXISTS_WITH_DIFFERENT_{field.upper()}"]
        return Status.EXISTS

    def _as_the_hold_says(self, event: tb.Transfer, hold: tb.Transfer) -> tb.Transfer:
        """Fill in what a post or void left out."""
        filled = replace(event)
        for field in (
            "debit_account_id",
            "credit_account_id",
            "user_data_128",
            "user_data_64",
            "user_data_32",
            "ledger",
            "code",
        ):
            if getattr(event, field) == 0:
                setattr(filled, field, getattr(hold, field))
        whole_amount = 0 if has(event, tb.TransferFlags.VOID_PENDING_TRANSFER) else NUMBER_MAX
        if event.amount == whole_amount:
            filled.amount = hold.amount
        return filled

    def _move(self, event: tb.Transfer, timestamp: int) -> Status:
        pending = has(event, tb.TransferFlags.PENDING)
        closes_debit = has(event, tb.TransferFlags.CLOSING_DEBIT)
        closes_credit = has(event, tb.TransferFlags.CLOSING_CREDIT)
        if event.debit_account_id == 0:
            return Status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
        if event.debit_account_id == NUMBER_MAX:
            return Status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX
        if event.credit_account_id == 0:
            return Status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
        if event.credit_account_id == NUMBER_MAX:
            return Status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX
        if event.debit_account_id == event.credit_account_id:
            return Status.ACCOUNTS_MUST_BE_DIFFERENT
        if event.pending_id != 0:
            return Status.PENDING_ID_MUST_BE_ZERO
        if not pending and event.timeout != 0:
            return Status.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
        if not pending and (closes_debit or closes_credit):
            return Status.CLOSING_TRANSFER_MUST_BE_PENDING
        if event.ledger == 0:
            return Status.LEDGER_MUST_NOT_BE_ZERO
        if event.code == 0:
            return Status.CODE_MUST_NOT_BE_ZERO
        if event.debit_account_id not in self.accounts:
            return Status.DEBIT_ACCOUNT_NOT_FOUND
        if event.credit_account_id not in self.accounts:
            return Status.CREDIT_ACCOUNT_NOT_FOUND
        debit = self.accounts[event.debit_account_id]
        credit = self.accounts[event.credit_account_id]
        if debit.ledger != credit.ledger:
            return Status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER
        if event.ledger != debit.ledger:
            return Status.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS
        if has(debit, tb.AccountFlags.CLOSED):
            return Status.DEBIT_ACCOUNT_ALREADY_CLOSED
        if has(credit, tb.AccountFlags.CLOSED):
            return Status.CREDIT_ACCOUNT_ALREADY_CLOSED
        amount = event.amount
        if has(event, tb.TransferFlags.BALANCING_DEBIT):
            amount = min(amount, max(0, debit.credits_posted - debit.debits_posted - debit.debits_pending))
        if has(event, tb.TransferFlags.BALANCING_CREDIT):
            amount = min(amount, max(0, credit.debits_posted - credit.credits_posted - credit.credits_pending))
        if pending and debit.debits_pending + amount > NUMBER_MAX:
            return Status.OVERFLOWS_DEBITS_PENDING
        if pending and credit.credits_pending + amount > NUMBER_MAX:
            return Status.OVERFLOWS_CREDITS_PENDING
        if debit.debits_posted + amount > NUMBER_MAX:
            return Status.OVERFLOWS_DEBITS_POSTED
        if credit.credits_posted + amount > NUMBER_MAX:
            return Status.OVERFLOWS_CREDITS_POSTED
        if debit.debits_posted + debit.debits_pending + amount > NUMBER_MAX:
            return Status.OVERFLOWS_DEBITS
        if credit.credits_posted + credit.credits_pending + amount > NUMBER_MAX:
            return Status.OVERFLOWS_CREDITS
        if timestamp + event.timeout * 10**9 > 2**63 - 1:
            return Status.OVERFLOWS_TIMEOUT
        if (
            has(debit, tb.AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)
            and debit.debits_posted + debit.debits_pending + amount > debit.credits_posted
        ):
            return Status.EXCEEDS_CREDITS
        if (
            has(credit, tb.AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS)
            and credit.credits_posted + credit.credits_pending + amount > credit.debits_posted
        ):
            return Status.EXCEEDS_DEBITS

        if pending:
            debit.debits_pending += amount
            credit.credits_pending += amount
            self.outcome_of_hold[event.id] = "pending"
        else:
            debit.debits_posted += amount
            credit.credits_posted += amount
        if closes_debit:
            debit.flags = tb.AccountFlags(int(debit.flags) | int(tb.AccountFlags.CLOSED))
        if closes_credit:
            credit.flags = tb.AccountFlags(int(credit.flags) | int(tb.AccountFlags.CLOSED))
        self._record(replace(event, amount=amount, timestamp=timestamp))
        return Status.CREATED

    def _settle(self, event: tb.Transfer, timestamp: int) -> Status:
        posts = has(event, tb.TransferFlags.POST_PENDING_TRANSFER)
        voids = has(event, tb.TransferFlags.VOID_PENDING_TRANSFER)
        if posts and voids:
            return Status.FLAGS_ARE_MUTUALLY_EXCLUSIVE
        for name in ("PENDING", "BALANCING_DEBIT", "BALANCING_CREDIT", "CLOSING_DEBIT", "CLOSING_CREDIT"):
            if has(event, tb.TransferFlags[name]):
                return Status.FLAGS_ARE_MUTUALLY_EXCLUSIVE
        if event.pending_id == 0:
            return Status.PENDING_ID_MUST_NOT_BE_ZERO
        if event.pending_id == NUMBER_MAX:
            return Status.PENDING_ID_MUST_NOT_BE_INT_MAX
        if event.pending_id == event.id:
            return Status.PENDING_ID_MUST_BE_DIFFERENT
        if event.timeout != 0:
            return Status.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
        if event.pending_id not in self.transfers:
            return Status.PENDING_TRANSFER_NOT_FOUND
        hold = self.transfers[event.pending_id]
        if not has(hold, tb.TransferFlags.PENDING):
            return Status.PENDING_TRANSFER_NOT_PENDING
        filled = self._as_the_hold_says(event, hold)
        for field in ("debit_account_id", "credit_account_id", "ledger", "code"):
            if getattr(filled, field) != getattr(hold, field):
                return Status[f"PENDING_TRANSFER_HAS_DIFFERENT_{field.upper()}"]
        if filled.amount > hold.amount:
            return Status.EXCEEDS_PENDING_TRANSFER_AMOUNT
        if voids and filled.amount < hold.amount:
            return Status.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT
        outcome = self.outcome_of_hold[hold.id]
        if outcome == "posted":
            return Status.PENDING_TRANSFER_ALREADY_POSTED
        if outcome == "voided":
            return Status.PENDING_TRANSFER_ALREADY_VOIDED
        if outcome == "expired" or (hold.timeout and expires_at(hold) <= timestamp):
            return Status.PENDING_TRANSFER_EXPIRED
        debit = self.accounts[hold.debit_account_id]
        credit = self.accounts[hold.credit_account_id]
        if posts and has(debit, tb.AccountFlags.CLOSED):
            return Status.DEBIT_ACCOUNT_ALREADY_CLOSED
        if posts and has(credit, tb.AccountFlags.CLOSED):
            return Status.CREDIT_ACCOUNT_ALREADY_CLOSED

        self._release(hold)
        if posts:
            self.outcome_of_hold[hold.id] = "posted"
            debit.debits_posted += filled.amount
            credit.credits_posted += filled.amount
        else:
            self.outcome_of_hold[hold.id] = "voided"
            self._reopen(hold)
        self._record(replace(filled, timestamp=timestamp))
        return Status.CREATED

    def _release(self, hold: tb.Transfer) -> None:
        self.accounts[hold.debit_account_id].debits_pending -= hold.amount
        self.accounts[hold.credit_account_id].credits_pending -= hold.amount

    def _reopen(self, hold: tb.Transfer) -> None:
        for side, flag in (
            (hold.debit_account_id, tb.TransferFlags.CLOSING_DEBIT),
            (hold.credit_account_id, tb.TransferFlags.CLOSING_CREDIT),
        ):
            if has(hold, flag):
                account = self.accounts[side]
                account.flags = tb.AccountFlags(int(account.flags) & ~int(tb.AccountFlags.CLOSED))

    def _record(self, transfer: tb.Transfer) -> None:
        self.transfers[transfer.id] = transfer
        for account_id in (transfer.debit_account_id, transfer.credit_account_id):
            account = self.accounts[account_id]
            self.history[account_id].append(
                tb.AccountBalance(
                    account.debits_pending,
                    account.debits_posted,
                    account.credits_pending,
                    account.credits_posted,
                    transfer.timestamp,
                )
            )

    # Reading

    def get_account_transfers(self, wanted: tb.AccountFilter) -> list[tb.Transfer]:
        flags = int(wanted.flags)
        if wanted.account_id in (0, NUMBER_MAX) or flags & 3 == 0 or flags >= 8:
            return []
        found = [
            transfer
            for transfer in self.transfers.values()
            if (flags & 1 and transfer.debit_account_id == wanted.account_id)
            or (flags & 2 and transfer.credit_account_id == wanted.account_id)
        ]
        fields = ("user_data_128", "user_data_64", "user_data_32", "code")
        return select(found, wanted, fields, reverse=bool(flags & 4))

    def get_account_balances(self, wanted: tb.AccountFilter) -> list[tb.AccountBalance]:
        account = self.accounts.get(wanted.account_id)
        if account is None or not has(account, tb.AccountFlags.HISTORY):
            return []
        at = {balance.timestamp: balance for balance in self.history[wanted.account_id]}
        return [at[transfer.timestamp] for transfer in self.get_account_transfers(wanted)]

    def accounts_with_history(self) -> list[int]:
        return [one.id for one in self.accounts.values() if has(one, tb.AccountFlags.HISTORY)]

    def query_accounts(self, wanted: tb.QueryFilter) -> list[tb.Account]:
        return self._query(list(self.accounts.values()), wanted)

    def query_transfers(self, wanted: tb.QueryFilter) -> list[tb.Transfer]:
        return self._query(list(self.transfers.values()), wanted)

    def _query(self, objects, wanted):
        if int(wanted.flags) >= 2:
            return []
        fields = ("user_data_128", "user_data_64", "user_data_32", "ledger", "code")
        return select(objects, wanted, fields, reverse=bool(int(wanted.flags) & 1))


def select(objects, wanted, fields, *, reverse):
    """Those objects that a filter lets through, by timestamp."""
    earliest, latest = wanted.timestamp_min, wanted.timestamp_max
    if earliest >= 2**63 or latest >= 2**63 or (latest and earliest > latest) or wanted.limit == 0:
        return []
    found = [
        one
        for one in objects
        if one.timestamp >= earliest
        and (not latest or one.timestamp <= latest)
        and all(getattr(wanted, field) in (0, getattr(one, field)) for field in fields)
    ]
    found.sort(key=lambda one: one.timestamp, reverse=reverse)
    return found[: wanted.limit]


def expires_at(hold: tb.Transfer) -> int:
    return hold.timestamp + hold.timeout * 10**9


def has(one: tb.Account | tb.Transfer, flag: tb.AccountFlags | tb.TransferFlags) -> bool:
    return int(one.flags) & int(flag) != 0


def settles(event: tb.Transfer) -> bool:
    return has(event, tb.TransferFlags.POST_PENDING_TRANSFER) or has(event, tb.TransferFlags.VOID_PENDING_TRANSFER)
