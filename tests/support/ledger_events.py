"""Random events, filters and batches for ledgers: mostly sensible, often not, always from a few ids so that they meet.

A plain generator over ``random.Random`` and a look at the model, not hypothesis strategies: those like the extremes so
much that a hold is hardly ever taken, and then nothing can be posted.
"""

from dataclasses import fields, replace
from random import Random

import tigerbeetle as tb

from support.ledger_model import LedgerModel
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX
from transfer_engine.engine.ledger.recent_ids import PREFIX_SHIFT
from transfer_engine.engine.recent_entries import KEY_MODULUS

NUMBER_MAX = 2**128 - 1
SAME_KEY = KEY_MODULUS << PREFIX_SHIFT
"""Ids so far apart have the same key in the embedded ledger's tree of ids."""
TRANSFER_FIELDS = [field.name for field in fields(tb.Transfer) if field.name not in ("id", "timestamp")]
ACCOUNT_FIELDS = [field.name for field in fields(tb.Account) if field.name not in ("id", "timestamp")]


class EventGenerator:
    """Events for one ledger whose ids all lie at and above ``base``, a multiple of 16."""

    def __init__(
        self, random: Random, model: LedgerModel, *, base: int, ledger: int = 1, timeouts=(0, 0, 1, 2)
    ) -> None:
        self.random = random
        self.model = model
        self.base = base
        self.ledger = ledger
        self.timeouts = timeouts
        self.account_ids = [base + number for number in range(1, 33)]
        """The first eight are made at the start, the others when an event happens to be right."""
        apart = SAME_KEY if base < NUMBER_MAX // 2 else -SAME_KEY
        self.moved = [base + (number << 8) + twin for number in range(8, 24) for twin in (0, apart)]
        """What moves may be named after: apart from each other and from everything else."""
        self.transfer_ids = [base + number + apart * (number & 1) for number in range(1, 97)]
        self.transfer_ids += [one | leg for one in self.moved for leg in (1, 2)]
        self.money_ids = [base + number for number in (1001, 1002, 1003)]

    def chance(self, percent: float) -> bool:
        return self.random.random() * 100 < percent

    def one_of(self, *values):
        return self.random.choice(values)

    # Accounts

    def first_accounts(self) -> list[tb.Account]:
        """One of each kind, and one on another ledger."""
        flags = [0, 0, 2, 4, 8, 10, 12]
        accounts = [
            tb.Account(id=account_id, ledger=self.ledger, code=1, flags=tb.AccountFlags(flag))
            for account_id, flag in zip(self.account_ids, flags, strict=False)
        ]
        return [*accounts, tb.Account(id=self.account_ids[7], ledger=self.ledger + 1, code=1)]

    def first_money(self) -> list[tb.Transfer]:
        return [
            tb.Transfer(
                id=transfer_id,
                debit_account_id=self.account_ids[0],
                credit_account_id=self.account_ids[number],
                amount=100,
                ledger=self.ledger,
                code=1,
            )
            for transfer_id, number in zip(self.money_ids, (1, 2, 5), strict=True)
        ]

    def account(self) -> tb.Account:
        if self.model.accounts and self.chance(35):
            there = self.random.choice(list(self.model.accounts.values()))
            event = replace(there, debits_pending=0, debits_posted=0, credits_pending=0, credits_posted=0, timestamp=0)
        else:
            event = tb.Account(id=self.random.choice(self.account_ids), ledger=self.ledger, code=1)
            event.flags = tb.AccountFlags(self.one_of(0, 2, 4, 8, 10))
        if self.chance(60):
            self.change(event, self.random.choice([*ACCOUNT_FIELDS, "id", "timestamp", "linked"]))
        return event

    # Transfers

    def transfer(self) -> tb.Transfer:
        open_holds = [hold for hold, outcome in self.model.outcome_of_hold.items() if outcome == "pending"]
        if self.model.transfers and self.chance(20):
            there = self.random.choice(list(self.model.transfers.values()))
            event = replace(there, timestamp=0)
            if int(event.flags) & 12 and self.chance(50):
                event.amount = self.one_of(0, NUMBER_MAX)
        elif self.model.outcome_of_hold and self.chance(45):
            hold_id = self.random.choice(
                open_holds if open_holds and self.chance(80) else list(self.model.outcome_of_hold)
            )
            event = self.settlement(self.model.transfers[hold_id])
        else:
            event = self.movement()
        while self.chance(25):
            self.change(event, self.random.choice([*TRANSFER_FIELDS, "id", "timestamp", "linked"]))
        return event

    def transfer_id(self) -> int:
        """Mostly one that is not taken yet."""
        ids = self.transfer_ids[: 96 if self.chance(80) else None]
        first, second = self.random.sample(ids, 2)
        return second if first in self.model.transfers and self.chance(75) else first

    def movement(self) -> tb.Transfer:
        debit, credit = self.random.sample(self.account_ids[:6], 2)
        flags = self.one_of(0, 0, 2, 2, 2, 0x10, 0x20, 0x12, 0x30)
        if self.chance(4):
            flags = self.one_of(0x42, 0x82, 0xC2)
        return tb.Transfer(
            id=self.transfer_id(),
            debit_account_id=debit,
            credit_account_id=credit,
            amount=self.amount(),
            user_data_128=self.one_of(0, 7, self.base + 16),
            timeout=self.random.choice(self.timeouts) if flags & 2 else 0,
            ledger=self.ledger,
            code=1,
            flags=tb.TransferFlags(flags),
        )

    def settlement(self, hold: tb.Transfer) -> tb.Transfer:
        flags = self.one_of(4, 4, 8)
        event = tb.Transfer(
            id=self.transfer_id(),
            amount=NUMBER_MAX if flags == 4 else 0,
            pending_id=hold.id,
            flags=tb.TransferFlags(flags),
        )
        if self.chance(50):
            for field in ("debit_account_id", "credit_account_id", "ledger", "code"):
                setattr(event, field, getattr(hold, field))
        if self.chance(25):
            event.amount = self.random.randint(0, min(hold.amount, 50) + 1)
        return event

    def amount(self) -> int:
        if self.chance(5):
            return self.one_of(2**63 - 1, 2**63, 2**64, 2**127, NUMBER_MAX - 150, NUMBER_MAX - 1, NUMBER_MAX)
        return self.random.randint(0, 40)

    def change(self, event: tb.Account | tb.Transfer, field: str) -> None:
        """Make one field something else, mostly something that ids, kinds and bounds elsewhere make meaningful."""
        flags_type = type(event.flags)
        if field == "linked":
            event.flags = flags_type(int(event.flags) ^ 1)
        elif field == "flags":
            known = self.random.choice(list(flags_type))
            event.flags = flags_type(int(event.flags) ^ (0x8000 if self.chance(5) else int(known)))
        elif field == "pending_id":
            event.pending_id = self.one_of(0, event.id, NUMBER_MAX, self.random.choice(self.transfer_ids))
        elif field == "id":
            ids = self.transfer_ids if isinstance(event, tb.Transfer) else self.account_ids
            event.id = self.one_of(0, NUMBER_MAX, *ids[:20])
        elif field.endswith("account_id"):
            event.__setattr__(field, self.one_of(0, NUMBER_MAX, *self.account_ids[:9], *self.account_ids[:9]))
        elif field == "ledger":
            event.ledger = self.one_of(0, self.ledger, self.ledger + 1)
        elif field == "timeout":
            event.timeout = self.one_of(*self.timeouts, 2**32 - 1)
        elif field == "timestamp":
            event.timestamp = self.one_of(0, 0, 0, 1)
        elif field == "amount":
            event.amount = self.amount()
        elif field.startswith("user_data"):
            bits = int(field.rsplit("_", 1)[1])
            event.__setattr__(
                field, self.one_of(0, 7, 2 ** (bits - 1), (self.base + 16) % 2**bits, (event.id & ~15) % 2**bits)
            )
        elif field == "code":
            event.code = self.one_of(0, 1, 2, 2**15, 2**16 - 1)
        else:
            event.__setattr__(field, self.one_of(0, 1, 2))

    # Batches

    def batch(self, make) -> list:
        """Up to eight events, seldom many more, at times one of them twice, at times in another order."""
        batch = [make() for _ in range(self.random.randint(1, 60 if self.chance(3) else 8))]
        if self.chance(20):
            batch.append(replace(self.random.choice(batch)))
        if self.chance(20):
            self.random.shuffle(batch)
        if self.chance(70) and int(batch[-1].flags) & 1:
            batch[-1].flags = type(batch[-1].flags)(int(batch[-1].flags) & ~1)
        return self.not_imported(batch)

    def not_imported(self, batch: list) -> list:
        """TigerBeetle imports a whole batch if the first event says so. The embedded ledger does not import."""
        flags_type = type(batch[0].flags)
        batch[0].flags = flags_type(int(batch[0].flags) & ~int(flags_type.IMPORTED))
        return batch

    def moves(self) -> list[tb.Transfer]:
        """A batch of holds and posts side by side, as the engine sends them, at times with others between or around."""
        batch = []
        for _ in range(self.random.randint(1, 5)):
            batch += self.one_of(self.move, self.move, self.move, self.hold_and_post, lambda: [self.movement()])()
        if self.chance(15):
            batch += [replace(event) for event in batch[:2]]
        if self.chance(15):
            self.change(self.random.choice(batch), "linked")
        return self.not_imported(batch)

    def move(self) -> list[tb.Transfer]:
        """A hold and a post that agree in everything, nearly always."""
        req_id = self.random.choice(self.moved)
        debit, credit = self.random.sample(self.account_ids[: 3 if self.chance(70) else 6], 2)
        hold = tb.Transfer(
            id=req_id | 1,
            debit_account_id=debit,
            credit_account_id=credit,
            amount=self.amount(),
            user_data_128=req_id,
            user_data_64=self.one_of(0, 7, 2**63 - 1, 2**63, 2**64 - 1),
            ledger=self.ledger,
            code=1,
            flags=tb.TransferFlags.PENDING,
        )
        post = replace(
            hold,
            id=req_id | self.one_of(2, 2, 2, 4),
            pending_id=hold.id,
            amount=self.one_of(NUMBER_MAX, hold.amount),
            flags=tb.TransferFlags.POST_PENDING_TRANSFER,
        )
        while self.chance(20):
            self.change(self.one_of(hold, post), self.random.choice([*TRANSFER_FIELDS, "id", "timestamp"]))
        return [hold, post]

    def hold_and_post(self) -> list[tb.Transfer]:
        """Two events of one move, as an engine might send them."""
        hold = self.movement()
        hold.flags = tb.TransferFlags.PENDING
        post = self.settlement(hold)
        return [hold, post]

    def full_batch(self, number: int) -> list[tb.Transfer]:
        """As many transfers as one request takes, most of them sensible, without a look at the model."""
        ids = [self.base + (number << 40) + (one << 20) for one in range(1, BATCH_EVENTS_MAX)]
        batch: list[tb.Transfer] = []
        holds: list[tb.Transfer] = []
        for _ in range(BATCH_EVENTS_MAX):
            if batch and self.chance(10):
                event = replace(self.random.choice(batch))
            elif holds and self.chance(40):
                event = replace(self.settlement(self.random.choice(holds[-9:])), id=self.random.choice(ids))
            else:
                event = replace(self.movement(), id=self.random.choice(ids), amount=self.random.randint(0, 9))
                event.flags = tb.TransferFlags(int(event.flags) & 0x32)
                if int(event.flags) & 2:
                    holds.append(event)
            if self.chance(5):
                self.change(event, "linked")
            batch.append(event)
        return batch

    def near_the_top(self) -> list[tb.Transfer]:
        """Holds and moves back and forth between two accounts without limits, until numbers overflow."""
        batch = [self.movement() for _ in range(4)]
        for event in batch:
            event.flags = tb.TransferFlags(self.one_of(0, 2))
            event.timeout = 0
            event.debit_account_id, event.credit_account_id = self.random.sample(self.account_ids[:2], 2)
            event.amount = self.one_of(2**126, 2**127 - 1, 2**127, NUMBER_MAX - 2**127, NUMBER_MAX)
        return batch

    # Filters

    def moment(self) -> int:
        there = [one.timestamp for one in self.model.transfers.values()]
        if there and self.chance(60):
            return self.random.choice(there) + self.one_of(-1, 0, 0, 1)
        return self.one_of(0, 0, 0, 1, 2**63 - 1, 2**63)

    def account_filter(self) -> tb.AccountFilter:
        return tb.AccountFilter(
            account_id=self.one_of(0, NUMBER_MAX, *self.account_ids[:9], *self.account_ids[:9]),
            **self.user_data(),
            code=self.one_of(0, 0, 0, 1, 2),
            timestamp_min=self.moment() if self.chance(50) else 0,
            timestamp_max=self.moment() if self.chance(50) else 0,
            limit=self.one_of(0, 1, 2, 5, 8189, 8189, 8189),
            flags=tb.AccountFilterFlags(self.one_of(0, 1, 2, 3, 3, 5, 6, 7, 7, 8)),
        )

    def query_filter(self, ledgers) -> tb.QueryFilter:
        return tb.QueryFilter(
            **self.user_data(),
            ledger=self.random.choice(ledgers),
            code=self.one_of(0, 0, 0, 1, 2),
            timestamp_min=self.moment() if self.chance(50) else 0,
            timestamp_max=self.moment() if self.chance(50) else 0,
            limit=self.one_of(0, 1, 2, 5, 8189, 8189, 8189),
            flags=tb.QueryFilterFlags(self.one_of(0, 0, 0, 1, 1, 2)),
        )

    def user_data(self) -> dict[str, int]:
        return {
            "user_data_128": self.one_of(0, 0, 0, 7, self.base + 16, self.base + 32, 2**127, *self.moved[:4]),
            "user_data_64": self.one_of(0, 0, 0, 0, 7, 2**63),
            "user_data_32": self.one_of(0, 0, 0, 0, 7, 2**31),
        }
